//! What the applied state of the shards says about objects and pages.

use std::fmt;
use std::sync::Arc;

use ropewalk_node::Node;
use ropewalk_shard::PartitionId;
use ropewalk_shard::state::Tier;
use ropewalk_store::remote::RemoteRange;
use ropewalk_tier::{Entries, ObjectRef, Page, PageRef};

use crate::catalog::View;
use crate::tier::convert;

/// An object, or a page that lists objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// An object with records.
    Object(ObjectRef),
    /// A page of the manifest.
    Page(PageRef),
}

impl Entry {
    /// The first offset.
    pub(super) fn base(&self) -> i64 {
        match self {
            Self::Object(object) => object.base,
            Self::Page(page) => page.base,
        }
    }

    /// The offset after the last one.
    fn end(&self) -> i64 {
        match self {
            Self::Object(object) => object.end,
            Self::Page(page) => page.end,
        }
    }

    /// The largest timestamp, Unix milliseconds.
    pub(super) fn max_timestamp_ms(&self) -> i64 {
        match self {
            Self::Object(object) => object.max_timestamp_ms,
            Self::Page(page) => page.max_timestamp_ms,
        }
    }

    /// Whether it has offsets of the range.
    pub(super) fn overlaps(&self, range: RemoteRange) -> bool {
        self.base() < range.until && self.end() > range.from
    }
}

/// The entries of a page.
pub(super) fn entries_of(page: &Page) -> Vec<Entry> {
    match page.entries() {
        Entries::Objects(objects) => objects.iter().copied().map(Entry::Object).collect(),
        Entries::Pages(pages) => pages.iter().copied().map(Entry::Page).collect(),
    }
}

/// The manifests of the partitions, as far as they are applied on this broker.
pub(crate) trait Manifests: Send + Sync + fmt::Debug {
    /// The object with this offset, or the page that lists it.
    fn entry_at(&self, partition: PartitionId, offset: i64) -> Option<Entry>;

    /// All objects and pages with offsets of the range, in the order of offsets.
    fn entries(&self, partition: PartitionId, range: RemoteRange) -> Vec<Entry>;
}

/// The manifests in the shards of this broker.
#[derive(Debug)]
pub(crate) struct ShardManifests {
    node: Arc<Node>,
    view: Arc<View>,
}

impl ShardManifests {
    /// The manifests in the shards of `node`, which `view` finds.
    pub(crate) fn new(node: Arc<Node>, view: Arc<View>) -> Arc<Self> {
        Arc::new(Self { node, view })
    }

    fn tier<R>(&self, partition: PartitionId, look: impl FnOnce(&Tier) -> R) -> Option<R> {
        let topic = self.view.by_id(partition.topic)?;
        let (id, home) = topic.partition(partition.index)?;
        let state = self.node.shard(home.shard)?.state();
        state.partitions.get(&id)?.tier.as_deref().map(look)
    }
}

impl Manifests for ShardManifests {
    fn entry_at(&self, partition: PartitionId, offset: i64) -> Option<Entry> {
        let entry = |tier: &Tier| {
            let object =
                tier.object_at(offset).map(|object| Entry::Object(convert::object(object)));
            object.or_else(|| tier.page_at(offset).map(|page| Entry::Page(convert::page(page))))
        };
        self.tier(partition, entry).flatten()
    }

    fn entries(&self, partition: PartitionId, range: RemoteRange) -> Vec<Entry> {
        let entries = |tier: &Tier| {
            let pages = tier.pages.iter().map(|page| Entry::Page(convert::page(page)));
            let objects = tier.objects.iter().map(|object| Entry::Object(convert::object(object)));
            pages.chain(objects).filter(|entry| entry.overlaps(range)).collect()
        };
        self.tier(partition, entries).unwrap_or_default()
    }
}
