//! Hands what the shards applied to those who keep something made from it.

use std::sync::{Arc, OnceLock, Weak};

use ropewalk_node::Node;
use ropewalk_node::Observer;
use ropewalk_segment::SegmentConfig;
use ropewalk_shard::{Effect, PartitionId, ShardId};
use ropewalk_store::policy;

use crate::admin::Bells;
use crate::catalog::View;
use crate::figures::Figures;
use crate::group::Coordinator;

/// Listens on the loops of all shards.
#[derive(Debug)]
pub(super) struct ApplyListener {
    view: Arc<View>,
    figures: Arc<Figures>,
    bells: Arc<Bells>,
    /// Only there when the node is open, and not kept alive from here.
    open: OnceLock<Open>,
}

#[derive(Debug)]
struct Open {
    node: Weak<Node>,
    groups: Arc<Coordinator>,
}

impl ApplyListener {
    pub(super) fn new(view: Arc<View>, figures: Arc<Figures>, bells: Arc<Bells>) -> Self {
        Self { view, figures, bells, open: OnceLock::new() }
    }

    /// From here on the catalog's changes are followed; all before are read now.
    pub(super) fn follow(&self, node: &Arc<Node>, groups: &Arc<Coordinator>) {
        let open = Open { node: Arc::downgrade(node), groups: Arc::clone(groups) };
        self.open.set(open).expect("a node is opened once");
        // The catalog cannot change while its state is held, so nothing falls between.
        if let Some(catalog) = &node.catalog().state().catalog {
            self.view.reload(catalog);
        }
    }
}

impl Observer for ApplyListener {
    fn applied(&self, _shard: ShardId, effects: &[Effect]) {
        self.figures.applied(effects);
        self.bells.applied(effects);
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
        // Who led before there was a coordinator, it finds itself.
        if let Some(open) = self.open.get() {
            open.groups.leads(shard, term);
        }
    }
}

/// How a partition's segments are cut and compacted: as its topic's configuration says.
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
