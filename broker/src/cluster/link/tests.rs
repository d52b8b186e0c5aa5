//! Whose message it is, and what a link takes before it is connected.

use parking_lot::Mutex;
use ropewalk_node::Peers;
use ropewalk_shard::HistoryId;
use ropewalk_shard::message::Body;
use tokio::sync::watch;

use super::super::directory::{ListedBroker, ListedReplica};
use super::*;

const SHARD: ShardId = ShardId(4);

/// The broker of each replica of [`SHARD`].
#[derive(Debug, Default)]
struct Listed(Mutex<BTreeMap<u64, BrokerId>>);

impl Directory for Listed {
    fn brokers(&self) -> Vec<ListedBroker> {
        Vec::new()
    }

    fn replicas(&self, _: ShardId) -> Vec<ListedReplica> {
        Vec::new()
    }

    fn broker_of(&self, shard: ShardId, replica: ReplicaId) -> Option<BrokerId> {
        self.0.lock().get(&replica.0).copied().filter(|_| shard == SHARD)
    }

    fn changed(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }
}

fn link() -> (Arc<Listed>, Arc<Link>) {
    let listed = Arc::new(Listed::default());
    let link = Link::new(BrokerId(1), Arc::clone(&listed) as _);
    (listed, link)
}

#[tokio::test]
async fn a_replica_is_of_the_broker_that_the_catalog_names() {
    let (listed, link) = link();
    listed.0.lock().insert(7, BrokerId(2));
    assert!(link.is_from(BrokerId(2), SHARD, 7));
    assert!(!link.is_from(BrokerId(3), SHARD, 7));
    assert_eq!(link.broker_of(SHARD, 7), Some(BrokerId(2)));
    assert_eq!(link.refused(), [("undecodable", 0), ("other_broker", 1)]);
}

#[tokio::test]
async fn a_replica_that_the_catalog_does_not_list_is_of_its_last_sender() {
    let (listed, link) = link();
    assert_eq!(link.broker_of(SHARD, 7), None);
    assert!(link.is_from(BrokerId(2), SHARD, 7));
    assert_eq!(link.broker_of(SHARD, 7), Some(BrokerId(2)));
    assert_eq!(link.broker_of(ShardId(5), 7), None, "of another shard");
    assert!(link.is_from(BrokerId(3), SHARD, 7));
    assert_eq!(link.broker_of(SHARD, 7), Some(BrokerId(3)));
    listed.0.lock().insert(7, BrokerId(2));
    assert_eq!(link.broker_of(SHARD, 7), Some(BrokerId(2)), "the catalog knows better");
    assert!(!link.is_from(BrokerId(3), SHARD, 7));
}

#[tokio::test]
async fn r1_learned_replicas_are_bounded() {
    let (_, link) = link();
    for replica in 0..2 * LEARNED_MAX as u64 {
        assert!(link.is_from(BrokerId(2), SHARD, replica));
    }
    assert_eq!(link.learned.lock().len(), LEARNED_MAX);
}

#[tokio::test]
async fn a_link_that_is_not_connected_takes_nothing() {
    let (listed, link) = link();
    listed.0.lock().insert(7, BrokerId(2));
    let message = Message { from: 1, to: 7, term: 1, body: Body::TimeoutNow };
    assert!(!Peers::send(&*link, SHARD, HistoryId(0), message.clone()));
    let encoded = message.encode(HistoryId(0)).to_bytes();
    assert_eq!(link.deliver(BrokerId(2), SHARD, encoded), Delivered::Done);
    let request = Request::Transfer { shard: SHARD, to: ReplicaId(7) }.encode().to_bytes();
    assert_eq!(Inbox::request(&*link, BrokerId(2), request).await, None);
}

#[tokio::test]
async fn a_report_counts_only_from_its_own_broker() {
    let (_, link) = link();
    let flags = super::super::report::Flags::default();
    let report = Report { broker: BrokerId(2), incarnation: 1, sequence: 1, flags, led: vec![] };
    link.hear(BrokerId(3), report.clone());
    assert_eq!(link.leaders(Leaders::reports).len(), 0);
    link.hear(BrokerId(2), report);
    assert_eq!(link.leaders(Leaders::reports).len(), 1);
    assert_eq!(link.refused(), [("undecodable", 0), ("other_broker", 1)]);
}
