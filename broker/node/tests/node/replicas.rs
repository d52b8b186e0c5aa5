//! A shard that grows from one node to three, and loses any of them.

use crate::cluster::{Cluster, within};
use crate::support::open_partition;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_a_shard_that_grew_to_three_nodes_survives_the_loss_of_any() {
    let mut cluster = Cluster::new();
    let mut expected = Vec::new();
    let value = |number: usize| [&number.to_le_bytes()[..], &[7; 2000]].concat();
    within("the first leads", cluster.leader()).await;
    open_partition(&cluster.shard(0).expect("the first has it"), 0).await;
    assert!(cluster.shard(1).is_none(), "it joins without a shard");
    let mut append = async |cluster: &Cluster, count: usize| {
        for _ in 0..count {
            let value = value(expected.len());
            within("an append", cluster.append(&value)).await;
            expected.push(value);
        }
        expected.clone()
    };
    append(&cluster, 300).await;
    for joining in [1, 2] {
        within("it joins", cluster.join(joining)).await;
        append(&cluster, 50).await;
    }
    for lost in [0, 1, 2] {
        cluster.stop(lost).await;
        let leader = within("another leads", cluster.leader()).await;
        assert_ne!(leader, lost);
        let expected = append(&cluster, 40).await;
        cluster.start(lost);
        within("it comes back", cluster.catches_up(lost)).await;
        for node in 0..3 {
            within("it follows", cluster.catches_up(node)).await;
            let found = cluster.distinct(node);
            assert_eq!(found.len(), expected.len(), "node {node}");
            assert_eq!(found, expected, "node {node}");
        }
    }
    // A node that was cut off continues where it was.
    cluster.net.cut.lock().insert(1);
    let expected = append(&cluster, 40).await;
    cluster.net.cut.lock().clear();
    within("it comes back", cluster.catches_up(1)).await;
    assert_eq!(cluster.distinct(1), expected);
    cluster.stop_all().await;
}
