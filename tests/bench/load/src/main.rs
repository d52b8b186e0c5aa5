//! A load client that leaves most of the CPU to the broker.
//!
//! The clients that users have spend more than the broker on each record: they serialize, compress
//! and check it. To measure the broker's own limit this client sends batches that were built before
//! the clock starts, and counts what it reads by the batches' headers. It works with any cluster of
//! Kafka brokers, and sends to the leader of each partition. Each scenario prints one JSON object.

mod meter;
mod payload;
mod percentiles;
mod connection;
mod fetch;
mod topics;
mod leaders;
mod in_sync;
mod groups;
mod frames;
mod produce;
mod consume;
mod latency;
mod probe;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::frames::{check_ack, produce_frame};
use crate::leaders::Leaders;

#[derive(Parser)]
#[command(about = "Loads a Kafka broker and uses little CPU itself")]
struct Arguments {
    /// HOST:PORT of some of the brokers, with commas between them.
    #[arg(long, default_value = "127.0.0.1:9092")]
    bootstrap: String,
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Sends as fast as the in-flight window allows, or at a fixed rate.
    Produce(produce::Produce),
    /// Reads a whole topic.
    Consume(consume::Consume),
    /// Measures the time from send to receive at a fixed rate.
    Latency(latency::Latency),
    /// Creates topics and waits for their leaders.
    Create(topics::Topics),
    /// Waits until the topics have enough replicas in sync.
    InSync(in_sync::InSync),
    /// Deletes topics.
    Delete(topics::Topics),
    /// Waits for a broker that is about to start, and ends with its first ack.
    FirstAck,
    /// Fills the page cache of a memory cgroup.
    Fill(probe::Fill),
    /// Measures memory and disk without a broker.
    Probe(probe::Probe),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let bootstrap = &arguments.bootstrap;
    let shown = match arguments.scenario {
        Scenario::Produce(produce) => produce.run(bootstrap)?,
        Scenario::Consume(consume) => consume.run(bootstrap)?,
        Scenario::Latency(latency) => latency.run(bootstrap)?,
        Scenario::Create(topics) => {
            topics.create(bootstrap)?;
            json!({ "topics": topics.names().len() })
        }
        Scenario::InSync(in_sync) => in_sync.run(bootstrap)?,
        Scenario::Delete(topics) => topics.delete(bootstrap)?,
        Scenario::FirstAck => first_ack(bootstrap)?,
        Scenario::Fill(fill) => fill.run()?,
        Scenario::Probe(probe) => probe.run()?,
    };
    println!("{shown}");
    Ok(())
}

/// Tries until one record is acked, whatever fails on the way; gives up after 60 s.
///
/// `unix_s` is when the ack came, by the clock that the harness reads when it starts the broker.
fn first_ack(bootstrap: &str) -> Result<Value> {
    let started = Instant::now();
    let topics = topics::Topics::single("first-ack");
    let batch = ropewalk_batch::Builder::new().record(0, None, Some(b"first")).build();
    let frame = produce_frame(&topics.topic, 0, batch)?;
    let attempt = || -> Result<()> {
        topics.create(bootstrap)?;
        let target = (topics.topic.clone(), 0);
        let leaders = Leaders::of(bootstrap, std::slice::from_ref(&target))?;
        let mut connection = Connection::open(leaders.address(&target)?)?;
        connection.send(&frame)?;
        check_ack(connection.receive()?)
    };
    while let Err(error) = attempt() {
        ensure!(started.elapsed() < Duration::from_secs(60), "no ack after 60 s: {error}");
        std::thread::sleep(Duration::from_millis(2));
    }
    let unix_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    Ok(json!({ "unix_s": unix_s }))
}
