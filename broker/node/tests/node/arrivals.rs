//! A broker that joins: it has no catalog, and receives it.

use futures_util::FutureExt;
use ropewalk_shard::ShardId;
use ropewalk_shard::engine::MembersChange;

use crate::cluster::{Cluster, REPLICAS, SHARD, within};
use crate::support::until;

/// Raft id of the catalog's replica on the second node.
const CATALOG_REPLICA: u64 = 70;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_joins_is_ready_once_it_has_the_catalog() {
    let mut cluster = Cluster::new();
    within("the first leads", cluster.leader()).await;
    let joined = std::sync::Arc::clone(cluster.node(1));
    assert!(joined.try_catalog().is_none() && !joined.is_ready());
    assert!(joined.damaged().is_empty());
    assert!(joined.catalog_arrived().now_or_never().is_none());
    assert_eq!(joined.shard_ids_held(), [(SHARD, REPLICAS[1])].into());
    let first = cluster.node(0).try_catalog().expect("a first broker has it").clone();
    within("it is ready", until(|| cluster.node(0).is_ready())).await;

    cluster.expect(1, ShardId::CATALOG, CATALOG_REPLICA);
    let waits = tokio::spawn({
        let joined = std::sync::Arc::clone(&joined);
        async move { joined.catalog_arrived().await.id() }
    });
    first.change_members(MembersChange::AddLearner(CATALOG_REPLICA)).await.expect("added");
    assert_eq!(within("it arrives", waits).await.expect("no panic"), ShardId::CATALOG);
    within("it has a leader", until(|| joined.is_ready())).await;
    let held = [(ShardId::CATALOG, CATALOG_REPLICA), (SHARD, REPLICAS[1])].into();
    assert_eq!(joined.shard_ids_held(), held);
    let catalog = joined.catalog();
    assert!(catalog.leading().is_none() && catalog.has_leader(), "a learner never leads");
    assert!(catalog.state().catalog.is_some());
    let is_caught_up = |replica| {
        let members = first.progress();
        let found = members.into_iter().find(|member| member.replica == replica);
        found.is_some_and(|member| !member.is_voter && member.is_caught_up)
    };
    within("it catches up", until(|| is_caught_up(CATALOG_REPLICA))).await;
    assert_eq!(catalog.progress(), [], "a learner knows nothing of the others");

    drop((joined, first));
    cluster.stop(1).await;
    cluster.open(1);
    let joined = cluster.node(1);
    assert_eq!(joined.incarnation(), 2);
    assert!(joined.catalog_arrived().now_or_never().is_some(), "it has it since the last start");
    cluster.stop_all().await;
}
