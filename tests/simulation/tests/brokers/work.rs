//! What clients do: producers, readers, and one that creates and deletes topics.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use ropewalk_batch::Builder;
use ropewalk_codec::Records;
use ropewalk_codec::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use ropewalk_codec::delete_topics_request::DeleteTopicsRequest;
use ropewalk_codec::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use ropewalk_codec::init_producer_id_request::InitProducerIdRequest;
use ropewalk_codec::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};

use crate::client::{Client, RETRIABLE, values};
use crate::oracle::Partition;
use crate::world::World;

const PRODUCE: i16 = 9;
const FETCH: i16 = 12;

/// The topics that producers write to, and their partitions.
pub(crate) const TOPICS: &[(&str, i32)] = &[("orders", 3), ("events", 2)];

pub(crate) fn partitions() -> Vec<Partition> {
    let of = |(topic, count): &(&str, i32)| {
        let topic = (*topic).to_owned();
        (0..*count).map(move |index| (topic.clone(), index)).collect::<Vec<_>>()
    };
    TOPICS.iter().flat_map(of).collect()
}

/// Creates a topic, until that is acknowledged.
pub(crate) async fn create(client: &mut Client, topic: &str, partitions: i32) {
    loop {
        let any = client.any().await;
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: topic.into(),
                num_partitions: partitions,
                replication_factor: -1,
                ..Default::default()
            }],
            timeout_ms: 10_000,
            ..Default::default()
        };
        let answer = client.ask(any, 5, &request).await;
        match answer.map(|answer| answer.topics[0].error_code) {
            // It exists: an earlier attempt was carried out.
            Ok(0 | 36) => {
                client.event(format!("created {topic}"));
                return client.world.oracle.topic(topic, true);
            }
            Ok(code) if RETRIABLE.contains(&code) => client.world.pause(50, 300).await,
            Ok(code) => {
                let wrong = format!("{topic} is not created by {any}: error {code}");
                return client.world.oracle.violated(wrong);
            }
            Err(_) => {}
        }
    }
}

async fn delete(client: &mut Client, topic: &str) {
    // Unknown until it is acknowledged.
    client.world.oracle.forget_topic(topic);
    let mut is_retry = false;
    loop {
        let any = client.any().await;
        let request = DeleteTopicsRequest {
            topic_names: vec![topic.into()],
            timeout_ms: 10_000,
            ..Default::default()
        };
        let answer = client.ask(any, 5, &request).await;
        match answer.map(|answer| answer.responses[0].error_code) {
            Ok(0) => break,
            Ok(3) if is_retry => {
                // A broker that has not heard of the topic says the same.
                client.world.pause(500, 1000).await;
                break;
            }
            Ok(code) if RETRIABLE.contains(&code) => client.world.pause(50, 300).await,
            Ok(code) => {
                let wrong = format!("{topic} is not deleted by {any}: error {code}");
                return client.world.oracle.violated(wrong);
            }
            Err(_) => {}
        }
        is_retry = true;
    }
    client.event(format!("deleted {topic}"));
    client.world.oracle.topic(topic, false);
}

/// Creates and deletes topics while there are faults.
pub(crate) async fn change_topics(world: Arc<World>) {
    let mut client = Client::new("topics", &world);
    let mut number = 0;
    while !world.is_calm.load(Ordering::Relaxed) {
        world.pause(1000, 6000).await;
        let topic = format!("extra-{number}");
        create(&mut client, &topic, 2).await;
        if number > 0 && world.dice(|dice| dice.one_in(2)) {
            let deleted = format!("extra-{}", number - 1);
            delete(&mut client, &deleted).await;
        }
        number += 1;
    }
}

/// Writes records with idempotence, until `batches` are acknowledged or the world is calm.
pub(crate) async fn produce(world: Arc<World>, number: u64) {
    let mut client = Client::new(format!("producer {number}"), &world);
    let producer = loop {
        let any = client.any().await;
        let request = InitProducerIdRequest {
            transactional_id: None,
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        };
        match client.ask(any, 4, &request).await {
            Ok(answer) if answer.error_code == 0 => break answer.producer_id,
            Ok(_) | Err(_) => world.pause(50, 200).await,
        }
    };
    client.event(format!("has the id {producer}"));
    let partitions = partitions();
    let mut sequences = vec![0_i32; partitions.len()];
    let mut next = 0;
    while !world.is_calm.load(Ordering::Relaxed) {
        let at = usize::try_from(world.between(0, partitions.len() as u64 - 1)).expect("small");
        let count = world.between(1, 4);
        let size = world.between(0, 3) * 300;
        let values: Vec<String> = (0..count)
            .map(|_| {
                next += 1;
                format!("p{number}-{next}-{}", "x".repeat(size as usize))
            })
            .collect();
        let batch = (producer, sequences[at]);
        store(&mut client, &partitions[at], batch, &values).await;
        sequences[at] += i32::try_from(count).expect("small");
        world.pause(5, 120).await;
    }
}

