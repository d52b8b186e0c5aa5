//! A broker with a damaged data directory serves the undamaged part and names the damage (D3).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ropewalk_batch::Builder;
use ropewalk_codec::Records;
use ropewalk_codec::produce_request::*;
use ropewalk_disk::RealDisk;
use ropewalk_shard::ShardId;
use ropewalk_shard::command::{self, Command, ShardCommand};
use ropewalk_shard::engine::EntryKind;
use ropewalk_wal::{HardState, Record, RecoveredLog, Wal};

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

/// The write-ahead log of a broker that does not run.
fn wal(dir: &Path) -> (Wal, RecoveredLog) {
    let disk = Arc::new(RealDisk::new(ropewalk_disk::Options::default()));
    let options = ropewalk_store::recovery::Options::default();
    Wal::open(disk, &dir.join("wal"), options.wal).expect("it opens")
}

/// The last index in the log of a shard.
fn last_index(log: &RecoveredLog, shard: ShardId) -> u64 {
    let of_shard = log.replicas.iter().find(|(key, _)| key.shard == shard.0);
    let (_, replica) = of_shard.expect("the shard has a replica");
    replica.entries.last().map_or(replica.truncated.index, |entry| entry.index)
}

/// Appends a committed command of a newer version of the broker to the log of a shard. Returns its
/// index.
fn write_newer_entry(dir: &Path, shard: ShardId) -> u64 {
    let (mut wal, log) = wal(dir);
    let index = last_index(&log, shard) + 1;
    let of_shard = log.replicas.iter().find(|(key, _)| key.shard == shard.0);
    let (key, replica) = of_shard.expect("the shard has a replica");
    let command = ShardCommand::DeleteGroup { group: "g".to_owned() };
    let term = replica.hard_state.term;
    let mut data = command::encode(term, 0, &Command::Shard(command)).to_bytes().to_vec();
    data[0] = 200;
    let (key, data) = (*key, Bytes::from(data).into());
    let entry = Record::Entry { key, index, term, kind: EntryKind::Normal as u8, data };
    let state = HardState { commit: index, ..replica.hard_state };
    wal.write_round(&[entry, Record::HardState { key, state }]).expect("written");
    index
}

/// After a downgrade, or where the feature level was raised too early.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_a_newer_version_stops_its_shard_alone_and_is_kept() {
    let dir = TempDir::new().expect("a directory");
    let mut client = Client::on(broker_in(dir.path()).await.expect("it starts")).await;
    let mut topic = super::versions::create("wide");
    topic.topics[0].num_partitions = 48;
    client.ask(5, &topic).await;
    let view = client.broker.context().view.by_name("wide").expect("it was made");
    client.broker.stop().await;

    let shard = view.partitions[0].shard;
    let index = write_newer_entry(dir.path(), shard);
    for _ in 0..2 {
        let broker = broker_in(dir.path()).await.expect("it starts all the same");
        let mut client = Client::on(broker).await;
        for (partition, home) in (0..).zip(&view.partitions) {
            let stopped = home.shard == shard;
            let expected = if stopped { ErrorCode::KafkaStorageError } else { ErrorCode::None };
            let produced = produce(&mut client, "wide", partition).await;
            assert_eq!(produced, expected.code(), "{partition}");
        }
        assert_eq!(client.broker.obstacles(), Vec::<String>::new(), "it serves the others");
        let conditions = client.broker.conditions();
        let [condition] = &conditions[..] else { panic!("{conditions:?}") };
        assert_eq!((condition.kind, condition.count), (Kind::TooOld, 1));
        for part in [&shard.to_string()[..], "newer version", "format 200", "upgrade"] {
            assert!(condition.message.contains(part), "{}", condition.message);
        }
        client.broker.stop().await;
        assert_eq!(last_index(&wal(dir.path()).1, shard), index, "a newer version applies it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_with_an_entry_of_a_newer_version_is_named_by_ready() {
    let dir = TempDir::new().expect("a directory");
    broker_in(dir.path()).await.expect("it starts").stop().await;
    write_newer_entry(dir.path(), ShardId::CATALOG);
    let broker = broker_in(dir.path()).await.expect("it starts all the same");
    let obstacles = broker.obstacles();
    assert!(obstacles.len() == 1 && obstacles[0].contains("newer version"), "{obstacles:?}");
    broker.stop().await;
}
