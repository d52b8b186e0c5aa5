//! Compaction: keeps only the last record of each key.
//!
//! The broker calls [`crate::Segments::plan_compaction`] when [`dirty_ratio`] is high enough, takes
//! one [`Replacement`] after the other from the [`CompactionJob`] without holding a lock, and
//! passes each to [`crate::Segments::install`]. Each replica compacts by itself: offsets and
//! records are equal on all replicas, files need not be.
//!
//! The job has two parts. It reads the *dirty* segments (never compacted) into `Keys`, a
//! bounded map from key to its last offset. Then it rewrites all segments up to the last one that
//! was read completely, and drops each record for whose key the map has a later offset. A partly
//! filled map drops fewer records, never wrong ones. If even the first dirty segment does not fit,
//! the keys are split into parts by their hash, and the job processes the same segments once per
//! part. Small adjacent segments are merged.
//!
//! # Invariants
//!
//! - Offsets never change, and for a reader no batch or segment changes where it begins or ends.
//! - Only sealed and durable segments that end at or below [`Compaction::end`] are changed.
//! - A record of an aborted transaction is removed, and does not cause an older record of its key
//!   to be removed. An abort marker is kept as long as [`Compaction::aborted`] has its transaction;
//!   a commit marker is kept until its records are removed and `delete.retention.ms` has passed.
//! - The last batch of each producer in [`Compaction::producers`] is kept, possibly without
//!   records.
//! - **R1.** Memory is bounded by [`Compaction::keys_bytes_max`], a block and a write buffer; the
//!   additional disk space by one segment.
//!
//! # After a crash
//!
//! Before its commit a replacement is a pair of `.cleaned` files, which recovery removes; after it,
//! there is an `.index.swap` file, and recovery completes the replacement. The steps are in
//! `broker/segment/src/compaction/install.rs`.

pub(crate) mod keys;
pub(crate) mod transactions;
pub(crate) mod rewrite;
pub(crate) mod install;

use std::collections::HashMap;
use std::sync::Arc;

use ropewalk_batch::{RewriteOutcome, StampedBatch, Tombstones, retain};

use crate::error::{Damage, Result};
use crate::index::{Entry, Header};
use crate::view::{OpenSegment, SegmentInfo, SharedSegments};
use keys::{Keys, Part, SeededHasher};
use rewrite::Output;
use transactions::Transactions;

pub use install::Replacement;

/// Number of index entries that are read at once.
const ENTRIES: u32 = 256;

/// Largest number of parts of keys. If it is too low, some keys are not compacted.
const PARTS_MAX: u32 = 1 << 12;

/// An aborted transaction: the offsets of its first record and of its marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Id of the producer.
    pub producer_id: i64,
    /// Offset of its first record.
    pub first_offset: i64,
    /// Offset of its abort marker.
    pub last_offset: i64,
}

/// Parameters of a compaction.
#[derive(Debug, Clone)]
pub struct Compaction {
    /// Segments that end above this offset are not changed: the last stable offset, or the base of
    /// the segment that the older kept snapshot has as its durable end.
    pub end: i64,
    /// The broker's time at the start of this pass.
    pub now_ms: i64,
    /// How long a tombstone is kept for consumers to read it (`delete.retention.ms`).
    pub delete_retention_ms: i64,
    /// Adjacent segments are merged up to this size in bytes.
    pub segment_bytes: u64,
    /// Limit of the memory of the map of keys in bytes.
    pub keys_bytes_max: usize,
    /// Limit of the decompressed size of one batch in bytes.
    pub records_bytes_max: usize,
    /// The aborted transactions that fetch responses still list.
    pub aborted: Vec<AbortedTransaction>,
    /// The last offset of the last batch of each known producer, by producer id.
    pub producers: HashMap<i64, i64>,
}

