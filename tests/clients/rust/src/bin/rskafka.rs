//! The rskafka crate in the client matrix; `tests/clients/python/records.py` describes the orders.
//!
//! The crate has no consumer groups, and its headers are a map without null values.

use chrono::{DateTime, Utc};
use ropewalk_clients::{Orders, Outcome, Record, Topic, decoded, encoded};
use rskafka::client::partition::{Compression, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};

#[tokio::main]
async fn main() -> Outcome {
    let orders = Orders::given()?;
    let client = ClientBuilder::new(vec![orders.bootstrap.clone()]).build().await?;
    match std::env::args().nth(1).as_deref() {
        Some("write") => {
            for topic in &orders.topics {
                write(&client, topic).await?;
            }
            Ok(())
        }
        _ => read(&client, &orders).await,
    }
}

async fn write(client: &Client, topic: &Topic) -> Outcome {
    let compression = match topic.compression.as_str() {
        "gzip" => Compression::Gzip,
        "snappy" => Compression::Snappy,
        "lz4" => Compression::Lz4,
        "zstd" => Compression::Zstd,
        _ => Compression::NoCompression,
    };
    let mut partitions: Vec<i32> = topic.records.iter().map(|r| r.partition).collect();
    partitions.dedup();
    for partition in partitions {
        let records = topic.records.iter().filter(|r| r.partition == partition);
        let records = records.map(|r| rskafka::record::Record {
            key: decoded(r.key.as_ref()),
            value: decoded(r.value.as_ref()),
            headers: r
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), decoded(value.as_ref()).unwrap_or_default()))
                .collect(),
            timestamp: DateTime::<Utc>::from_timestamp_millis(r.timestamp).expect("a date"),
        });
        client
            .partition_client(&topic.topic, partition, UnknownTopicHandling::Retry)
            .await?
            .produce(records.collect(), compression)
            .await?;
    }
    Ok(())
}

async fn read(client: &Client, orders: &Orders) -> Outcome {
    let mut left = orders.outstanding();
    for p in &orders.partitions {
        let partition =
            client.partition_client(&p.topic, p.partition, UnknownTopicHandling::Retry).await?;
        let mut next = 0;
        while next < p.count as i64 {
            let (records, _) = partition.fetch_records(next, 1..10_000_000, 1_000).await?;
            for found in records {
                next = found.offset + 1;
                let headers = found.record.headers.iter();
                left.show(&Record {
                    topic: p.topic.clone(),
                    partition: p.partition,
                    offset: found.offset,
                    timestamp: found.record.timestamp.timestamp_millis(),
                    key: encoded(found.record.key.as_deref()),
                    value: encoded(found.record.value.as_deref()),
                    headers: headers.map(|(k, v)| (k.clone(), encoded(Some(v)))).collect(),
                })?;
            }
        }
    }
    Ok(())
}
