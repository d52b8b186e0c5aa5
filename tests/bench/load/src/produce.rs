//! Scenario `produce`: sends prebuilt batches as fast as the in-flight window allows, or at a
//! fixed rate.
//!
//! Each connection has a thread that writes and one that reads; a channel of the window's size
//! holds when each request was due. Invariant: at a fixed rate a request's latency counts from when
//! it was due, not from when there was room to send it, so that a stall shows in every request that
//! it delayed.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::frames::{Frame, Producer, Shape, check_ack};
use crate::meter::Meter;
use crate::payload::Ring;
use crate::percentiles::Percentiles;
use crate::topics::Topics;

/// Stack of a thread, in bytes: a run may have thousands of connections.
const STACK_BYTES: usize = 256 << 10;

/// Flags of the scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Produce {
    #[command(flatten)]
    topics: Topics,
    #[command(flatten)]
    shape: Shape,
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
    /// Numbers the batches of each connection, so that the broker detects retries.
    #[arg(long)]
    idempotent: bool,
    /// Size of the ring of random bytes from which all values are cut.
    #[arg(long, default_value_t = 64 << 20)]
    ring_bytes: usize,
}

/// One connection with the requests that it repeats.
struct Sender {
    connection: Connection,
    producer: Option<Producer>,
    frames: Vec<Frame>,
    in_flight: usize,
    /// When the first request is due, counted from the common start.
    phase: Duration,
    /// Time between two requests; none as fast as possible.
    interval: Option<Duration>,
}

impl Produce {
    pub(crate) fn run(&self, bootstrap: &str) -> Result<Value> {
        self.topics.create(bootstrap)?;
        let senders = self.senders(bootstrap)?;
        let meter = Meter::process();
        let started = Instant::now();
        let end = started + Duration::from_secs_f64(self.seconds);
        let mut threads = Vec::with_capacity(senders.len());
        for sender in senders {
            threads.push(spawn(move || sender.send(started, end))?);
        }
        let mut latencies = Percentiles::default();
        for thread in threads {
            latencies.extend(thread.join().map_err(|_| anyhow!("a connection panicked"))??);
        }
        let seconds = meter.seconds();
        let cpu_s = meter.cpu_seconds();
        let records = latencies.count() * self.shape.records_per_batch;
        let bytes = records * self.shape.record_bytes;
        Ok(json!({
            "records": records, "bytes": bytes, "seconds": seconds,
            "records_per_s": records as f64 / seconds, "mb_per_s": bytes as f64 / 1e6 / seconds,
            "requests": latencies.count(), "latency_ms": latencies.summary(), "cpu_s": cpu_s,
        }))
    }

    /// Opens all connections and builds their requests.
    fn senders(&self, bootstrap: &str) -> Result<Vec<Sender>> {
        let names = self.topics.names();
        let partitions = self.topics.partitions;
        let targets: Vec<(&str, i32)> = names
            .iter()
            .flat_map(|name| (0..partitions).map(move |p| (name.as_str(), p)))
            .collect();
        let mut ring = Ring::random(self.ring_bytes)?;
        let of_ring = self.ring_bytes / self.shape.batch_bytes().max(1) / self.connections.max(1);
        let interval = self.interval();
        (0..self.connections)
            .map(|i| {
                let mut mine: Vec<_> = targets.iter().skip(i).step_by(self.connections).collect();
                if mine.is_empty() {
                    mine.push(&targets[i % targets.len()]);
                }
                let frames = (0..of_ring.max(mine.len())).map(|n| {
                    let target = n % mine.len();
                    Frame::new(*mine[target], target, self.shape, &mut ring)
                });
                let frames = frames.collect::<Result<Vec<_>>>()?;
                let mut connection = Connection::open(bootstrap)?;
                let producer = self
                    .idempotent
                    .then(|| Producer::open(&mut connection, mine.len(), self.shape))
                    .transpose()?;
                let share = i as f64 / self.connections as f64;
                let phase = interval.map_or(Duration::ZERO, |interval| interval.mul_f64(share));
                let in_flight = self.in_flight;
                Ok(Sender { connection, producer, frames, in_flight, phase, interval })
            })
            .collect()
    }

    /// Time between two requests of one connection.
    fn interval(&self) -> Option<Duration> {
        let requests = self.rate? / self.shape.records_per_batch as f64 / self.connections as f64;
        Some(Duration::from_secs_f64(1.0 / requests))
    }
}

impl Sender {
    /// Sends until `end`, and returns once every request is answered.
    fn send(mut self, started: Instant, end: Instant) -> Result<Percentiles> {
        let reader = self.connection.reader()?;
        let (due, dues) = sync_channel(self.in_flight.saturating_sub(1));
        let reading = spawn(move || read_acks(reader, &dues))?;
        let sent = self.send_all(started + self.phase, end, &due);
        drop(due);
        let latencies = reading.join().map_err(|_| anyhow!("a reader panicked"))??;
        sent?;
        Ok(latencies)
    }

    fn send_all(&mut self, start: Instant, end: Instant, due: &SyncSender<Instant>) -> Result<()> {
        for i in 0_usize.. {
            let now = Instant::now();
            let at = self.interval.map_or(now, |interval| start + interval.mul_f64(i as f64));
            if at.max(now) >= end {
                break;
            }
            thread::sleep(at.saturating_duration_since(now));
            // This waits while the window is full. The reader ends early only after an error.
            if due.send(at).is_err() {
                break;
            }
            let count = self.frames.len();
            let frame = &mut self.frames[i % count];
            if let Some(producer) = &mut self.producer {
                producer.stamp(frame);
            }
            self.connection.send(frame.bytes())?;
        }
        Ok(())
    }
}

fn spawn<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>> {
    Ok(thread::Builder::new().stack_size(STACK_BYTES).spawn(work)?)
}

fn read_acks(mut connection: Connection, dues: &Receiver<Instant>) -> Result<Percentiles> {
    let mut latencies = Percentiles::default();
    for due in dues {
        let answer = connection.receive()?;
        latencies.answered(due);
        check_ack(answer)?;
    }
    Ok(latencies)
}