/// The share of bytes below `end` that were never compacted, from 0 to 1.
#[must_use]
pub fn dirty_ratio(segments: &[SegmentInfo], end: i64) -> f64 {
    let candidates = candidates(segments, end);
    let bytes = |segments: &mut dyn Iterator<Item = &SegmentInfo>| -> u64 {
        segments.map(|segment| segment.size_bytes).sum()
    };
    let all = bytes(&mut candidates.iter());
    let dirty = bytes(&mut candidates.iter().filter(|segment| !segment.is_compacted));
    if all == 0 { 0.0 } else { dirty as f64 / all as f64 }
}

/// The segments that may be changed: the oldest ones, as long as they are sealed and below `end`.
fn candidates(segments: &[SegmentInfo], end: i64) -> &[SegmentInfo] {
    let may = |segment: &&SegmentInfo| segment.is_sealed && segment.next_offset <= end;
    &segments[..segments.iter().take_while(may).count()]
}

/// A compaction in progress. It holds no lock and no open file between two steps.
#[derive(Debug)]
pub struct CompactionJob {
    shared: Arc<SharedSegments>,
    request: Compaction,
    candidates: Vec<SegmentInfo>,
    /// The next part of the keys, and the number of parts.
    part: u32,
    parts: u32,
    parting: SeededHasher,
    pass: Option<Pass>,
}

/// One pass over the segments with one map of keys.
#[derive(Debug)]
struct Pass {
    keys: Keys,
    transactions: Transactions,
    /// Segments still to be rewritten, in reverse order.
    left: Vec<SegmentInfo>,
    /// Whether all keys are processed after this pass.
    is_last: bool,
}

impl CompactionJob {
    /// A job for the segments that may be changed, if any of them is dirty.
    pub(crate) fn new(
        shared: Arc<SharedSegments>,
        request: Compaction,
        segments: &[SegmentInfo],
    ) -> Option<Self> {
        let candidates = candidates(segments, request.end).to_vec();
        let end = candidates.last()?.next_offset;
        let request = Compaction { end, ..request };
        let parting = SeededHasher(shared.disk.draw());
        candidates.iter().any(|segment| !segment.is_compacted).then_some(Self {
            shared,
            request,
            candidates,
            part: 0,
            parts: 1,
            parting,
            pass: None,
        })
    }

    /// Rewrites the next segment, or several small ones as one. `None` when all is done; keys that
    /// did not fit into the map are left for another job.
    ///
    /// The replacement must be installed before the next call.
    #[expect(clippy::should_implement_trait, reason = "it can fail, and is not for adapters")]
    pub fn next(&mut self) -> Result<Option<Replacement>> {
        install::finish(&self.shared)?;
        loop {
            if self.part == self.parts {
                return Ok(None);
            }
            let mut pass = match self.pass.take() {
                Some(pass) => pass,
                None => self.begin()?,
            };
            while !pass.left.is_empty() {
                if let Some(replacement) = pass.rewrite(&self.shared, &self.request)? {
                    self.pass = Some(pass);
                    return Ok(Some(replacement));
                }
            }
            self.part += 1;
        }
    }

    /// Reads keys and decides which segments this pass rewrites.
    fn begin(&mut self) -> Result<Pass> {
        self.candidates = candidates(&self.shared.view.read().infos(), self.request.end).to_vec();
        let is_dirty = |segment: &&SegmentInfo| !segment.is_compacted;
        let Some(first) = self.candidates.iter().find(is_dirty).cloned() else {
            self.part = self.parts - 1; // Retention removed all dirty segments.
            let keys = self.keys(0, None);
            let transactions = Transactions::new(&self.request);
            return Ok(Pass { keys, transactions, left: Vec::new(), is_last: true });
        };
        let (mut keys, mut whole) = self.read_keys(self.part, self.parts)?;
        while whole == 0 && self.parts < PARTS_MAX {
            // Not even one segment fits: the number of its records gives an upper bound of the
            // number of parts.
            let parts = Keys::parts(first.records, self.request.keys_bytes_max);
            (self.part, self.parts) = (0, parts.max(2 * self.parts));
            (keys, whole) = self.read_keys(self.part, self.parts)?;
        }
        let is_last = self.part + 1 == self.parts;
        // With several parts, the job covers only the first dirty segment, however many were read.
        let whole = if self.parts > 1 { 1 } else { whole };
        let mut dirty = 0;
        let within = self.candidates.iter().take_while(|segment| {
            dirty += usize::from(!segment.is_compacted);
            dirty <= whole
        });
        let mut left: Vec<SegmentInfo> = within.cloned().collect();
        left.reverse();
        let transactions = Transactions::new(&self.request);
        Ok(Pass { keys, transactions, left, is_last })
    }

