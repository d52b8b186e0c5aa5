//! What is wrong with one partition, by the names in its folder, its manifest and its pages. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{CheckOptions, Problem, ProblemKind};
use crate::chain::Chains;
use crate::folders::Found;
use crate::manifest::{Manifest, Part, Parts};
use crate::names::{Name, ObjectRef, PageRef, PartitionKey};
use crate::page::{Entries, Page};

/// What is in the folder of a partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contents<'a> {
    pub(super) key: &'a PartitionKey,
    pub(super) objects: &'a [Found],
    pub(super) page_names: &'a [Found],
    /// The pages that could be read.
    pub(super) pages: &'a BTreeMap<Name, Page>,
}

/// What follows from the names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The objects whose contents are to be read.
    pub(super) expected: Vec<Expected>,
    pub(super) problems: Vec<Problem>,
    /// Number of objects and pages that no manifest names and that are young.
    pub(super) young: u64,
}

/// An object whose contents are to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) name: Name,
    pub(super) size_bytes: u64,
    /// What the manifest says of it, if a manifest names it.
    pub(super) reference: Option<ObjectRef>,
    /// Whether a running cluster may delete it during the check.
    pub(super) may_vanish: bool,
}

/// Judges one partition. `is_deleted` says that its topic is.
pub(super) fn judge(
    contents: Contents<'_>,
    manifest: Option<&Manifest>,
    is_deleted: bool,
    options: CheckOptions,
) -> Verdict {
    let mut judge = Judge {
        contents,
        options,
        listed: contents.objects.iter().map(|found| (&found.name, found)).collect(),
        named: BTreeMap::new(),
        retired: BTreeSet::new(),
        pages: BTreeSet::new(),
        verdict: Verdict::default(),
    };
    if is_deleted {
        judge.rest_of_deleted_topic();
    } else if let Some(manifest) = manifest {
        judge.with_manifest(manifest);
    } else {
        judge.without_manifest();
    }
    judge.finish()
}

struct Judge<'a> {
    contents: Contents<'a>,
    options: CheckOptions,
    listed: BTreeMap<&'a Name, &'a Found>,
    /// The objects that belong to the partition, and what the manifest says of them.
    named: BTreeMap<Name, Option<ObjectRef>>,
    /// Those of them that end at the log start or before: they may be deleted.
    retired: BTreeSet<Name>,
    /// The pages that belong to the partition.
    pages: BTreeSet<Name>,
    verdict: Verdict,
}

impl<'a> Judge<'a> {
    fn add(&mut self, kind: ProblemKind, name: &Name, why: impl Into<String>) {
        let (name, why) = (name.to_string(), why.into());
        self.verdict.problems.push(Problem { kind, name, why });
    }

    /// A problem of the partition as a whole.
    fn add_range(&mut self, kind: ProblemKind, why: String) {
        let name = self.contents.key.folder();
        self.verdict.problems.push(Problem { kind, name, why });
    }

    fn add_gap(&mut self, from: i64, to: i64) {
        self.add_range(ProblemKind::Gap, format!("offsets {from} to {to} are in no object"));
    }

    fn with_manifest(&mut self, manifest: &Manifest) {
        let Parts { parts, pages } = manifest.parts(self.contents.key, self.contents.pages);
        self.pages = pages;
        let mut next = manifest.log_start;
        let mut unread: Vec<(i64, i64)> = Vec::new();
        for part in parts {
            let (base, end) = part.range();
            match part {
                Part::Object(object) => self.expect(object, manifest.log_start),
                Part::Unread(page) => {
                    self.expect_page(&page, manifest.log_start);
                    unread.push((base, end));
                }
            }
            if end <= manifest.log_start {
                continue;
            }
            if base > next {
                self.add_gap(next, base);
            } else if base < next && next > manifest.log_start {
                let why = format!("the manifest names offsets {base} to {next} twice");
                self.add_range(ProblemKind::Overlap, why);
            }
            next = next.max(end);
        }
        if next < manifest.end {
            self.add_gap(next, manifest.end);
        }
        self.adopt(&unread);
        let end = self.continue_from(manifest.end.max(next));
        self.others((manifest.log_start, end), true);
    }

    /// A page that a manifest, or a page, names. Retention deletes it after its objects. One that
    /// is damaged was reported when it was read.
    fn expect_page(&mut self, page: &PageRef, log_start: i64) {
        let name = page.name(self.contents.key);
        let is_there = self.contents.page_names.iter().any(|found| found.name == name);
        if !is_there && page.end > log_start {
            self.add(ProblemKind::Missing, &name, "the manifest names this page");
        }
    }

    /// An object that a manifest names.
    fn expect(&mut self, object: ObjectRef, log_start: i64) {
        let name = object.name(self.contents.key);
        let is_retired = object.end <= log_start;
        match self.listed.get(&name).map(|found| found.size_bytes) {
            None if is_retired => return,
            None => self.add(ProblemKind::Missing, &name, "the manifest names this object"),
            Some(found) if found != object.size_bytes => {
                let wanted = object.size_bytes;
                let why = format!("it has {found} bytes, the manifest says {wanted}");
                self.add(ProblemKind::Damaged, &name, why);
            }
            Some(_) => {}
        }
        if is_retired {
            self.retired.insert(name.clone());
        }
        self.named.insert(name, Some(object));
    }

