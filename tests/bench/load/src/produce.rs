//! Scenario `produce`: sends prebuilt batches as fast as the in-flight window allows, or at a
//! fixed rate.
//!
//! Each connection has a thread that writes and one that reads. A channel with the capacity of the
//! window holds the scheduled time of each request in flight. At a fixed rate, latency is measured
//! from the scheduled time and not from the actual send, so that a stall counts for every request
//! that it delays (no coordinated omission).

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use ropewalk_batch::Builder;
use ropewalk_codec::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use ropewalk_codec::{Records, decode_response};
use serde_json::{Value, json};

use crate::connection::{Connection, frame};
use crate::percentiles::Percentiles;
use crate::topics;

const PRODUCE_VERSION: i16 = 9;

/// Flags of the scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Produce {
    #[arg(long)]
    topic: String,
    /// Number of topics that share the load.
    #[arg(long, default_value_t = 1)]
    topics: usize,
    #[arg(long, default_value_t = 1)]
    partitions: i32,
    #[arg(long, default_value_t = 1024)]
    record_bytes: usize,
    #[arg(long, default_value_t = 64)]
    records_per_batch: usize,
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Requests in flight on each connection.
    #[arg(long, default_value_t = 5)]
    in_flight: usize,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Records per second over all connections; as fast as possible if absent.
    #[arg(long)]
    rate: Option<f64>,
}

impl Produce {
    pub(crate) fn run(&self, bootstrap: &str) -> Result<Value> {
        let names = topics::names(&self.topic, self.topics);
        topics::create(bootstrap, &names, self.partitions)?;
        let batch = self.batch();
        let mut frames = vec![Vec::new(); self.connections];
        let targets = names.iter().flat_map(|name| (0..self.partitions).map(move |p| (name, p)));
        for (i, (name, partition)) in targets.enumerate() {
            frames[i % self.connections].push(produce_frame(name, partition, batch.clone())?);
        }
        frames.retain(|frames| !frames.is_empty());
        let interval = self.interval(frames.len());

        let started = Instant::now();
        let threads = frames.into_iter().map(|frames| {
            let (this, bootstrap) = (self.clone(), bootstrap.to_owned());
            thread::spawn(move || this.one_connection(&bootstrap, &frames, interval))
        });
        let threads: Vec<_> = threads.collect();
        let mut latencies = Percentiles::default();
        for thread in threads {
            latencies.extend(thread.join().map_err(|_| anyhow!("a connection panicked"))??);
        }
        let seconds = started.elapsed().as_secs_f64();
        let records = latencies.count() * self.records_per_batch;
        let bytes = records * self.record_bytes;
        Ok(json!({
            "records": records, "seconds": seconds, "records_per_s": records as f64 / seconds,
            "mb_per_s": bytes as f64 / 1e6 / seconds, "requests": latencies.count(),
            "latency_ms": latencies.summary(),
        }))
    }

    fn batch(&self) -> Bytes {
        let now_ms =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        let value: Vec<u8> = (0..self.record_bytes).map(|i| b'A' + (i * 7 % 26) as u8).collect();
        (0..self.records_per_batch)
            .fold(Builder::new(), |batch, _| batch.record(now_ms, None, Some(&value)))
            .build()
    }

    /// Time between two requests of one connection.
    fn interval(&self, connections: usize) -> Option<Duration> {
        let requests = self.rate? / self.records_per_batch as f64 / connections as f64;
        Some(Duration::from_secs_f64(1.0 / requests))
    }

    fn one_connection(
        &self,
        bootstrap: &str,
        frames: &[Vec<u8>],
        interval: Option<Duration>,
    ) -> Result<Percentiles> {
        let mut connection = Connection::open(bootstrap)?;
        let reader = connection.reader()?;
        let (due, dues) = sync_channel(self.in_flight.saturating_sub(1));
        let reading = thread::spawn(move || read_acks(reader, &dues));
        let sent = self.send(&mut connection, frames, interval, &due);
        drop(due);
        let latencies = reading.join().map_err(|_| anyhow!("a reader panicked"))??;
        sent?;
        Ok(latencies)
    }

    fn send(
        &self,
        connection: &mut Connection,
        frames: &[Vec<u8>],
        interval: Option<Duration>,
        due: &SyncSender<Instant>,
    ) -> Result<()> {
        let started = Instant::now();
        let end = started + Duration::from_secs_f64(self.seconds);
        for (i, frame) in frames.iter().cycle().enumerate() {
            let now = Instant::now();
            let mut at = now;
            if let Some(interval) = interval {
                at = started + interval.mul_f64(i as f64);
                thread::sleep(at.saturating_duration_since(now));
            }
            if at.max(now) >= end {
                break;
            }
            // Blocks while the window is full. Fails only after the reader ended with an error.
            if due.send(at).is_err() {
                break;
            }
            connection.send(frame)?;
        }
        Ok(())
    }
}

fn read_acks(mut connection: Connection, dues: &Receiver<Instant>) -> Result<Percentiles> {
    let mut latencies = Percentiles::default();
    for due in dues {
        let answer = connection.receive()?;
        latencies.push(due.elapsed());
        check_ack(answer)?;
    }
    Ok(latencies)
}

pub(crate) fn check_ack(answer: Bytes) -> Result<()> {
    let (_, answer) = decode_response::<ProduceRequest>(answer, PRODUCE_VERSION)?;
    let partition = answer.responses.first().and_then(|topic| topic.partition_responses.first());
    let partition = partition.context("an empty answer")?;
    ensure!(partition.error_code == 0, "refused with error {}", partition.error_code);
    Ok(())
}

pub(crate) fn produce_frame(topic: &str, partition: i32, batch: Bytes) -> Result<Vec<u8>> {
    let partition =
        PartitionProduceData { index: partition, records: Records::from_chunks(vec![batch]) };
    let topic = TopicProduceData {
        name: topic.into(),
        partition_data: vec![partition],
        ..Default::default()
    };
    let request = ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![topic],
        ..Default::default()
    };
    frame(PRODUCE_VERSION, &request)
}
