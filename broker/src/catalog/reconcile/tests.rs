//! Partitions of deleted topics are closed, and no others, under concurrent creation and deletion.

use ropewalk_shard::command::StartPosition;
use ropewalk_shard::state::catalog::Binding;
use tempfile::TempDir;

use super::*;
use crate::boot::{Broker, Start};
use crate::catalog::random_topic_id;
use crate::catalog::{NewTopic, Topics};
use crate::settings::Settings;

const SOON: Duration = Duration::from_secs(20);

async fn broker() -> (Broker, TempDir) {
    let dir = TempDir::new().expect("a directory");
    let pairs =
        [("listeners", "PLAINTEXT://127.0.0.1:0"), ("ropewalk.admin.listener", "127.0.0.1:0")];
    let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let start = Start {
        settings: Settings::new(pairs).expect("valid"),
        dir: dir.path().to_owned(),
        format: Some("cluster".to_owned()),
        on_fatal: Arc::new(|reason| panic!("{reason}")),
    };
    (Broker::start(start).await.expect("it starts"), dir)
}

fn reconciler(broker: &Broker) -> Reconciler {
    let context = broker.context();
    Reconciler::new(
        Arc::clone(&context.node),
        Arc::clone(&context.view),
        Arc::clone(&context.cluster),
    )
}

async fn create(broker: &Broker, name: String) -> TopicId {
    let topic = NewTopic { name, partitions: Some(3), configs: vec![], owner: None };
    let made = broker.context().topics.create(vec![topic], false).await;
    made.into_iter().next().expect("one").expect("made").id
}

async fn open(broker: &Broker, topic: TopicId) -> (Arc<ShardHandle>, PartitionId) {
    let partition = PartitionId { topic, index: 0 };
    let shard = Arc::clone(broker.context().node.shard(ShardId(5)).expect("not damaged"));
    let open = ShardCommand::OpenPartitions(vec![OpenPartition { partition, epoch_base: 0 }]);
    shard.propose(Command::Shard(open)).await.expect("it leads");
    assert!(shard.log(&partition).is_some());
    (shard, partition)
}

/// An entry that was in flight when its topic was deleted.
async fn open_late(broker: &Broker, n: usize) -> (Arc<ShardHandle>, PartitionId) {
    let topic = create(broker, format!("deleted-{n}")).await;
    broker.context().topics.delete(vec![topic]).await.expect("it leads")[0]
        .as_ref()
        .expect("it is");
    open(broker, topic).await
}

/// A partition of a topic that no catalog has listed.
async fn open_orphan(broker: &Broker) -> (Arc<ShardHandle>, PartitionId) {
    open(broker, random_topic_id()).await
}

async fn closes(shard: &ShardHandle, partition: PartitionId) {
    let gone = async {
        while shard.log(&partition).is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, gone).await.expect("it is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_late_entry_opened_is_closed_when_it_is_known_and_from_time_to_time() {
    let (broker, _dir) = broker().await;
    let reconciler = Reconciler { pass_interval: Duration::from_millis(50), ..reconciler(&broker) };
    let running = tokio::spawn(Arc::new(reconciler).run());
    for n in 0..2 {
        let (shard, partition) = open_late(&broker, n).await;
        closes(&shard, partition).await;
    }
    running.abort();
    // Opening partitions of a topic that is deleted by then triggers a pass at once.
    let (shard, partition) = open_late(&broker, 2).await;
    let patient = Arc::new(self::reconciler(&broker));
    patient.converge(&[partition.topic]).await.expect("nothing to open");
    let running = tokio::spawn(Arc::clone(&patient).run());
    closes(&shard, partition).await;
    let (shard, partition) = open_late(&broker, 3).await;
    patient.converge(&[partition.topic]).await.expect("nothing to open");
    closes(&shard, partition).await;
    running.abort();
    broker.stop().await;
}

/// A pass scans one shard after the other while topics are created: none of their partitions may be
/// treated as an orphan.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_partition_that_is_opened_while_it_looks_is_no_orphan() {
    let (broker, _dir) = broker().await;
    let reconciler = Arc::new(reconciler(&broker));
    let looking = tokio::spawn(async move {
        loop {
            reconciler.pass().await.expect("it leads");
            tokio::task::yield_now().await;
        }
    });
    for n in 0..60 {
        let id = create(&broker, format!("t{n}")).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let topic = broker.context().view.by_id(id).expect("made");
        for (index, home) in (0..).zip(&topic.partitions) {
            let shard = broker.context().node.shard(home.shard).expect("not damaged");
            let partition = PartitionId { topic: id, index };
            // If a partition was closed by mistake, opening it again would lose its records.
            assert!(shard.log(&partition).is_some(), "t{n}-{index}");
        }
    }
    looking.abort();
    broker.stop().await;
}