    /// Takes the objects in the ranges of pages that cannot be read for those that they list.
    fn adopt(&mut self, unread: &[(i64, i64)]) {
        for (base, end) in unread {
            let within = self.contents.objects.iter().map(|found| &found.name);
            let within = within.filter(|name| name.base >= *base && name.end <= *end);
            self.named.extend(within.map(|name| (name.clone(), None)));
        }
    }

    /// Names the objects of the best chain from `start` on. Returns its end.
    fn continue_from(&mut self, start: i64) -> i64 {
        let chain = Chains::new(self.contents.objects).from(start);
        let end = chain.last().map_or(start, |last| last.name.end);
        for object in chain {
            self.named.entry(object.name.clone()).or_insert(None);
        }
        end
    }

    fn without_manifest(&mut self) {
        let chains = Chains::new(self.contents.objects);
        let Some(start) = chains.longest() else {
            return self.unnamed_pages();
        };
        let pages = self.contents.pages;
        for (name, page) in pages {
            if self.is_replaced(name) {
                continue;
            }
            self.pages.insert(name.clone());
            match page.entries() {
                Entries::Objects(objects) => {
                    // What ends before is reported as a gap, or was deleted by retention.
                    let objects = objects.iter().filter(|object| object.end > start);
                    objects.for_each(|object| self.expect(*object, start));
                }
                Entries::Pages(pages) => {
                    pages.iter().for_each(|page| self.expect_page(page, start));
                }
            }
        }
        let end = self.continue_from(start);
        self.others((start, end), false);
    }

    /// Whether another page lists everything that this one does.
    fn is_replaced(&self, name: &Name) -> bool {
        self.contents.page_names.iter().any(|other| {
            let other = &other.name;
            other.kind == name.kind && other.base == name.base && other.end > name.end
        })
    }

    /// The objects that do not belong to the partition, which has `[start, end)`. Without a
    /// manifest it is unknown where the partition starts: what ends before may belong to it.
    fn others(&mut self, (start, end): (i64, i64), has_manifest: bool) {
        let mut ranges: Vec<(i64, i64)> = vec![(start, end)];
        for found in self.contents.objects {
            let name = &found.name;
            if self.named.contains_key(name) {
                continue;
            }
            let is_before = name.end <= start && !has_manifest;
            let is_beyond = name.base < end && name.end > end;
            if name.base >= end || is_before {
                ranges.push((name.base, name.end));
            } else if self.is_young(found) {
                self.verdict.young += 1;
            } else if is_beyond {
                let why = format!("no manifest names it, and others end at {end}");
                self.add(ProblemKind::Overlap, name, why);
            } else {
                self.add(ProblemKind::Orphan, name, "no manifest names it");
            }
        }
        ranges.sort_unstable();
        let mut next = ranges.first().map_or(start, |(base, _)| *base);
        for (base, end) in ranges {
            if base > next {
                self.add_gap(next, base);
            }
            next = next.max(end);
        }
        self.unnamed_pages();
    }

    fn unnamed_pages(&mut self) {
        for found in self.contents.page_names {
            if self.pages.contains(&found.name) {
                continue;
            }
            // A page waits for the grace period from when another one replaced it.
            let replaced_by = self.contents.page_names.iter().filter(|other| {
                let (other, name) = (&other.name, &found.name);
                self.pages.contains(other)
                    && other.kind == name.kind
                    && other.base <= name.base
                    && other.end >= name.end
            });
            let newest = replaced_by.map(|other| other.modified_ms).max();
            let since_ms = newest.map_or(found.modified_ms, |newest| newest.max(found.modified_ms));
            if self.is_young_since(since_ms) {
                self.verdict.young += 1;
            } else {
                self.add(ProblemKind::Orphan, &found.name, "no manifest names this page");
            }
        }
    }

    fn rest_of_deleted_topic(&mut self) {
        let all = self.contents.objects.iter().chain(self.contents.page_names);
        for found in all {
            if self.is_young(found) {
                self.verdict.young += 1;
            } else {
                self.add(ProblemKind::Orphan, &found.name, "its topic was deleted");
            }
        }
    }

    fn is_young(&self, found: &Found) -> bool {
        self.is_young_since(found.modified_ms)
    }

    fn is_young_since(&self, since_ms: i64) -> bool {
        since_ms.saturating_add(self.options.grace_ms) > self.options.now_ms
    }

    /// All objects in the list are read.
    fn finish(mut self) -> Verdict {
        for found in self.contents.objects {
            let reference = self.named.get(&found.name);
            self.verdict.expected.push(Expected {
                name: found.name.clone(),
                size_bytes: found.size_bytes,
                reference: reference.copied().flatten(),
                may_vanish: reference.is_none() || self.retired.contains(&found.name),
            });
        }
        self.verdict
    }
}
