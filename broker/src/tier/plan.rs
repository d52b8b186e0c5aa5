//! Decides when a partition takes objects, when the next one is uploaded, and when its manifest is
//! folded into a page. Pure.
//!
//! # Objects per day
//!
//! A partition uploads when an object is full, or when its oldest record has waited for
//! [`UploadRules::age_max`]. So a quiet partition makes at most one object in this time: 24 a day
//! with the default of one hour, and one more for each change of its leader.

use std::time::Duration;

use ropewalk_segment::SegmentInfo;
use ropewalk_shard::limits::{
    TIER_OBJECTS_MAX, TIER_PAGE_ENTRIES_MAX, TIER_PAGES_MAX, TIER_REPLACED_MAX,
};
use ropewalk_shard::manifest::{ObjectRef, PageRef};
use ropewalk_shard::state::Tier;
use tokio::time::Instant;

use crate::settings::topic::TierPolicy;

/// From so many objects on that no page lists, the oldest are folded into a page.
const FOLD_FROM: usize = TIER_OBJECTS_MAX * 3 / 4;

/// How many objects, or pages of objects, are folded at once.
const FOLD_COUNT: usize = TIER_OBJECTS_MAX / 2;

/// From so many pages of objects on, the oldest are folded into a page of pages.
const FOLD_PAGES_FROM: usize = TIER_PAGES_MAX * 3 / 4;

const _: () = assert!(FOLD_COUNT < FOLD_FROM && FOLD_COUNT < FOLD_PAGES_FROM);

/// A change of whether a partition takes objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Switch {
    /// It takes objects from now on.
    Enable,
    /// It takes no further objects.
    Disable,
    /// Its log starts where its local records start, so that all objects are dropped.
    Discard {
        /// The new log start.
        log_start: i64,
    },
}

/// What has to change so that a partition follows the policy of its topic.
pub(super) fn switch(policy: TierPolicy, log_start: i64, tier: Option<&Tier>) -> Option<Switch> {
    match (policy, tier) {
        (TierPolicy::Upload, None) => Some(Switch::Enable),
        (TierPolicy::Upload, Some(tier)) => (!tier.is_enabled).then_some(Switch::Enable),
        (TierPolicy::Keep | TierPolicy::Discard, None) => None,
        (TierPolicy::Keep | TierPolicy::Discard, Some(tier)) if tier.is_enabled => {
            Some(Switch::Disable)
        }
        (TierPolicy::Keep, Some(_)) => None,
        (TierPolicy::Discard, Some(tier)) => {
            let log_start = Some(tier.local_start).filter(|start| *start > log_start);
            log_start.map(|log_start| Switch::Discard { log_start })
        }
    }
}

/// When objects are uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UploadRules {
    /// Size of the records of a full object, bytes.
    pub(crate) object_bytes: u64,
    /// The longest time that a record waits.
    pub(crate) age_max: Duration,
}

impl UploadRules {
    /// Whether an object is uploaded now, when so many bytes wait, the oldest of them for so long.
    pub(super) fn is_due(self, bytes: u64, waited: Duration) -> bool {
        bytes > 0 && (bytes >= self.object_bytes || waited >= self.age_max)
    }
}

/// Since when a partition has records that are not uploaded. A record counts from when it was first
/// seen here, because its own timestamp is the producer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    end: i64,
    since: Option<Instant>,
}

impl Waiting {
    /// The partition as it is found by a new leader or process, which cannot know how long its
    /// records have waited: they count as having waited for `waited`.
    pub(super) fn found(end: i64, next_offset: i64, now: Instant, waited: Duration) -> Self {
        let since = (end < next_offset).then(|| now.checked_sub(waited).unwrap_or(now));
        Self { end, since }
    }

    /// The end of the tier and of the log now. Returns for how long the oldest record has waited.
    pub(super) fn observe(&mut self, end: i64, next_offset: i64, now: Instant) -> Duration {
        if end >= next_offset {
            self.since = None;
        } else if self.end != end {
            self.since = Some(now);
        }
        self.end = end;
        if end < next_offset {
            let since = *self.since.get_or_insert(now);
            return now.saturating_duration_since(since);
        }
        Duration::ZERO
    }
}

