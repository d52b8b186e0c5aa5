//! Scenario `produce`: sends prebuilt batches as fast as the in-flight window allows, or at a
//! fixed rate.
//!
//! Each connection has a thread that writes and one that reads; a channel of the window's size
//! holds when each request was due. Invariant: at a fixed rate a request's latency counts from when
//! it was due, not from when there was room to send it, so that a stall shows in every request that
//! it delayed. A request that a broker refuses, because it does not lead the partition any more, is
//! sent to the new leader; its latency still counts from when it was first due.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::frames::{Ack, Frame, Producer, Shape, ack};
use crate::leaders::{Leaders, Target};
use crate::meter::Meter;
use crate::payload::Ring;
use crate::percentiles::Percentiles;
use crate::topics::Topics;

/// Stack of a thread, in bytes: a run may have thousands of connections.
const STACK_BYTES: usize = 256 << 10;
/// How long a request is sent again, and the pause before each time.
const REFUSED_FOR: Duration = Duration::from_secs(60);
const REFUSED_PAUSE: Duration = Duration::from_millis(5);

/// Flags of the scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Produce {
    #[command(flatten)]
    topics: Topics,
    #[command(flatten)]
    shape: Shape,
    /// Connections that share the partitions; at least one for each leader.
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
        let targets = self.topics.targets();
        let leaders = Leaders::of(bootstrap, &targets)?;
        let shares = leaders.shares(&targets, self.connections)?;
        let count = shares.len();
        let mut ring = Ring::random(self.ring_bytes)?;
        let of_ring = self.ring_bytes / self.shape.batch_bytes().max(1) / count.max(1);
        let interval = self.interval(count);
        let sender = |(i, mine): (usize, Vec<Target>)| {
            let frames = (0..of_ring.max(mine.len())).map(|n| {
                let target = n % mine.len();
                let (topic, partition) = &mine[target];
                Frame::new((topic, *partition), target, self.shape, &mut ring)
            });
            let frames = frames.collect::<Result<Vec<_>>>()?;
            let producer = self
                .idempotent
                .then(|| Producer::open(&mut Connection::open(bootstrap)?, mine.len(), self.shape))
                .transpose()?;
            let share = i as f64 / count as f64;
            let phase = interval.map_or(Duration::ZERO, |interval| interval.mul_f64(share));
            let links = Links::open(&leaders, &mine, self.in_flight)?;
            let (bootstrap, in_flight) = (bootstrap.to_owned(), self.in_flight);
            Ok(Sender {
                bootstrap,
                targets: mine,
                producer,
                frames,
                in_flight,
                phase,
                interval,
                links,
            })
        };
        shares.into_iter().enumerate().map(sender).collect()
    }

    /// Time between two requests of one connection.
    fn interval(&self, connections: usize) -> Option<Duration> {
        let requests = self.rate? / self.shape.records_per_batch as f64 / connections as f64;
        Some(Duration::from_secs_f64(1.0 / requests))
    }
}

/// One thread that sends, and the requests that it repeats.
struct Sender {
    bootstrap: String,
    targets: Vec<Target>,
    producer: Option<Producer>,
    frames: Vec<Frame>,
    in_flight: usize,
    /// When the first request is due, counted from the common start.
    phase: Duration,
    /// Time between two requests; none as fast as possible.
    interval: Option<Duration>,
    links: Links,
}

/// A request that was due: when, and which of the frames.
#[derive(Clone, Copy)]
struct Due {
    at: Instant,
    frame: usize,
}

/// The connections of a sender: one, until the leader of a partition moves.
struct Links {
    /// Index of the connection to the leader of each target.
    of: Vec<usize>,
    all: Vec<Link>,
    /// What a broker refused because it does not lead the partition.
    refused: Receiver<Due>,
    refuse: std::sync::mpsc::Sender<Due>,
    /// Requests that need no more of the sender.
    done: Arc<AtomicUsize>,
}

struct Link {
    address: String,
    connection: Connection,
    due: SyncSender<Due>,
    reading: thread::JoinHandle<Result<Percentiles>>,
}

impl Links {
    fn open(leaders: &Leaders, targets: &[Target], in_flight: usize) -> Result<Self> {
        let (refuse, refused) = channel();
        let done = Arc::new(AtomicUsize::new(0));
        let mut links = Self { of: vec![0; targets.len()], all: Vec::new(), refused, refuse, done };
        links.follow(leaders, targets, in_flight)?;
        Ok(links)
    }