/// NATS #7556: a broker whose copy of the catalog lags, or whose catalog lost entries, took live
/// data for orphans and removed it.
#[tokio::test(flavor = "multi_thread")]
async fn nats_7556_a_partition_that_the_view_lacks_is_not_closed() {
    let (broker, _dir) = broker().await;
    let context = broker.context();
    let (shard, orphan) = open_orphan(&broker).await;
    let [known, deleted] = [create(&broker, "known".to_owned()), create(&broker, "old".to_owned())];
    let (known, deleted) = (known.await, deleted.await);
    let is_open = |topic| {
        let has = |shard: &Arc<ShardHandle>| shard.logs().iter().any(|(id, _)| id.topic == topic);
        context.node.shards().any(has)
    };
    // The oldest view that there can be.
    let stale = Arc::new(View::new(Arc::clone(&context.settings)));
    let cluster = Arc::clone(&context.cluster);
    let stale = Reconciler::new(Arc::clone(&context.node), stale, cluster);
    stale.pass().await.expect("it leads");
    stale.close_deleted(&[known, orphan.topic]).await.expect("it leads");
    assert!(shard.log(&orphan).is_some() && is_open(known) && is_open(deleted));
    assert_eq!(stale.orphans(), [orphan], "the catalog lists the others");

    context.topics.delete(vec![deleted]).await.expect("it leads")[0].as_ref().expect("it was");
    assert!(!is_open(deleted), "there is a proof");
    stale.pass().await.expect("it leads");
    assert!(shard.log(&orphan).is_some() && is_open(known));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_closed_when_a_person_gives_them_up_and_only_then() {
    let (broker, _dir) = broker().await;
    let (shard, orphan) = open_orphan(&broker).await;
    let order = TempDir::new().expect("a directory");
    orphans::keep(order.path()).expect("written");
    assert!(orphans::are_kept(order.path()) && !orphans::are_abandoned(order.path()));
    orphans::abandon(order.path()).expect("written");
    assert!(!orphans::are_kept(order.path()) && orphans::are_abandoned(order.path()));
    let dir = order.path().to_owned();
    let ordered = reconciler(&broker).abandoning_orphans(Some(dir));
    ordered.pass().await.expect("it leads");
    assert!(shard.log(&orphan).is_none());
    assert_eq!(ordered.orphans(), []);
    assert!(!orphans::are_abandoned(order.path()), "the order is carried out");
    let (shard, later) = open_orphan(&broker).await;
    ordered.pass().await.expect("it leads");
    assert!(shard.log(&later).is_some(), "it was not among those that were given up");
    assert_eq!(ordered.orphans(), [later]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repaired_catalog_gives_out_no_producer_id_twice() {
    let (broker, _dir) = broker().await;
    let context = broker.context();
    let lost = context.topics.allocate_producer_ids(1000).await.expect("it leads");
    let repaired = || {
        let (node, view) = (Arc::clone(&context.node), Arc::clone(&context.view));
        let reconciler = Arc::new(self::reconciler(&broker).with_repaired_catalog(true));
        Topics::new(node, view, Arc::clone(&context.settings), reconciler)
    };
    let topics = repaired();
    let first = topics.allocate_producer_ids(10).await.expect("it leads");
    assert!(first >= lost + 1000 + crate::limits::PRODUCER_IDS_LEFT_OUT, "{first}");
    let next = topics.allocate_producer_ids(10).await.expect("it leads");
    assert_eq!(next, first + 10, "once for each start");
    assert!(repaired().allocate_producer_ids(10).await.expect("it leads") > next + 10);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_group_begins_at_the_end_only_where_it_knew_of_an_end() {
    use ropewalk_batch::Builder;
    use ropewalk_shard::command::Append;
    use ropewalk_shard::proposal::SendOrder;

    let (broker, _dir) = broker().await;
    let id = create(&broker, "t".to_owned()).await;
    let context = broker.context();
    let topic = context.view.by_id(id).expect("made");
    for (index, home) in (0..).zip(&topic.partitions) {
        let shard = context.node.shard(home.shard).expect("not damaged");
        let batch = Builder::new().record(1, None, Some(b"v")).build();
        let partition = PartitionId { topic: id, index };
        let answer = shard
            .append(vec![Append { partition, batch }], SendOrder::default())
            .await
            .expect("it runs");
        assert!(answer.expect("taken")[0].is_ok());
    }
    // Bound when there was one partition; the others and their messages came before this pass.
    let binding = Binding { start: StartPosition::Latest, partitions: 1 };
    let begun = reconciler(&broker).start_group(&topic, "g", binding).await;
    assert_eq!(begun, Ok(vec![0, 1, 2]));
    let committed = |name: &str| -> Vec<i64> {
        let states = context.node.shards().map(|shard| shard.state().clone());
        let mut groups = states.filter_map(|state| state.groups.get(name).cloned());
        groups.next().expect("it began").offsets.values().map(|offset| offset.offset).collect()
    };
    assert_eq!(committed("g"), [1, 0, 0]);

    context.topics.delete(vec![id]).await.expect("asked");
    assert_eq!(committed("g"), [0; 0], "offsets are removed with their topic");
    broker.stop().await;
}

/// An earlier version of this broker may have reported less.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_reports_the_commands_that_it_reads_once() {
    let (broker, _dir) = broker().await;
    let (node, reconciler) = (&broker.context().node, reconciler(&broker));
    let (catalog, id) = (node.catalog(), node.identity().broker_id);
    let report = CatalogCommand::ReportLevel { broker: id, level: FORMAT_MAX - 1 };
    catalog.propose(Command::Catalog(report)).await.expect("it leads");
    reconciler.pass().await.expect("it leads");
    let reported = catalog.state().catalog.as_ref().and_then(|c| c.levels.get(&id).copied());
    assert_eq!(reported, Some(FORMAT_MAX));
    assert_eq!(catalog.level(), FORMAT_MAX);
    let applied = catalog.applied_index();
    reconciler.pass().await.expect("it leads");
    assert_eq!(catalog.applied_index(), applied, "the catalog knows it");
    broker.stop().await;
}
