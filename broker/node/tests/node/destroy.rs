//! A replica that is removed from a broker, and its shard that comes back.

use std::path::Path;

use ropewalk_disk::{Disk, SimDisk};
use ropewalk_shard::engine::MembersChange;

use crate::cluster::{Cluster, REPLICAS, SHARD, within};
use crate::support::{open_partition, until, values};

/// The names of all files in the directories of partitions.
fn records(disk: &SimDisk) -> Vec<String> {
    let partitions = Path::new("/data/partitions");
    let names = disk.list(partitions).expect("listed");
    names.iter().flat_map(|name| disk.list(&partitions.join(name)).expect("listed")).collect()
}

/// A shard with records on two nodes.
async fn on_two_nodes() -> (Cluster, Vec<Vec<u8>>) {
    let cluster = Cluster::new();
    within("the first leads", cluster.leader()).await;
    open_partition(&cluster.shard(0).expect("the first has it"), 0).await;
    let values: Vec<Vec<u8>> = (0..100_u8).map(|number| vec![number; 20_000]).collect();
    for value in &values {
        within("an append", cluster.append(value)).await;
    }
    within("it joins", cluster.join(1)).await;
    (cluster, values)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d4_a_destroyed_replica_leaves_nothing_and_another_one_takes_its_place() {
    const NEXT: u64 = 99;
    let (mut cluster, expected) = on_two_nodes().await;
    let held = cluster.shard(1).expect("it has it");
    cluster.change(MembersChange::Remove(REPLICAS[1])).await;
    let node = cluster.node(1);
    node.destroy(SHARD, NEXT).await.expect("nothing is done to another replica");
    assert!(node.shard(SHARD).is_some());
    within("it ends", node.destroy(SHARD, REPLICAS[1])).await.expect("destroyed");
    assert!(node.shard(SHARD).is_none() && node.held_shard(SHARD).is_none());
    assert_eq!(node.shards().count(), 0);
    assert!(held.logs().is_empty(), "the handle holds no records");
    assert_eq!(held.replica(), None);
    assert_eq!(records(&cluster.disks[1]), [""; 0]);
    node.destroy(SHARD, REPLICAS[1]).await.expect("again");
    cluster.expect(1, SHARD, REPLICAS[1]);
    assert!(cluster.node(1).shard_ids_held().is_empty(), "it never comes back");

    // Nor after a restart.
    cluster.stop(1).await;
    cluster.open(1);
    assert_eq!(cluster.node(1).damaged(), []);
    assert!(cluster.shard(1).is_none());
    cluster.expect(1, SHARD, REPLICAS[1]);
    assert!(cluster.node(1).shard_ids_held().is_empty());

    for _ in 0..2 {
        cluster.expect(1, SHARD, NEXT);
        cluster.change(MembersChange::AddLearner(NEXT)).await;
        within("it comes back", cluster.catches_up(1)).await;
        let shard = cluster.shard(1).expect("it has it");
        assert_eq!(shard.replica(), Some(NEXT));
        assert_eq!(values(&shard, 0), expected);
        // It stays.
        cluster.stop(1).await;
        cluster.open(1);
        assert_eq!(cluster.shard(1).expect("it has it").replica(), Some(NEXT));
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_expected_is_destroyed_before_it_has_come() {
    let cluster = Cluster::new();
    within("the first leads", cluster.leader()).await;
    let node = cluster.node(2);
    within("it ends", node.destroy(SHARD, REPLICAS[2])).await.expect("destroyed");
    assert!(node.shard_ids_held().is_empty());
    cluster.change(MembersChange::AddLearner(REPLICAS[2])).await;
    cluster.expect(1, SHARD, REPLICAS[1]);
    cluster.change(MembersChange::AddLearner(REPLICAS[1])).await;
    within("another one comes", cluster.catches_up(1)).await;
    assert!(cluster.shard(2).is_none());
    let mut cluster = cluster;
    cluster.stop_all().await;
}

/// The files of a replica that is received are not put over those of another one that runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d4_a_replica_is_not_received_before_the_one_in_its_place_is_destroyed() {
    const NEXT: u64 = 99;
    let (mut cluster, expected) = on_two_nodes().await;
    cluster.change(MembersChange::Remove(REPLICAS[1])).await;
    cluster.expect(1, SHARD, NEXT);
    cluster.change(MembersChange::AddLearner(NEXT)).await;
    for value in &expected {
        within("an append", cluster.append(value)).await;
    }
    let node = cluster.node(1);
    assert_eq!(node.shard(SHARD).expect("it runs").replica(), Some(REPLICAS[1]));
    within("it ends", node.destroy(SHARD, REPLICAS[1])).await.expect("destroyed");
    let has_next = || cluster.shard(1).is_some_and(|shard| shard.replica() == Some(NEXT));
    within("the next one comes", until(has_next)).await;
    within("it catches up", cluster.catches_up(1)).await;
    assert_eq!(values(&cluster.shard(1).expect("it has it"), 0), [&expected[..]; 2].concat());
    cluster.stop_all().await;
}
