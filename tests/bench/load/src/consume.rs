//! Scenario `consume`: reads whole topics and counts records by the headers of their batches.
//!
//! Fetches have no session, so that every broker handles them in the same way. Only received bytes
//! count. The scenario `latency` uses the same functions to read.

use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use bytes::Bytes;
use ropewalk_batch::Header;
use ropewalk_codec::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use serde_json::{Value, json};

use crate::connection::Connection;

pub(crate) const FETCH_VERSION: i16 = 12;

/// Flags of the scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Consume {
    #[arg(long)]
    topic: String,
    #[arg(long, default_value_t = 1)]
    partitions: i32,
    #[arg(long, default_value_t = 4)]
    connections: i32,
    /// Most bytes of one partition in an answer; Kafka's clients ask for 1 MiB.
    #[arg(long, default_value_t = 1 << 20)]
    partition_bytes: i32,
}

impl Consume {
    pub(crate) fn run(&self, bootstrap: &str) -> Result<Value> {
        let started = Instant::now();
        let threads = (0..self.connections.min(self.partitions)).map(|i| {
            let (this, bootstrap) = (self.clone(), bootstrap.to_owned());
            thread::spawn(move || this.one_connection(&bootstrap, i))
        });
        let threads: Vec<_> = threads.collect();
        let (mut records, mut bytes) = (0, 0);
        for thread in threads {
            let (r, b) = thread.join().map_err(|_| anyhow!("a connection panicked"))??;
            records += r;
            bytes += b;
        }
        let seconds = started.elapsed().as_secs_f64();
        Ok(json!({
            "records": records, "seconds": seconds, "records_per_s": records as f64 / seconds,
            "mb_per_s": bytes as f64 / 1e6 / seconds,
        }))
    }

    /// Reads every n-th partition from `first` on to its end, for n connections. Returns records
    /// and bytes.
    fn one_connection(&self, bootstrap: &str, first: i32) -> Result<(u64, u64)> {
        let mut connection = Connection::open(bootstrap)?;
        let mine = (first..self.partitions).step_by(self.connections.max(1) as usize);
        let mut open: Vec<(i32, i64)> = mine.map(|partition| (partition, 0)).collect();
        let (mut records, mut bytes) = (0, 0);
        while !open.is_empty() {
            let request = fetch_request(&self.topic, &open, self.partition_bytes, 0);
            let answer = connection.call(FETCH_VERSION, &request)?;
            for partition in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
                ensure!(partition.error_code == 0, "refused with error {}", partition.error_code);
                let entry = open.iter_mut().find(|(p, _)| *p == partition.partition_index);
                let Some((_, next)) = entry else { continue };
                for batch in batches(&partition.records.to_bytes().unwrap_or_default()) {
                    records += u64::from(batch.0.count.unsigned_abs());
                    bytes += batch.1.len() as u64;
                    *next = batch.0.last_offset() + 1;
                }
                let done = *next >= partition.high_watermark;
                open.retain(|(p, _)| !done || *p != partition.partition_index);
            }
        }
        Ok((records, bytes))
    }
}

/// The complete batches at the front of `bytes`; a fetch may truncate the last one.
pub(crate) fn batches(bytes: &Bytes) -> Vec<(Header, Bytes)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Ok(header) = Header::parse(&bytes[at..]) {
        let end = at + header.size_bytes();
        if end > bytes.len() {
            break;
        }
        found.push((header, bytes.slice(at..end)));
        at = end;
    }
    found
}

pub(crate) fn fetch_request(
    topic: &str,
    from: &[(i32, i64)],
    partition_bytes: i32,
    max_wait_ms: i32,
) -> FetchRequest {
    let partitions = from.iter().map(|(partition, offset)| FetchPartition {
        partition: *partition,
        fetch_offset: *offset,
        partition_max_bytes: partition_bytes,
        ..Default::default()
    });
    let topic =
        FetchTopic { topic: topic.into(), partitions: partitions.collect(), ..Default::default() };
    FetchRequest {
        max_wait_ms,
        min_bytes: 1,
        max_bytes: 50 << 20,
        session_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    }
}

pub(crate) fn fetch(
    connection: &mut Connection,
    request: &FetchRequest,
) -> Result<Vec<(Header, Bytes)>> {
    let answer = connection.call(FETCH_VERSION, request)?;
    let mut found = Vec::new();
    for partition in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
        ensure!(partition.error_code == 0, "refused with error {}", partition.error_code);
        found.extend(batches(&partition.records.to_bytes().unwrap_or_default()));
    }
    Ok(found)
}
