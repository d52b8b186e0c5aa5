//! A load client that leaves the broker most of the machine.
//!
//! The clients that users have spend more than the broker on each record: they serialize, compress and
//! check it. To see the broker's own limit this one sends batches that were built before the clock
//! starts, and counts what it reads by the batches' headers. It speaks to any Kafka broker, one node.
//!
//! Each scenario prints one JSON object. Nothing is left behind after a crash.

mod percentiles;
mod connection;
mod topics;
mod produce;
mod consume;
mod latency;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};

#[derive(Parser)]
#[command(about = "Loads a Kafka broker with few cycles of its own")]
struct Arguments {
    #[arg(long, default_value = "127.0.0.1:9092")]
    bootstrap: String,
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Sends as fast as the window lets, or at a fixed rate.
    Produce(produce::Produce),
    /// Reads a whole topic.
    Consume(consume::Consume),
    /// Measures from send to receive at a fixed rate.
    Latency(latency::Latency),
    /// Waits for a broker that is about to start, and ends with its first ack.
    FirstAck,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let bootstrap = &arguments.bootstrap;
    let shown = match arguments.scenario {
        Scenario::Produce(produce) => produce.run(bootstrap)?,
        Scenario::Consume(consume) => consume.run(bootstrap)?,
        Scenario::Latency(latency) => latency.run(bootstrap)?,
        Scenario::FirstAck => first_ack(bootstrap)?,
    };
    println!("{shown}");
    Ok(())
}

/// Tries from the beginning until one record is acked, whatever goes wrong on the way.
fn first_ack(bootstrap: &str) -> Result<Value> {
    let started = Instant::now();
    let names = [String::from("first-ack")];
    let batch = ropewalk_batch::Builder::new().record(0, None, Some(b"first")).build();
    let frame = produce::produce_frame(&names[0], 0, batch)?;
    let attempt = || -> Result<()> {
        topics::create(bootstrap, &names, 1)?;
        let mut connection = connection::Connection::open(bootstrap)?;
        connection.send(&frame)?;
        produce::check_ack(connection.receive()?)
    };
    while let Err(error) = attempt() {
        ensure!(started.elapsed() < Duration::from_secs(60), "no ack after 60 s: {error}");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(json!({ "seconds": started.elapsed().as_secs_f64() }))
}