/// Repeats a batch until it is acknowledged.
async fn store(
    client: &mut Client,
    partition: &Partition,
    (producer, sequence): (i64, i32),
    values: &[String],
) {
    let mut builder = Builder::new().producer(producer, 0, sequence);
    for value in values {
        builder = builder.record(ropewalk_thread::time_ms(), None, Some(value.as_bytes()));
    }
    let batch = builder.build();
    let mut tries = 0;
    loop {
        tries += 1;
        let Some(leader) = client.leader(partition).await else {
            client.world.pause(50, 200).await;
            continue;
        };
        let request = ProduceRequest {
            acks: -1,
            timeout_ms: 5_000,
            topic_data: vec![TopicProduceData {
                name: partition.0.as_str().into(),
                partition_data: vec![PartitionProduceData {
                    index: partition.1,
                    records: Records::from(batch.clone()),
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let answer = client.ask(leader, PRODUCE, &request).await;
        let Ok(answer) = answer else {
            client.forget(partition, -1);
            continue;
        };
        let part = &answer.responses[0].partition_responses[0];
        match part.error_code {
            0 => {
                client.world.oracle.acked(partition, Some(part.base_offset), values);
                if tries > 1 {
                    client.event(format!("stored at try {tries} in {partition:?} by {leader}"));
                }
                return;
            }
            46 => return client.world.oracle.acked(partition, None, values),
            code if RETRIABLE.contains(&code) => {
                client.forget(partition, -1);
                client.world.pause(20, 200).await;
            }
            code => {
                let wrong = format!(
                    "{}: error {code} of {leader} for sequence {sequence} in {partition:?}",
                    client.name
                );
                return client.world.oracle.violated(wrong);
            }
        }
    }
}

/// One fetch. Returns the records and the high watermark.
async fn fetch(
    client: &mut Client,
    partition: &Partition,
    offset: i64,
) -> Option<(Vec<(i64, String)>, i64)> {
    let leader = client.leader(partition).await?;
    let request = FetchRequest {
        max_wait_ms: 200,
        min_bytes: 1,
        max_bytes: 1 << 16,
        topics: vec![FetchTopic {
            topic: partition.0.as_str().into(),
            partitions: vec![FetchPartition {
                partition: partition.1,
                fetch_offset: offset,
                partition_max_bytes: 1 << 14,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let Ok(answer) = client.ask(leader, FETCH, &request).await else {
        client.forget(partition, -1);
        return None;
    };
    let Some(part) = answer.responses.first().and_then(|topic| topic.partitions.first()) else {
        client.forget(partition, -1);
        return None;
    };
    match part.error_code {
        0 => {
            let bytes: Bytes = part.records.to_bytes().unwrap_or_default();
            Some((values(bytes), part.high_watermark))
        }
        code if RETRIABLE.contains(&code) => {
            client.forget(partition, -1);
            None
        }
        code => {
            let wrong =
                format!("{}: error {code} of {leader} for {partition:?} at {offset}", client.name);
            client.world.oracle.violated(wrong);
            None
        }
    }
}

/// Reads a partition from its beginning, again and again.
pub(crate) async fn read(world: Arc<World>, partition: Partition) {
    let mut client = Client::new(format!("reader of {partition:?}"), &world);
    let mut position = 0;
    while !world.is_calm.load(Ordering::Relaxed) {
        match fetch(&mut client, &partition, position).await {
            Some((records, _)) => {
                for (offset, value) in records {
                    if offset >= position {
                        world.oracle.saw(&partition, offset, &value);
                        position = offset + 1;
                    }
                }
                // Now and then from the beginning.
                if world.dice(|dice| dice.one_in(100)) {
                    position = 0;
                }
                world.pause(20, 200).await;
            }
            None => world.pause(100, 400).await,
        }
    }
}

/// Reads all of a partition and compares it with what was acknowledged. Returns whether it could.
pub(crate) async fn read_all(world: &Arc<World>, partition: &Partition) -> bool {
    let mut client = Client::new("last reader", world);
    let (mut position, mut failures) = (0, 0);
    loop {
        match fetch(&mut client, partition, position).await {
            Some((records, end)) => {
                for (offset, value) in records {
                    if offset >= position {
                        world.oracle.saw(partition, offset, &value);
                        position = offset + 1;
                    }
                }
                if position >= end {
                    world.oracle.all_seen(partition);
                    return true;
                }
            }
            None => {
                failures += 1;
                if failures > 50 {
                    return false;
                }
                world.pause(200, 400).await;
            }
        }
    }
}
