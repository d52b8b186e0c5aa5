//! The bucket of the simulated cluster: objects with records, and pages that list objects.

use std::collections::{BTreeMap, BTreeSet};

use ropewalk_shard::manifest::{ObjectRef, PageRef};
use ropewalk_shard::state::Tier;

use crate::oracle::{Position, Value};

/// The name of an object: its partition, and what is different in others of the same offsets.
type Name = (i32, i64, [u64; 3]);

/// What a reader finds at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Record(Value),
    /// The page was replaced and deleted; this manifest is older than that.
    PageReplaced,
    /// No object, or another one than the manifest names.
    Nothing,
}

#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// Digest and records by name.
    objects: BTreeMap<Name, (u64, Vec<Value>)>,
    /// The objects that a page lists, by its digest.
    pages: BTreeMap<u64, Vec<ObjectRef>>,
    /// Digests of pages that were replaced and then deleted.
    replaced: BTreeSet<u64>,
    /// Whether names have neither the term nor the digest, and a put replaces what is there.
    overwrites: bool,
    /// Whether the bucket answers nothing.
    pub is_down: bool,
}

impl Bucket {
    pub(crate) fn new(overwrites: bool) -> Self {
        Self { overwrites, ..Self::default() }
    }

    fn name(&self, partition: i32, of: &ObjectRef) -> Name {
        let rest = [of.end.unsigned_abs(), of.term, of.digest];
        (partition, of.base, if self.overwrites { [0; 3] } else { rest })
    }

    /// Stores an object. One of the same name is the same object.
    pub(crate) fn put(&mut self, partition: i32, of: &ObjectRef, values: Vec<Value>) {
        self.objects.insert(self.name(partition, of), (of.digest, values));
    }

    /// Whether the bucket has an object, with this digest.
    pub(crate) fn has(&self, partition: i32, of: &ObjectRef) -> bool {
        let stored = self.objects.get(&self.name(partition, of));
        stored.is_some_and(|(digest, _)| *digest == of.digest)
    }

    pub(crate) fn delete(&mut self, partition: i32, of: &ObjectRef) {
        self.objects.remove(&self.name(partition, of));
    }

    pub(crate) fn put_page(&mut self, digest: u64, listed: Vec<ObjectRef>) {
        self.pages.insert(digest, listed);
    }

    pub(crate) fn delete_page(&mut self, page: &PageRef, is_replaced: bool) {
        self.pages.remove(&page.digest);
        if is_replaced {
            self.replaced.insert(page.digest);
        }
    }

    /// The objects that a page lists, also by way of other pages.
    pub(crate) fn listed(&self, page: &PageRef) -> Vec<ObjectRef> {
        self.pages.get(&page.digest).cloned().unwrap_or_default()
    }

    /// Every object that a tier references, oldest first.
    pub(crate) fn referenced(&self, tier: &Tier) -> Vec<ObjectRef> {
        let listed = tier.pages.iter().flat_map(|page| self.listed(page));
        listed.chain(tier.objects.iter().copied()).collect()
    }

    /// What a reader with this manifest finds at an offset.
    pub(crate) fn find(&self, tier: &Tier, (partition, offset): Position) -> Found {
        let listed;
        let object = match (tier.object_at(offset), tier.page_at(offset)) {
            (Some(object), _) => object,
            (None, Some(page)) if self.replaced.contains(&page.digest) => {
                return Found::PageReplaced;
            }
            (None, Some(page)) => {
                listed = self.listed(page);
                let holds = |object: &&ObjectRef| (object.base..object.end).contains(&offset);
                let Some(object) = listed.iter().find(holds) else { return Found::Nothing };
                object
            }
            (None, None) => return Found::Nothing,
        };
        let stored = self.objects.get(&self.name(partition, object));
        let Some((_, values)) = stored.filter(|(digest, _)| *digest == object.digest) else {
            return Found::Nothing;
        };
        let at = usize::try_from(offset - object.base).expect("it holds the offset");
        values.get(at).map_or(Found::Nothing, |value| Found::Record(*value))
    }
}