/// The age that the youngest record of the oldest segment that is not uploaded has by its own
/// timestamp, at most `age_max`.
pub(super) fn age_found(
    segments: &[SegmentInfo],
    end: i64,
    now_ms: i64,
    age_max: Duration,
) -> Duration {
    let oldest = segments.iter().find(|segment| segment.next_offset > end);
    let youngest_ms = oldest.and_then(|segment| segment.max_timestamp_ms).unwrap_or(now_ms);
    let age_ms = u64::try_from(now_ms.saturating_sub(youngest_ms)).unwrap_or(0);
    Duration::from_millis(age_ms).min(age_max)
}

/// Bytes from `end` on, by the sizes of segments: of one that contains `end` a part in proportion
/// to its offsets.
pub(super) fn bytes_from(segments: &[SegmentInfo], end: i64) -> u64 {
    segments.iter().map(|segment| part_from(segment, end)).sum()
}

/// Bytes of a segment from `end` on.
pub(super) fn part_from(segment: &SegmentInfo, end: i64) -> u64 {
    let SegmentInfo { base_offset, next_offset, size_bytes, .. } = *segment;
    if end <= base_offset {
        return size_bytes;
    }
    if end >= next_offset {
        return 0;
    }
    let (part, whole) = ((next_offset - end) as u128, (next_offset - base_offset) as u128);
    // At least one byte: something is there.
    (u128::from(size_bytes) * part / whole).max(1) as u64
}

/// Objects or pages that become the entries of one page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fold {
    /// The page that the new one replaces, and whose entries come first.
    pub(super) grows: Option<PageRef>,
    /// What is added.
    pub(super) entries: FoldEntries,
}

/// What a page is to list, oldest first, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FoldEntries {
    /// The oldest objects without a page.
    Objects(Vec<ObjectRef>),
    /// The oldest pages of objects.
    Pages(Vec<PageRef>),
}

/// The next fold of a tier, if it references many objects or pages.
pub(super) fn fold(tier: &Tier) -> Option<Fold> {
    let is_level = |level: u8| move |page: &&PageRef| page.level == level;
    if tier.pages.iter().filter(is_level(0)).count() >= FOLD_PAGES_FROM {
        let pages = tier.pages.iter().filter(is_level(0)).take(FOLD_COUNT);
        let pages = contiguous(pages.copied(), |page| (page.base, page.end));
        let grows = tier.pages.iter().rfind(is_level(1));
        let grows = grows.filter(|page| grows_by(tier, page, pages.len(), pages[0].base)).copied();
        return Some(Fold { grows, entries: FoldEntries::Pages(pages) });
    }
    if tier.objects.len() >= FOLD_FROM {
        let objects = tier.objects.iter().take(FOLD_COUNT);
        let objects = contiguous(objects.copied(), |object| (object.base, object.end));
        let grows = tier.pages.iter().rfind(is_level(0));
        let base = objects[0].base;
        let grows = grows.filter(|page| grows_by(tier, page, objects.len(), base)).copied();
        return Some(Fold { grows, entries: FoldEntries::Objects(objects) });
    }
    None
}

/// Whether a page has room for so many more entries that begin at `base`, and may be replaced.
fn grows_by(tier: &Tier, page: &PageRef, count: usize, base: i64) -> bool {
    let has_room = page.count as usize + count <= TIER_PAGE_ENTRIES_MAX as usize;
    page.end == base && has_room && tier.replaced.len() < TIER_REPLACED_MAX
}

/// The entries up to the first gap. A gap is where a log start passed the end of the tier.
fn contiguous<T>(entries: impl Iterator<Item = T>, range: impl Fn(&T) -> (i64, i64)) -> Vec<T> {
    let mut kept: Vec<T> = Vec::new();
    for entry in entries {
        if kept.last().is_some_and(|last| range(last).1 != range(&entry).0) {
            break;
        }
        kept.push(entry);
    }
    kept
}

#[cfg(test)]
mod tests;