    fn keys(&self, bytes_max: usize, part: Option<Part>) -> Keys {
        let disk = &self.shared.disk;
        Keys::new([SeededHasher(disk.draw()), SeededHasher(disk.draw())], bytes_max, part)
    }

    /// Reads the keys of dirty segments until the map is full. Returns how many segments were read
    /// completely.
    fn read_keys(&self, part: u32, parts: u32) -> Result<(Keys, usize)> {
        let part = Part { number: part, of: parts, hasher: self.parting };
        let mut keys = self.keys(self.request.keys_bytes_max, Some(part));
        let transactions = Transactions::new(&self.request);
        let mut whole = 0;
        for info in self.candidates.iter().filter(|segment| !segment.is_compacted) {
            let Some(segment) = open(&self.shared, info)? else { continue };
            segment.each_batch(|batch| {
                if batch.header().is_control() || transactions.is_aborted(batch) {
                    return Ok(true);
                }
                let limit_bytes = self.request.records_bytes_max;
                segment.records(batch, limit_bytes, |record| {
                    if let Some(key) = &record.key {
                        keys.put(key, batch.base_offset + i64::from(record.offset_delta));
                    }
                })?;
                Ok(!keys.is_full())
            })?;
            if keys.is_full() {
                break;
            }
            whole += 1;
        }
        Ok((keys, whole))
    }
}

impl Pass {
    /// Rewrites the next segment and the following ones that fit into the same file. `None` if
    /// nothing changed.
    fn rewrite(
        &mut self,
        shared: &Arc<SharedSegments>,
        request: &Compaction,
    ) -> Result<Option<Replacement>> {
        let mut output: Option<Output> = None;
        let mut replaced = Vec::new();
        let mut is_changed = false;
        while let Some(info) = self.left.last().cloned() {
            // Before the last part, clean and dirty segments are not merged.
            let is_alike =
                |first: &SegmentInfo| self.is_clean_after(first) == self.is_clean_after(&info);
            let fits = output.as_ref().is_none_or(|output| output.has_room(&info, request));
            if !fits || !replaced.first().is_none_or(is_alike) {
                break;
            }
            self.left.pop();
            let Some(segment) = open(shared, &info)? else {
                break; // Retention removed it; the next segment is not adjacent to the previous one.
            };
            let output = match &mut output {
                Some(output) => output,
                none => none.insert(Output::create(shared, info.base_offset)?),
            };
            is_changed |= self.copy(&segment, request, output)?;
            is_changed |= info.is_compacted != self.is_clean_after(&info);
            replaced.push(info);
        }
        let Some(output) = output else { return Ok(None) };
        if !is_changed && replaced.len() == 1 {
            output.discard();
            return Ok(None);
        }
        let created_ms = replaced.iter().map(|info| info.created_ms).max().unwrap_or(0);
        let header = Header {
            base_offset: replaced[0].base_offset,
            created_ms,
            compacted_end: replaced.last().map(|info| info.next_offset),
            is_clean: replaced.iter().all(|info| self.is_clean_after(info)),
        };
        output.finish(&header, replaced).map(Some)
    }

    /// Whether every key of a segment is processed after this pass.
    fn is_clean_after(&self, info: &SegmentInfo) -> bool {
        self.is_last || info.is_compacted
    }

