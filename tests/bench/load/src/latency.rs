//! Scenario `latency`: time from the scheduled send of a record until a consumer receives it.
//!
//! One connection sends single records at a fixed rate, another one waits in long polls. Each
//! record carries when it was due, by one clock. All partitions have one leader. Invariant: the
//! consumer waits for every record that was sent, so that a lost one is an error and not a better
//! percentile.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use ropewalk_batch::{Builder, records};
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::fetch::Session;
use crate::frames::{check_ack, produce_frame, unix_ms};
use crate::leaders::Leaders;
use crate::meter::Meter;
use crate::payload::Ring;
use crate::percentiles::Percentiles;
use crate::topics::Topics;

/// Bytes that one record may take when it is decoded.
const RECORD_BYTES_MAX: usize = 16 << 20;
const RING_BYTES: usize = 1 << 20;

/// What to send, and how often. The records are sent to all partitions in turn.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Latency {
    #[command(flatten)]
    topics: Topics,
    /// Records a second.
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    #[arg(long, default_value_t = 1024)]
    record_bytes: usize,
}

impl Latency {
    pub(crate) fn run(&self, bootstrap: &str) -> Result<Value> {
        self.topics.create(bootstrap)?;
        let targets = self.topics.targets();
        let groups = Leaders::of(bootstrap, &targets)?.groups(&targets)?;
        ensure!(groups.len() == 1, "the partitions have {} leaders, not one", groups.len());
        let leader = groups.keys().next().context("no partition")?;
        let count = (self.rate * self.seconds) as usize;
        let meter = Meter::process();
        let clock = Instant::now();
        let (this, to) = (self.clone(), leader.clone());
        let reading = thread::spawn(move || this.read(&to, count, clock));
        let mut acks = self.send(leader, count, clock)?;
        let mut ends = reading.join().map_err(|_| anyhow!("the reader panicked"))??;
        let cpu_s = meter.cpu_seconds();
        Ok(json!({
            "records": count, "end_to_end_ms": ends.summary(), "ack_ms": acks.summary(),
            "cpu_s": cpu_s,
        }))
    }

    fn send(&self, leader: &str, count: usize, clock: Instant) -> Result<Percentiles> {
        let mut connection = Connection::open(leader)?;
        let mut reader = connection.reader()?;
        let (due, dues) = std::sync::mpsc::channel::<Instant>();
        let reading = thread::spawn(move || -> Result<Percentiles> {
            let mut latencies = Percentiles::default();
            for due in dues {
                let answer = reader.receive()?;
                latencies.answered(due);
                check_ack(answer)?;
            }
            Ok(latencies)
        });
        let mut ring = Ring::random(RING_BYTES)?;
        // The consumer is in its first long poll by then.
        let start = clock.elapsed() + Duration::from_millis(300);
        for i in 0..count {
            let at = start + Duration::from_secs_f64(i as f64 / self.rate);
            let partition = i as i32 % self.topics.partitions;
            let frame = self.frame(at, partition, ring.next(self.record_bytes))?;
            thread::sleep(at.saturating_sub(clock.elapsed()));
            due.send(clock + at).context("the reader of acks has ended")?;
            connection.send(&frame)?;
        }
        drop(due);
        reading.join().map_err(|_| anyhow!("the reader of acks panicked"))?
    }

    /// A request with one record, whose first eight bytes are when it is due.
    fn frame(&self, due: Duration, partition: i32, random: &[u8]) -> Result<Vec<u8>> {
        let mut value = random.to_vec();
        value.resize(value.len().max(8), 0);
        value[..8].copy_from_slice(&(due.as_nanos() as u64).to_be_bytes());
        let batch = Builder::new().record(unix_ms(), None, Some(&value)).build();
        produce_frame(&self.topics.topic, partition, batch)
    }

    fn read(&self, leader: &str, count: usize, clock: Instant) -> Result<Percentiles> {
        let mut connection = Connection::open(leader)?;
        let mut session = Session::new(&self.topics.topic, self.topics.partitions);
        let mut latencies = Percentiles::default();
        while latencies.count() < count {
            for (header, batch) in session.fetch(&mut connection)? {
                for record in records(&header, batch, RECORD_BYTES_MAX)? {
                    let value = record?.value.context("a record without a value")?;
                    let due = value.first_chunk::<8>().context("a record without its time")?;
                    latencies.answered(clock + Duration::from_nanos(u64::from_be_bytes(*due)));
                }
            }
        }
        Ok(latencies)
    }
}
