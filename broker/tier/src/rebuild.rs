//! What a partition can be rebuilt from after the loss of all brokers: its last known manifest, and
//! the objects behind it.
//!
//! ```text
//! manifest ─▶ objects that it names ─▶ objects in the folder that follow ─▶ footers ─▶ Rebuilt
//! ```
//!
//! A manifest is as old as the checkpoint that it is from. Objects that were put later are found by
//! their names: all objects hold committed records only, so that every chain of them, each of which
//! begins where the one before it ends, is a part of the partition. The chain that ends last is
//! taken.
//!
//! # What is read
//!
//! All pages, and the footers of: the objects behind the manifest, and the newest objects of the
//! manifest, for the producers that wrote there (D5). These are at most
//! [`limits::REBUILD_FOOTERS_MAX`], and none with records that are [`limits::REBUILD_AGE_MAX_MS`]
//! older than the newest ones: a producer does not repeat a batch after so long. The records are
//! not read; [`crate::check`] verifies them.
//!
//! # Losses
//!
//! What cannot be read is not skipped in silence: a partition has no gaps, so that everything
//! before a missing object is lost with it. [`Rebuilt::losses`] says what is missing, and the
//! caller decides whether to accept that.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{self, StreamExt};

use crate::bucket::Bucket;
use crate::chain::Chains;
use crate::error::TierError;
use crate::folders::{Folder, Found};
use crate::identity::Origin;
use crate::limits;
use crate::manifest::{Manifest, Part, ReadPages, read_pages};
use crate::names::{Name, ObjectRef, PageRef, PartitionKey};
use crate::object::{EpochStart, Footer, Producer};
use crate::page::{EncodedPage, Entries, Page};
use crate::reader::fetch_footer;

mod merge;

use merge::{Epochs, Producers};

/// What is known of a partition from a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownPartition {
    /// The first offset that was read.
    pub log_start: i64,
    /// The leader epochs of the log, ascending.
    pub epochs: Vec<EpochStart>,
    /// The manifest; `None` if the partition had no tier.
    pub manifest: Option<Manifest>,
}

/// What a partition can be rebuilt from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// The first offset that can be read.
    pub log_start: i64,
    /// The offset behind the last object.
    pub end: i64,
    /// The pages that list the oldest objects, ascending.
    pub pages: Vec<PageRef>,
    /// The other objects, ascending.
    pub objects: Vec<ObjectRef>,
    /// The leader epochs of these offsets, ascending.
    pub epochs: Vec<EpochStart>,
    /// The highest leader epoch that is known; `None` if none is.
    pub highest_epoch: Option<i32>,
    /// The producers that wrote in the newest objects, ascending by id.
    pub producers: Vec<Producer>,
    /// Size of all objects.
    pub objects_bytes: u64,
    /// Why offsets of the manifest are lost: one line for each missing object or page.
    pub losses: Vec<String>,
    /// Objects that are not used, with the reason.
    pub ignored: Vec<(Name, String)>,
}

impl Rebuilt {
    /// Whether there is nothing to restore.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end == 0
    }
}

/// Finds what a partition can be rebuilt from.
///
/// # Errors
/// When the bucket cannot be read. What is missing or damaged is a part of the result.
pub async fn rebuild(
    bucket: &Bucket,
    key: &PartitionKey,
    folder: &Folder,
    known: Option<&KnownPartition>,
) -> Result<Rebuilt, TierError> {
    let ReadPages { pages, damaged } = read_pages(bucket, folder).await?;
    let (epochs, producers) = (Epochs::default(), Producers::default());
    let mut work =
        Work { bucket, key, folder, pages, epochs, producers, rebuilt: Rebuilt::default() };
    let damaged: BTreeMap<Name, String> = damaged.into_iter().collect();
    let mut named = Vec::new();
    match known.and_then(|known| known.manifest.as_ref()) {
        Some(manifest) => named = work.with_manifest(manifest, &damaged),
        None => work.start_without_manifest(known.map_or(0, |known| known.log_start)),
    }
    work.epochs = Epochs::new(known.map_or(&[][..], |known| &known.epochs));
    work.read_newest(&named).await?;
    work.follow().await?;
    Ok(work.finish(&named))
}

