//! Scenario `consume`: reads whole topics and counts records by the headers of their batches.
//!
//! Invariant: every byte that is counted was received.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::fetch::{FETCH_VERSION, batches, fetch_request};
use crate::groups;
use crate::meter::Meter;
use crate::topics::earliest;

const OFFSET_OUT_OF_RANGE: i16 = 1;
/// Time between two commits of a group; Kafka's clients commit every 5 s.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// Flags of the scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Consume {
    #[arg(long)]
    topic: String,
    #[arg(long, default_value_t = 1)]
    partitions: i32,
    /// Connections that share the partitions, in each group.
    #[arg(long, default_value_t = 4)]
    connections: i32,
    /// Most bytes of one partition in an answer; Kafka's clients ask for 1 MiB.
    #[arg(long, default_value_t = 1 << 20)]
    partition_bytes: i32,
    /// Consumer groups that each read everything and commit; 0 reads once and commits nothing.
    #[arg(long, default_value_t = 0)]
    groups: usize,
}

/// One connection's share of the work.
struct Reader {
    consume: Consume,
    connection: Connection,
    group: Option<String>,
    /// Partitions not read to their end, with the next offset of each.
    open: Vec<(i32, i64)>,
    committed: Instant,
    records: u64,
    bytes: u64,
}

impl Consume {
    /// Reads each partition from its first offset until it has caught up with the high watermark.
    pub(crate) fn run(&self, bootstrap: &str) -> Result<Value> {
        let mut readers = Vec::new();
        let groups: Vec<Option<String>> = match self.groups {
            0 => vec![None],
            count => (0..count).map(|i| Some(format!("{}-group-{i}", self.topic))).collect(),
        };
        for group in groups {
            for first in 0..self.connections.min(self.partitions) {
                readers.push(self.reader(bootstrap, first, group.clone())?);
            }
        }
        let meter = Meter::process();
        let threads: Vec<_> =
            readers.into_iter().map(|reader| thread::spawn(move || reader.read())).collect();
        let (mut records, mut bytes) = (0, 0);
        for thread in threads {
            let (r, b) = thread.join().map_err(|_| anyhow!("a connection panicked"))??;
            records += r;
            bytes += b;
        }
        let seconds = meter.seconds();
        Ok(json!({
            "records": records, "bytes": bytes, "seconds": seconds,
            "records_per_s": records as f64 / seconds,
            "mb_per_s": bytes as f64 / 1e6 / seconds, "cpu_s": meter.cpu_seconds(),
        }))
    }

    /// A connection that reads every n-th partition.
    fn reader(&self, bootstrap: &str, first: i32, group: Option<String>) -> Result<Reader> {
        let mut connection = Connection::open(bootstrap)?;
        let mine = (first..self.partitions).step_by(self.connections.max(1) as usize);
        let open = earliest(&mut connection, &self.topic, &mine.collect::<Vec<_>>())?;
        if let Some(group) = &group {
            groups::wait_for_coordinator(&mut connection, group, &self.topic)?;
        }
        let consume = self.clone();
        let committed = Instant::now();
        Ok(Reader { consume, connection, group, open, committed, records: 0, bytes: 0 })
    }
}

impl Reader {
    fn read(mut self) -> Result<(u64, u64)> {
        let (topic, partition_bytes) = (self.consume.topic.clone(), self.consume.partition_bytes);
        while !self.open.is_empty() {
            let request = fetch_request(&topic, &self.open, partition_bytes, 0);
            let answer = self.connection.call(FETCH_VERSION, &request)?;
            let mut done = Vec::new();
            for partition in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
                let (index, code) = (partition.partition_index, partition.error_code);
                let entry = self.open.iter_mut().find(|(p, _)| *p == index);
                let Some((_, next)) = entry else { continue };
                if code == OFFSET_OUT_OF_RANGE {
                    // Retention deleted the segment meanwhile.
                    let found = earliest(&mut self.connection, &topic, &[index])?;
                    *next = found.first().map_or(*next, |(_, offset)| *offset);
                    continue;
                }
                ensure!(code == 0, "fetch refused with error {code}");
                for (header, batch) in batches(&partition.records.to_bytes().unwrap_or_default()) {
                    self.records += u64::from(header.count.unsigned_abs());
                    self.bytes += batch.len() as u64;
                    *next = header.last_offset() + 1;
                }
                if *next >= partition.high_watermark {
                    done.push(index);
                }
            }
            self.commit(!done.is_empty())?;
            self.open.retain(|(partition, _)| !done.contains(partition));
        }
        Ok((self.records, self.bytes))
    }

    /// Commits what was read, in intervals and whenever a partition is at its end.
    fn commit(&mut self, is_at_end: bool) -> Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        if !is_at_end && self.committed.elapsed() < COMMIT_INTERVAL {
            return Ok(());
        }
        self.committed = Instant::now();
        groups::commit(&mut self.connection, group, &self.consume.topic, &self.open)
    }
}
