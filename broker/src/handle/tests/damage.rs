//! A broker with a damaged data directory serves the undamaged part and names the damage (D3).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ropewalk_batch::Builder;
use ropewalk_codec::Records;
use ropewalk_codec::produce_request::*;

use super::versions::Client;
use super::*;
use crate::admin::Kind;
use crate::boot::StartError;

/// Flips one bit in every snapshot of a shard.
fn damage(dir: &Path, shard: u32) {
    let files = fs::read_dir(dir.join("snapshots")).expect("there are snapshots");
    let mut files: Vec<PathBuf> = files.map(|entry| entry.expect("readable").path()).collect();
    let of = |path: &Path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(&format!("{shard}-")))
    };
    files.retain(|path| of(path));
    assert!(!files.is_empty());
    for file in files {
        let mut bytes = fs::read(&file).expect("readable");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).expect("written");
    }
}

async fn produce(client: &mut Client, topic: &str, index: i32) -> i16 {
    let batch = Builder::new().record(crate::clock::now_ms(), None, Some(b"v")).build();
    let data = PartitionProduceData { index, records: Records::from(batch) };
    let topic =
        TopicProduceData { name: topic.into(), partition_data: vec![data], ..Default::default() };
    let request = ProduceRequest {
        acks: -1,
        timeout_ms: 1000,
        topic_data: vec![topic],
        ..Default::default()
    };
    client.ask(9, &request).await.responses[0].partition_responses[0].error_code
}

#[tokio::test(flavor = "multi_thread")]
async fn d3_damage_costs_the_shard_it_touches_and_is_named() {
    let dir = TempDir::new().expect("a directory");
    let mut client = Client::on(broker_in(dir.path()).await.expect("it starts")).await;
    // More partitions than shards, so that each shard has one.
    let mut topic = super::versions::create("wide");
    topic.topics[0].num_partitions = 48;
    client.ask(5, &topic).await;
    for index in 0..48 {
        assert_eq!(produce(&mut client, "wide", index).await, 0);
    }
    let view = client.broker.context().view.by_name("wide").expect("it was made");
    client.broker.stop().await;

    let lost = view.partitions[0].shard;
    damage(dir.path(), lost.0);
    let mut client = Client::on(broker_in(dir.path()).await.expect("it starts all the same")).await;
    for (index, home) in (0..).zip(&view.partitions) {
        let expected =
            if home.shard == lost { ErrorCode::KafkaStorageError } else { ErrorCode::None };
        assert_eq!(produce(&mut client, "wide", index).await, expected.code(), "{index}");
    }
    assert_eq!(client.broker.obstacles(), Vec::<String>::new(), "it serves as a member");
    let conditions = client.broker.conditions();
    assert_eq!(conditions.len(), 1, "{conditions:?}");
    assert_eq!((conditions[0].kind, conditions[0].count), (Kind::DamagedShard, 1));
    assert!(conditions[0].message.contains(&lost.to_string()), "{conditions:?}");
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d3_new_partitions_are_placed_in_sound_shards_alone() {
    let dir = TempDir::new().expect("a directory");
    let broker = broker_in(dir.path()).await.expect("it starts");
    let shards: BTreeSet<u32> = broker.context().node.shards().map(|shard| shard.id().0).collect();
    broker.stop().await;
    damage(dir.path(), 5);
    let mut client = Client::on(broker_in(dir.path()).await.expect("it starts all the same")).await;
    let mut topic = super::versions::create("wide");
    topic.topics[0].num_partitions = 24;
    let made = client.ask(5, &topic).await;
    assert_eq!(made.topics[0].error_code, 0, "{made:?}");
    let homes = |client: &Client| -> Vec<u32> {
        let view = client.broker.context().view.by_name("wide").expect("it was made");
        view.partitions.iter().map(|home| home.shard.0).collect()
    };
    let first = homes(&client);
    let used: BTreeSet<u32> = first.iter().copied().collect();
    let sound: BTreeSet<u32> = shards.into_iter().filter(|shard| ![0, 5].contains(shard)).collect();
    assert_eq!(used, sound, "every sound shard has one, the damaged one has none");
    for index in 0..24 {
        assert_eq!(produce(&mut client, "wide", index).await, 0, "{index}");
    }
    let view = client.broker.context().view.by_name("wide").expect("it was made");
    client.broker.context().topics.grow(&view, 30, false).await.expect("it grows");
    let grown = homes(&client);
    assert_eq!((grown.len(), &grown[..24]), (30, &first[..]));
    assert!(!grown.contains(&5));
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d3_a_damaged_catalog_keeps_the_broker_from_starting() {
    let dir = TempDir::new().expect("a directory");
    broker_in(dir.path()).await.expect("it starts").stop().await;
    damage(dir.path(), 0);
    match broker_in(dir.path()).await {
        Err(StartError::CatalogDamaged(what)) => assert!(!what.is_empty()),
        other => panic!("{other:?}"),
    }
}
