//! How many syncs the background work costs.

use ropewalk_disk::{Disk, SimDisk};
use ropewalk_shard::{PartitionId, ShardId, TopicId};
use ropewalk_store::{checkpoint, recovery};

use super::broker::{self, Broker, Setup};
use super::oracle::{Op, SentBatch};

/// The defaults at a sixteenth: bytes produced, and the sizes that decide when a checkpoint is due.
const SCALE: u64 = 16;
const SHARDS: u32 = 12;
const VALUE_BYTES: usize = 64 << 10;

fn setup() -> Setup {
    let default = checkpoint::Options::default();
    let wal = ropewalk_wal::Options {
        file_bytes: ropewalk_wal::FILE_BYTES / SCALE,
        first_file_bytes: ropewalk_wal::FILE_BYTES / SCALE,
        ..ropewalk_wal::Options::default()
    };
    Setup {
        shards: SHARDS,
        options: recovery::Options { wal, ..recovery::Options::default() },
        checkpoints: checkpoint::Options {
            wal_used_bytes_soft_max: default.wal_used_bytes_soft_max / SCALE,
            ..default
        },
        segment_bytes: 1 << 30,
    }
}

/// One partition in each shard is written at 300 MB/s; a GiB, scaled down like the log.
#[test]
fn a_gibibyte_costs_few_syncs_beside_those_of_the_log() {
    let (disk, setup) = (SimDisk::new(1), setup());
    let opened = broker::open_with(&disk, &setup).expect("it opens");
    let mut broker = Broker::start_with(opened, 1_000_000, &setup).expect("it starts");
    let partition = |shard: u32| {
        let topic = TopicId(uuid::Uuid::from_u128(u128::from(shard)));
        (ShardId(shard), PartitionId { topic, index: 0 })
    };
    for (shard, partition) in (1..=SHARDS).map(partition) {
        broker.propose(shard, Op::Open(partition));
    }
    broker.settle().expect("durable");
    let before = disk.sync_counts();
    let value = vec![7; VALUE_BYTES];
    let rounds = (1 << 30) / SCALE / u64::from(SHARDS) / VALUE_BYTES as u64;
    for round in 0..rounds {
        for (shard, partition) in (1..=SHARDS).map(partition) {
            let sent = SentBatch::new(1, round as i32, 1, &value);
            broker.propose(shard, Op::Append(vec![(partition, sent)]));
        }
        broker.settle().expect("durable");
        broker.pass(3);
        broker.work().expect("nothing fails");
    }
    let mut syncs = disk.sync_counts();
    for (why, count) in before {
        *syncs.entry(why).or_default() -= count;
    }
    syncs.retain(|why, _| !why.starts_with("wal-") && *why != "preallocate");
    syncs.insert("truncated", broker.notes());
    let total: u64 = syncs.values().sum();
    println!("{total} syncs: {syncs:?}");
    assert!(total >= 60, "checkpoints were made: {syncs:?}");
    assert!(total <= 150, "{total}: {syncs:?}");
}
