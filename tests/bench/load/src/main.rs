//! A load client that leaves most of the CPU to the broker.
//!
//! Ordinary clients use more CPU per record than the broker: they serialize, compress and verify
//! it. To measure the broker's limit, this client sends batches that it builds before the
//! measurement, and counts received records by batch headers. It works with any single-node Kafka
//! broker.
//!
//! Each scenario prints one JSON object.

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
#[command(about = "Loads a Kafka broker and uses little CPU itself")]
struct Arguments {
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
    /// Waits for a broker that is starting, until it acknowledges one record.
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

/// Repeats all steps after any error until one record is acknowledged, for at most 60 s.
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