    /// Connects to the present leaders.
    fn follow(&mut self, leaders: &Leaders, targets: &[Target], in_flight: usize) -> Result<()> {
        for (i, target) in targets.iter().enumerate() {
            let address = leaders.address(target)?;
            let known = self.all.iter().position(|link| link.address == address);
            self.of[i] = known.unwrap_or(self.all.len());
            if known.is_none() {
                self.all.push(self.link(address, in_flight)?);
            }
        }
        Ok(())
    }

    fn link(&self, address: &str, in_flight: usize) -> Result<Link> {
        let connection = Connection::open(address)?;
        let reader = connection.reader()?;
        let (due, dues) = sync_channel(in_flight.saturating_sub(1));
        let (refuse, done) = (self.refuse.clone(), self.done.clone());
        let reading = spawn(move || read_acks(reader, &dues, &refuse, &done))?;
        Ok(Link { address: address.to_owned(), connection, due, reading })
    }

    /// Whether a reader has ended, which it does early only after an error.
    fn is_broken(&self) -> bool {
        self.all.iter().any(|link| link.reading.is_finished())
    }

    /// Ends the connections; the latencies of all requests.
    fn end(self) -> Result<Percentiles> {
        let mut latencies = Percentiles::default();
        for link in self.all {
            drop(link.due);
            latencies.extend(link.reading.join().map_err(|_| anyhow!("a reader panicked"))??);
        }
        Ok(latencies)
    }
}

impl Sender {
    /// Sends until `end`, and returns once every request is answered.
    fn send(mut self, started: Instant, end: Instant) -> Result<Percentiles> {
        let sent = self.send_all(started + self.phase, end);
        let latencies = self.links.end()?;
        sent?;
        Ok(latencies)
    }

    fn send_all(&mut self, start: Instant, end: Instant) -> Result<()> {
        let mut sent = 0;
        loop {
            let now = Instant::now();
            let at = self.interval.map_or(now, |interval| start + interval.mul_f64(sent as f64));
            if at.max(now) >= end {
                break;
            }
            thread::sleep(at.saturating_duration_since(now));
            while let Ok(refused) = self.links.refused.try_recv() {
                self.send_again(refused)?;
            }
            let frame = sent % self.frames.len();
            if let Some(producer) = &mut self.producer {
                producer.stamp(&mut self.frames[frame]);
            }
            if !self.transmit(Due { at, frame })? {
                return Ok(());
            }
            sent += 1;
        }
        while self.links.done.load(Ordering::Acquire) < sent && !self.links.is_broken() {
            if let Ok(refused) = self.links.refused.recv_timeout(Duration::from_millis(1)) {
                self.send_again(refused)?;
            }
        }
        Ok(())
    }

    /// Waits while the window of the leader is full, then sends. False if the reader has ended.
    fn transmit(&mut self, due: Due) -> Result<bool> {
        let frame = &self.frames[due.frame];
        let link = &mut self.links.all[self.links.of[frame.target]];
        if link.due.send(due).is_err() {
            return Ok(false);
        }
        link.connection.send(frame.bytes())?;
        Ok(true)
    }

    /// Sends a refused request to the leader that the partition has by now.
    fn send_again(&mut self, due: Due) -> Result<()> {
        ensure!(self.producer.is_none(), "the leader moved under an idempotent producer");
        ensure!(due.at.elapsed() < REFUSED_FOR, "refused for {REFUSED_FOR:?}");
        thread::sleep(REFUSED_PAUSE);
        let leaders = Leaders::of(&self.bootstrap, &self.targets)?;
        self.links.follow(&leaders, &self.targets, self.in_flight)?;
        self.transmit(due)?;
        Ok(())
    }
}

fn spawn<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>> {
    Ok(thread::Builder::new().stack_size(STACK_BYTES).spawn(work)?)
}

fn read_acks(
    mut connection: Connection,
    dues: &Receiver<Due>,
    refuse: &std::sync::mpsc::Sender<Due>,
    done: &AtomicUsize,
) -> Result<Percentiles> {
    let mut latencies = Percentiles::default();
    for due in dues {
        match ack(connection.receive()?)? {
            Ack::Taken => {
                latencies.answered(due.at);
                done.fetch_add(1, Ordering::Release);
            }
            Ack::Again => refuse.send(due).context("the sender has ended")?,
        }
    }
    Ok(latencies)
}