    /// Copies the kept batches of a segment. Returns whether anything was removed or changed.
    fn copy(
        &mut self,
        segment: &OpenSegment,
        request: &Compaction,
        output: &mut Output,
    ) -> Result<bool> {
        let mut is_changed = false;
        segment.each_batch(|batch| {
            match self.kept_part(segment, batch, request)? {
                KeptBatch::Unchanged => output.push(batch)?,
                KeptBatch::Rewritten(other) => {
                    is_changed |= other.bytes != batch.bytes;
                    output.push(&other)?;
                }
                KeptBatch::Removed => is_changed = true,
            }
            Ok(true)
        })?;
        Ok(is_changed)
    }

    fn kept_part(
        &mut self,
        segment: &OpenSegment,
        batch: &StampedBatch,
        request: &Compaction,
    ) -> Result<KeptBatch> {
        let header = batch.header();
        if header.is_control() {
            let is_commit = segment.is_commit(batch, request.records_bytes_max)?;
            let stays = self.transactions.keeps_marker(batch, is_commit, request);
            return Ok(if stays { KeptBatch::Unchanged } else { KeptBatch::Removed });
        }
        let is_aborted = self.transactions.is_aborted(batch);
        let tombstones =
            Tombstones { now_ms: request.now_ms, retention_ms: request.delete_retention_ms };
        let outcome = retain(batch, &tombstones, request.records_bytes_max, |record| {
            let offset = batch.base_offset + i64::from(record.offset_delta);
            !is_aborted && record.key.as_ref().is_some_and(|key| self.keys.is_last(key, offset))
        })
        .map_err(|error| segment.no_records(batch, &error))?;
        let stays = match outcome {
            RewriteOutcome::Unchanged => KeptBatch::Unchanged,
            RewriteOutcome::Thinned { batch, .. } => KeptBatch::Rewritten(batch),
            RewriteOutcome::Emptied { batch } => {
                let last = request.producers.get(&header.producer_id);
                if last != Some(&batch.last_offset()) {
                    return Ok(KeptBatch::Removed);
                }
                return Ok(KeptBatch::Rewritten(batch));
            }
        };
        self.transactions.kept_data(&header);
        Ok(stays)
    }
}

/// The part of a batch that is kept.
enum KeptBatch {
    Unchanged,
    Rewritten(StampedBatch),
    Removed,
}

/// Opens a segment that existed when the job began. `None` if it was removed or replaced.
fn open(shared: &Arc<SharedSegments>, info: &SegmentInfo) -> Result<Option<OpenSegment>> {
    let view = shared.view.read();
    let same = view.segments.iter().find(|segment| {
        segment.base_offset == info.base_offset && segment.end_offset == info.next_offset
    });
    same.map(|segment| segment.open(shared)).transpose()
}

impl OpenSegment {
    /// Calls `each` with every verified batch in order, until it returns false.
    fn each_batch(&self, mut each: impl FnMut(&StampedBatch) -> Result<bool>) -> Result<()> {
        let mut number = 0;
        while number < self.index.blocks {
            let entries: Vec<Entry> = self.index.entries(number, ENTRIES)?;
            number += entries.len() as u32;
            for block in &entries {
                for batch in self.batches(block)? {
                    if !each(&batch)? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a control batch is a commit marker: its record's key is {version, type}, and the
    /// type of a commit is 1.
    fn is_commit(&self, batch: &StampedBatch, limit_bytes: usize) -> Result<bool> {
        let mut kind = None;
        self.records(batch, limit_bytes, |record| {
            kind = record.key.and_then(|key| key.get(2..4).map(<[u8]>::to_vec));
        })?;
        let kind = kind.ok_or_else(|| {
            let what = format!("the control batch at offset {} has no type", batch.base_offset);
            Damage::new(&self.log_path, 0, what)
        })?;
        Ok(kind == [0, 1])
    }
}
