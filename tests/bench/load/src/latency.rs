//! Scenario `latency`: time from the scheduled send of a record until a consumer receives it.
//!
//! One connection sends single records at a fixed rate, another one reads with long polls. Each
//! record carries its scheduled time; both sides use the same clock. The reader waits for every
//! record that was sent, so a lost record is an error and does not improve the result.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ropewalk_batch::{Builder, records};
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::consume::{fetch, fetch_request};
use crate::percentiles::Percentiles;
use crate::produce::{check_ack, produce_frame};
use crate::topics;

/// Largest accepted record, in bytes. `--record-bytes` is 1024 by default.
const RECORD_BYTES_MAX: usize = 16 << 20;

/// Flags of the scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Latency {
    #[arg(long)]
    topic: String,
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    #[arg(long, default_value_t = 1024)]
    record_bytes: usize,
}

impl Latency {
    pub(crate) fn run(&self, bootstrap: &str) -> Result<Value> {
        topics::create(bootstrap, std::slice::from_ref(&self.topic), 1)?;
        let count = (self.rate * self.seconds) as usize;
        let clock = Instant::now();
        let (this, to) = (self.clone(), bootstrap.to_owned());
        let reading = thread::spawn(move || this.read(&to, count, clock));
        let mut acks = self.send(bootstrap, count, clock)?;
        let mut ends = reading.join().map_err(|_| anyhow!("the reader panicked"))??;
        Ok(json!({ "records": count, "end_to_end_ms": ends.summary(), "ack_ms": acks.summary() }))
    }

    fn send(&self, bootstrap: &str, count: usize, clock: Instant) -> Result<Percentiles> {
        let mut connection = Connection::open(bootstrap)?;
        let mut reader = connection.reader()?;
        let (due, dues) = std::sync::mpsc::channel::<Duration>();
        let reading = thread::spawn(move || -> Result<Percentiles> {
            let mut latencies = Percentiles::default();
            for due in dues {
                let answer = reader.receive()?;
                latencies.push(clock.elapsed().saturating_sub(due));
                check_ack(answer)?;
            }
            Ok(latencies)
        });
        // Until then the consumer is in its first long poll.
        let start = clock.elapsed() + Duration::from_millis(300);
        for i in 0..count {
            let at = start + Duration::from_secs_f64(i as f64 / self.rate);
            thread::sleep(at.saturating_sub(clock.elapsed()));
            due.send(at).context("the reader of acks has ended")?;
            connection.send(&self.frame(at)?)?;
        }
        drop(due);
        reading.join().map_err(|_| anyhow!("the reader of acks panicked"))?
    }

    fn frame(&self, due: Duration) -> Result<Vec<u8>> {
        let mut value = vec![b'x'; self.record_bytes.max(8)];
        value[..8].copy_from_slice(&(due.as_nanos() as u64).to_be_bytes());
        // The value carries the scheduled time, because timestamps have only milliseconds.
        let now_ms = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as i64);
        produce_frame(&self.topic, 0, Builder::new().record(now_ms, None, Some(&value)).build())
    }

    fn read(&self, bootstrap: &str, count: usize, clock: Instant) -> Result<Percentiles> {
        let mut connection = Connection::open(bootstrap)?;
        let mut latencies = Percentiles::default();
        let mut next = 0;
        while latencies.count() < count {
            let request = fetch_request(&self.topic, &[(0, next)], 1 << 20, 500);
            let found = fetch(&mut connection, &request)?;
            let received = clock.elapsed();
            for (header, batch) in found {
                next = header.last_offset() + 1;
                for record in records(&header, batch, RECORD_BYTES_MAX)? {
                    let value = record?.value.context("a record without a value")?;
                    let due = value.first_chunk::<8>().context("a record without its time")?;
                    let due = Duration::from_nanos(u64::from_be_bytes(*due));
                    latencies.push(received.saturating_sub(due));
                }
            }
        }
        Ok(latencies)
    }
}
