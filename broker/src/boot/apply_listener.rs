//! Passes the effects of applied entries to the parts of the broker that derive state from them.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::RwLock;
use ropewalk_node::{Node, Observer, ShardHandle};
use ropewalk_segment::SegmentConfig;
use ropewalk_shard::{Effect, PartitionId, ShardId};
use ropewalk_store::policy;

use crate::admin::WakeUps;
use crate::catalog::View;
use crate::cluster::Link;
use crate::group::Coordinator;
use crate::queue_metrics::{QueueMetrics, ShardLoad};

/// Receives the applied effects of all shards.
#[derive(Debug)]
pub(super) struct ApplyListener {
    view: Arc<View>,
    queue_metrics: Arc<QueueMetrics>,
    load: Arc<ShardLoad>,
    wake_ups: Arc<WakeUps>,
    /// The link that reports to the other brokers which shards lead here; `None` for a broker that
    /// is alone.
    link: Option<Arc<Link>>,
    /// The shards that lead here and have replayed their logs.
    leading: RwLock<BTreeSet<ShardId>>,
    /// Set once the node is open. The node is held weakly, so that it can be dropped.
    open: OnceLock<Open>,
}

#[derive(Debug)]
struct Open {
    node: Weak<Node>,
    groups: Arc<Coordinator>,
}

impl ApplyListener {
    pub(super) fn new(
        view: Arc<View>,
        (queue_metrics, load): (Arc<QueueMetrics>, Arc<ShardLoad>),
        wake_ups: Arc<WakeUps>,
        link: Option<Arc<Link>>,
    ) -> Self {
        let (leading, open) = (RwLock::default(), OnceLock::new());
        Self { view, queue_metrics, load, wake_ups, link, leading, open }
    }

    /// Loads the current catalog into the view, and from then on applies the catalog's changes to
    /// it.
    pub(super) fn follow(&self, node: &Arc<Node>, groups: &Arc<Coordinator>) {
        let open = Open { node: Arc::downgrade(node), groups: Arc::clone(groups) };
        self.open.set(open).expect("a node is opened once");
        // The catalog cannot change while its state is locked, so no change is missed between the
        // two.
        if let Some(catalog) = &node.catalog().state().catalog {
            self.view.reload(catalog);
        }
    }
}

impl Observer for ApplyListener {
    fn applied(&self, shard: ShardId, effects: &[Effect]) {
        // A lone replica replays its log before it leads.
        let is_leader = self.leading.read().contains(&shard);
        self.queue_metrics.applied(effects, is_leader);
        if is_leader {
            self.load.applied(shard, effects);
        }
        self.wake_ups.applied(effects);
        for effect in effects {
            let Effect::CatalogChanged(change) = effect else { continue };
            let Some(open) = self.open.get() else { return };
            let Some(node) = open.node.upgrade() else { return };
            if let Some(catalog) = &node.catalog().state().catalog {
                self.view.follow(catalog, change);
            }
        }
    }

    fn leads(&self, shard: ShardId, term: Option<u64>) {
        let mut leading = self.leading.write();
        if term.is_some() {
            leading.insert(shard)
        } else {
            leading.remove(&shard)
        };
        drop(leading);
        if let Some(link) = &self.link {
            link.leads();
        }
        // The coordinator reads the leaders elected before it existed when it starts.
        if let Some(open) = self.open.get() {
            open.groups.leads(shard, term);
        }
    }

    fn installed(&self, shard: &ShardHandle) {
        if shard.id() == ShardId::CATALOG
            && let Some(catalog) = &shard.state().catalog
        {
            self.view.reload(catalog);
        }
    }
}

/// How the segments of a partition are rolled and compacted, according to its topic's
/// configuration.
#[derive(Debug)]
pub(super) struct Policy(pub(super) Arc<View>);

impl policy::Policy for Policy {
    fn segments(&self, partition: PartitionId) -> SegmentConfig {
        self.0.by_id(partition.topic).map(|topic| topic.config.segment).unwrap_or_default()
    }

    fn compaction(&self, partition: PartitionId) -> Option<policy::CompactionPolicy> {
        let topic = self.0.by_id(partition.topic).filter(|topic| topic.config.compacts())?;
        Some(policy::CompactionPolicy {
            dirty_ratio_min: topic.config.dirty_ratio_min,
            delete_retention_ms: topic.config.delete_retention_ms,
            lag_ms_min: topic.config.compaction_lag_ms_min,
            lag_ms_max: topic.config.compaction_lag_ms_max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::random_topic_id;
    use crate::settings::Settings;

    #[test]
    fn a_replica_counts_only_while_it_leads_the_shard() {
        let settings = Settings::new(Vec::new()).expect("valid");
        let view = Arc::new(View::new(Arc::new(settings)));
        let queue_metrics = Arc::new(QueueMetrics::default());
        let load = Arc::new(ShardLoad::default());
        let metrics = (Arc::clone(&queue_metrics), Arc::clone(&load));
        let listener = ApplyListener::new(view, metrics, Arc::default(), None);
        let (shard, partition) = (ShardId(3), PartitionId { topic: random_topic_id(), index: 0 });
        let apply = |group: &str| {
            let group = group.to_owned();
            let committed =
                Effect::Committed { group, partition, before: None, after: 1, time_ms: 1 };
            let batch = ropewalk_batch::Builder::new().record(0, None, Some(b"v")).build();
            let batch = ropewalk_batch::StampedBatch::new(batch, 0, 0).expect("a batch");
            let appended = Effect::Appended { partition, batch, time_ms: 1 };
            listener.applied(shard, &[committed, appended]);
            load.bytes_per_second(shard, 1)
        };
        assert_eq!(apply("of the replay"), 0);
        listener.leads(ShardId(4), Some(2));
        assert_eq!(apply("of another leader"), 0);
        listener.leads(shard, Some(2));
        let counted = apply("counted");
        assert!(counted > 0);
        listener.leads(shard, None);
        assert_eq!(apply("of the next leader"), counted);
        assert_eq!(queue_metrics.groups(), ["counted"]);
    }
}