struct Work<'a> {
    bucket: &'a Bucket,
    key: &'a PartitionKey,
    folder: &'a Folder,
    pages: BTreeMap<Name, Page>,
    epochs: Epochs,
    producers: Producers,
    rebuilt: Rebuilt,
}

impl Work<'_> {
    /// Takes what the manifest names, from behind the last part of it that is missing. Returns all
    /// objects that it names there, those in pages included.
    fn with_manifest(
        &mut self,
        manifest: &Manifest,
        damaged: &BTreeMap<Name, String>,
    ) -> Vec<ObjectRef> {
        let parts = manifest.parts(self.key, &self.pages).parts;
        let sizes: BTreeMap<&Name, u64> =
            self.folder.objects.iter().map(|found| (&found.name, found.size_bytes)).collect();
        let (mut start, mut next) = (manifest.log_start, manifest.log_start);
        let mut losses = Vec::new();
        for part in &parts {
            let (base, end) = part.range();
            if end <= manifest.log_start {
                continue;
            }
            if base > next {
                losses.push(format!("offsets {next} to {base} are in no object"));
                start = base;
            }
            let missing = match part {
                Part::Object(object) => self.missing(object, &sizes),
                Part::Unread(page) => {
                    let name = page.name(self.key);
                    let why = damaged.get(&name).cloned();
                    Some(format!("{name}: {}", why.unwrap_or_else(|| "it is missing".into())))
                }
            };
            if let Some(missing) = missing {
                losses.push(format!("offsets {base} to {end}: {missing}"));
                start = end;
            }
            next = next.max(end);
        }
        if next < manifest.end {
            losses.push(format!("offsets {next} to {} are in no object", manifest.end));
            (start, next) = (manifest.end, manifest.end);
        }
        let rebuilt = &mut self.rebuilt;
        (rebuilt.log_start, rebuilt.end, rebuilt.losses) = (start, next, losses);
        let read = |page: &&PageRef| page.end > start;
        rebuilt.pages = manifest.pages.iter().filter(read).copied().collect();
        rebuilt.objects = manifest.objects.iter().filter(|o| o.end > start).copied().collect();
        let objects = parts.iter().filter_map(|part| match part {
            Part::Object(object) => Some(*object),
            Part::Unread(_) => None,
        });
        objects.filter(|object| object.end > start).collect()
    }

    /// Why an object that the manifest names cannot be used.
    fn missing(&self, object: &ObjectRef, sizes: &BTreeMap<&Name, u64>) -> Option<String> {
        let name = object.name(self.key);
        match sizes.get(&name) {
            None => Some(format!("{name}: it is missing")),
            Some(found) if *found != object.size_bytes => {
                Some(format!("{name}: it has {found} bytes, not {}", object.size_bytes))
            }
            Some(_) => None,
        }
    }

    /// Begins where the best chain of objects does.
    fn start_without_manifest(&mut self, log_start: i64) {
        let chains = Chains::new(&self.folder.objects);
        let is_at_start = !chains.from(log_start).is_empty();
        let start = if is_at_start { Some(log_start) } else { chains.longest() };
        let start = start.unwrap_or(log_start);
        (self.rebuilt.log_start, self.rebuilt.end) = (start, start);
    }

    /// Reads the producers and epochs of the newest objects that the manifest names.
    async fn read_newest(&mut self, named: &[ObjectRef]) -> Result<(), TierError> {
        let newest_ms = named.iter().map(|object| object.max_timestamp_ms).max().unwrap_or(-1);
        let oldest_ms = newest_ms.saturating_sub(limits::REBUILD_AGE_MAX_MS);
        let is_new = |object: &&ObjectRef| object.max_timestamp_ms >= oldest_ms;
        let newest = named.iter().rev().take(limits::REBUILD_FOOTERS_MAX).take_while(is_new);
        let newest: Vec<ObjectRef> = newest.copied().collect();
        for object in newest.iter().rev() {
            let name = object.name(self.key);
            match fetch_footer(self.bucket, &name, object.size_bytes).await {
                Ok(footer) => self.add(&footer),
                Err(error @ (TierError::Damaged { .. } | TierError::Missing { .. })) => {
                    let (base, end) = (object.base, object.end);
                    let loss = format!("producers of offsets {base} to {end}: {error}");
                    self.rebuilt.losses.push(loss);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn add(&mut self, footer: &Footer) {
        self.epochs.add(&footer.epochs);
        self.producers.add(&footer.producers);
    }

    /// Adds the objects that follow what the manifest names.
    async fn follow(&mut self) -> Result<(), TierError> {
        let mut left: Vec<Found> = self.folder.objects.clone();
        loop {
            let chain = Chains::new(&left).from(self.rebuilt.end);
            let chain: Vec<Found> = chain.into_iter().cloned().collect();
            let Some(unusable) = self.follow_chain(chain).await? else { return Ok(()) };
            left.retain(|found| found.name != unusable);
        }
    }

    /// Adds the objects of a chain, up to the first one that cannot be used: it is returned.
    async fn follow_chain(&mut self, chain: Vec<Found>) -> Result<Option<Name>, TierError> {
        let bucket = self.bucket;
        let mut footers = stream::iter(chain)
            .map(|next| async move {
                (fetch_footer(bucket, &next.name, next.size_bytes).await, next.name)
            })
            .buffered(limits::REBUILD_READS_AT_ONCE);
        while let Some((footer, name)) = footers.next().await {
            match footer {
                Ok(footer) => {
                    self.rebuilt.end = name.end;
                    self.rebuilt.objects.push(footer.reference(name.digest));
                    self.add(&footer);
                }
                Err(TierError::Damaged { source, .. }) => {
                    self.rebuilt.ignored.push((name.clone(), source.to_string()));
                    return Ok(Some(name));
                }
                Err(TierError::Missing { .. }) => return Ok(Some(name)),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Sums up, and lists the objects that are not used.
    fn finish(self, named: &[ObjectRef]) -> Rebuilt {
        let Self { key, folder, epochs, producers, mut rebuilt, .. } = self;
        let (start, end) = (rebuilt.log_start, rebuilt.end);
        rebuilt.highest_epoch = epochs.highest();
        rebuilt.epochs = epochs.between(start, end);
        rebuilt.producers = producers.finish();
        let in_pages: u64 = rebuilt.pages.iter().map(|page| page.objects_bytes).sum();
        let beside: u64 = rebuilt.objects.iter().map(|object| object.size_bytes).sum();
        rebuilt.objects_bytes = in_pages + beside;
        let used = named.iter().chain(&rebuilt.objects).map(|object| object.name(key));
        let known: BTreeSet<Name> =
            used.chain(rebuilt.ignored.iter().map(|(name, _)| name.clone())).collect();
        for Found { name, .. } in &folder.objects {
            if !known.contains(name) && name.end > start {
                let is_behind = name.base > end;
                let why = if is_behind { "it is behind a gap" } else { "another is used" };
                rebuilt.ignored.push((name.clone(), why.to_owned()));
            }
        }
        rebuilt
    }
}

/// The pages that list all but the newest `keep` of these contiguous objects, and these newest
/// ones.
///
/// # Panics
/// Never: objects of a [`Rebuilt`] follow one another.
#[must_use]
pub fn fold(
    key: &PartitionKey,
    origin: Origin,
    objects: &[ObjectRef],
    keep: usize,
) -> (Vec<EncodedPage>, Vec<ObjectRef>) {
    let (folded, kept) = objects.split_at(objects.len().saturating_sub(keep));
    let pages = folded.chunks(limits::PAGE_ENTRIES_MAX as usize).map(|entries| {
        let page = Page::new(key.clone(), origin, Entries::Objects(entries.to_vec()));
        page.expect("the objects follow one another").encode()
    });
    (pages.collect(), kept.to_vec())
}

#[cfg(test)]
mod tests;
