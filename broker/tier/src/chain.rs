//! Objects that follow one another: which of the objects in a folder continue a manifest.
//!
//! A folder has more objects than a manifest names: the newest ones, which were put after the
//! manifest was written, and those of leaders that were deposed before they could add them. All of
//! them hold committed records only, so that any chain of objects, each of which begins where the
//! one before it ends, is a part of the partition.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::folders::Found;
use crate::names::Name;

/// Chains of objects: for each offset the best one that begins there.
pub(crate) struct Chains<'a> {
    objects: &'a [Found],
    /// By first offset: the end of the best chain from there, and its first object.
    best: BTreeMap<i64, Link>,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    /// The end of the chain.
    end: i64,
    /// Place of the first object in the list.
    first: usize,
}

impl<'a> Chains<'a> {
    /// The best chain from an offset is the one that ends last. Of several its first object is the
    /// longest one, then the one of the highest term.
    pub(crate) fn new(objects: &'a [Found]) -> Self {
        let mut order: Vec<usize> = (0..objects.len()).collect();
        order.sort_by_key(|at| Reverse(objects[*at].name.base));
        let mut best: BTreeMap<i64, Link> = BTreeMap::new();
        for at in order {
            let name = &objects[at].name;
            let end = best.get(&name.end).map_or(name.end, |next| next.end);
            let link = Link { end, first: at };
            let rank = |link: &Link| (link.end, rank_of(&objects[link.first].name));
            let known = best.entry(name.base).or_insert(link);
            if rank(known) < rank(&link) {
                *known = link;
            }
        }
        Self { objects, best }
    }

    /// The best chain from `start` on; empty if no object begins there.
    pub(crate) fn from(&self, start: i64) -> Vec<&'a Found> {
        let mut chain = Vec::new();
        let mut next = start;
        while let Some(link) = self.best.get(&next) {
            let object = &self.objects[link.first];
            next = object.name.end;
            chain.push(object);
        }
        chain
    }

    /// The first offset of the chain with the most offsets, of several the last one; `None` if
    /// there are no objects.
    pub(crate) fn longest(&self) -> Option<i64> {
        let longest = self.best.iter().max_by_key(|(base, link)| link.end - **base);
        longest.map(|(base, _)| *base)
    }
}

/// What distinguishes objects with the same base. The history and the digest only make the choice
/// the same each time.
fn rank_of(name: &Name) -> (i64, u64, u64, u64) {
    (name.end, name.term, name.history, name.digest)
}
