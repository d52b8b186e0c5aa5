//! What follows from the end of another broker's process.

use ropewalk_shard::BrokerId;

use super::Link;

impl Link {
    /// The process of a broker has ended: what it led has no leader. The replicas here need not
    /// wait for an election timeout, and clients are not sent there any more.
    pub(super) fn has_ended(&self, broker: BrokerId) {
        self.leaders.write().remove(broker);
        if let Some(node) = self.node() {
            for shard in node.shards() {
                let (_, leader) = shard.leader_seen();
                if let Some(leader) = leader
                    && self.broker_of(shard.id(), leader) == Some(broker)
                {
                    shard.ended(leader);
                }
            }
        }
        self.tell();
    }

    /// A broker is heard of in this incarnation: an earlier process of it has ended.
    pub(super) fn is_in(&self, broker: BrokerId, incarnation: u64) {
        let last = self.leaders.read().report(broker).map(|report| report.incarnation);
        if last.is_some_and(|last| last < incarnation) {
            self.has_ended(broker);
        }
    }
}
