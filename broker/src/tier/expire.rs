//! Retention of a partition with a tier, by age and by size. Reads no disk and no bucket.
//!
//! The total retention (`retention.*`) moves the log start over objects, and over local segments
//! that were not uploaded. The local retention (`local.retention.*`) moves the local start over
//! segments, but never past the end of the tier: what the manifest lacks stays on the disks (T1).

use ropewalk_node::ShardHandle;
use ropewalk_segment::SegmentInfo;
use ropewalk_segment::retention::{self, Retention};
use ropewalk_shard::PartitionId;
use ropewalk_shard::state::Tier;

use super::plan::part_from;

/// What retention removes at once: an object, all objects of a page, or a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unit {
    /// The offset after its last record.
    pub(super) end: i64,
    /// Its size in bytes.
    pub(super) bytes: u64,
    /// The largest timestamp of its records, Unix milliseconds; `None` without one.
    pub(super) max_timestamp_ms: Option<i64>,
}

impl Unit {
    /// An object or a page. Without a timestamp it has -1 there.
    pub(super) fn new(end: i64, bytes: u64, max_timestamp_ms: i64) -> Self {
        Self { end, bytes, max_timestamp_ms: Some(max_timestamp_ms).filter(|ms| *ms >= 0) }
    }
}

/// The objects that no page lists, and then what is on the disks only, from `log_start` on.
pub(super) fn newest_units(tier: &Tier, segments: &[SegmentInfo], log_start: i64) -> Vec<Unit> {
    let objects = tier.objects.iter().filter(|object| object.end > log_start);
    let objects = objects.map(|o| Unit::new(o.end, o.size_bytes, o.max_timestamp_ms));
    objects.chain(local_units(segments, tier.end.max(log_start))).collect()
}

/// The segments from `from` on. Of the one that contains it, the part behind it.
fn local_units(segments: &[SegmentInfo], from: i64) -> impl Iterator<Item = Unit> {
    let behind = segments.iter().filter(move |segment| segment.next_offset > from);
    behind.map(move |segment| Unit {
        end: segment.next_offset,
        bytes: part_from(segment, from),
        max_timestamp_ms: Some(segment.max_timestamp_ms.unwrap_or(segment.created_ms)),
    })
}

/// The new log start, if retention removes any of these units: the oldest ones, of a partition of
/// `total_bytes`.
///
/// A unit without a timestamp is as old as the one behind it.
pub(super) fn expired(
    units: impl IntoIterator<Item = Unit>,
    total_bytes: u64,
    now_ms: i64,
    retention: &Retention,
) -> Option<i64> {
    let mut kept_bytes = total_bytes;
    let mut log_start = None;
    for unit in units {
        kept_bytes = kept_bytes.saturating_sub(unit.bytes);
        let is_too_much = retention.retention_bytes.is_some_and(|bytes| kept_bytes >= bytes);
        let age_ms = unit.max_timestamp_ms.map(|youngest_ms| now_ms.saturating_sub(youngest_ms));
        match (retention.retention_ms, age_ms) {
            (_, _) if is_too_much => log_start = Some(unit.end),
            (Some(max_ms), Some(age_ms)) if age_ms > max_ms => log_start = Some(unit.end),
            // The next one decides.
            (Some(_), None) => {}
            (Some(_) | None, Some(_)) | (None, None) => break,
        }
    }
    log_start
}

/// The new log start by what the state of the shard has of the partition's objects, for a broker
/// without a bucket. All objects of a page are removed at once.
pub(crate) fn expired_without_bucket(
    shard: &ShardHandle,
    id: &PartitionId,
    segments: &[SegmentInfo],
    (now_ms, retention): (i64, &Retention),
) -> Option<i64> {
    let state = shard.state();
    let partition = state.partitions.get(id)?;
    let tier = partition.tier.as_deref()?;
    let pages = tier.pages.iter().filter(|page| page.end > partition.log_start);
    let pages = pages.map(|p| Unit::new(p.end, p.objects_bytes, p.max_timestamp_ms));
    let newest = newest_units(tier, segments, partition.log_start);
    let units: Vec<Unit> = pages.chain(newest).collect();
    let total_bytes = units.iter().map(|unit| unit.bytes).sum();
    expired(units, total_bytes, now_ms, retention)
}

/// The new local start, if local retention removes any segment of which the bucket has everything.
pub(super) fn local_start(
    tier: &Tier,
    segments: &[SegmentInfo],
    now_ms: i64,
    local: &Retention,
) -> Option<i64> {
    let start = retention::expired(segments, now_ms, local, tier.end);
    start.filter(|start| *start > tier.local_start)
}

/// How far retention removes whole pages that end at `log_start` or before; see
/// [`ropewalk_shard::command::TierChange::DropObjects`].
pub(super) fn droppable(tier: &Tier, log_start: i64) -> Option<i64> {
    if tier.deleted < tier.dropped || log_start <= tier.dropped {
        // One after the other, so that the grace period of the first ones ends.
        return None;
    }
    let has_object = tier.objects.iter().any(|object| object.end <= log_start);
    let has_page = tier.pages.iter().any(|page| page.base < log_start);
    (has_object || has_page).then_some(log_start)
}

/// Whether the grace period of what was dropped is over, and it is not deleted yet.
pub(super) fn is_deletable(tier: &Tier, now_ms: i64, grace_ms: i64) -> bool {
    tier.deleted < tier.dropped && now_ms.saturating_sub(tier.dropped_ms) >= grace_ms
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn units(timestamps: &[Option<i64>]) -> Vec<Unit> {
        let unit = |(n, ms): (i64, &Option<i64>)| Unit {
            end: n * 10 + 10,
            bytes: 100,
            max_timestamp_ms: *ms,
        };
        (0..).zip(timestamps).map(unit).collect()
    }

    fn by_age(retention_ms: i64) -> Retention {
        Retention { retention_ms: Some(retention_ms), retention_bytes: None }
    }

    fn by_size(retention_bytes: u64) -> Retention {
        Retention { retention_ms: None, retention_bytes: Some(retention_bytes) }
    }

    #[test]
    fn age_and_size_remove_the_oldest_units() {
        let given = || units(&[Some(10), Some(20), Some(5), Some(30)]);
        let expired = |now_ms, retention| expired(given(), 400, now_ms, &retention);
        assert_eq!(expired(60, by_age(50)), None);
        assert_eq!(expired(66, by_age(50)), Some(10), "the third hides behind the second");
        assert_eq!(expired(71, by_age(50)), Some(30));
        assert_eq!(expired(500, by_age(50)), Some(40));
        assert_eq!(expired(0, by_size(400)), None);
        assert_eq!(expired(0, by_size(300)), Some(10));
        assert_eq!(expired(0, by_size(150)), Some(20));
        assert_eq!(expired(i64::MAX, Retention::default()), None);
    }

    #[test]
    fn a_unit_without_timestamps_is_as_old_as_the_next_one() {
        let old = by_age(50);
        assert_eq!(expired(units(&[None, Some(10)]), 200, 100, &old), Some(20));
        assert_eq!(expired(units(&[None, Some(90)]), 200, 100, &old), None);
        assert_eq!(expired(units(&[Some(10), None]), 200, 100, &old), Some(10));
        assert_eq!(expired(units(&[None, None]), 200, 0, &by_size(100)), Some(10));
        assert_eq!(Unit::new(1, 1, -1).max_timestamp_ms, None);
    }

    fn segments(ends: &[i64]) -> Vec<SegmentInfo> {
        let mut base_offset = 0;
        let mut all = Vec::new();
        for end in ends {
            all.push(SegmentInfo {
                base_offset,
                next_offset: *end,
                size_bytes: (*end - base_offset) as u64,
                max_timestamp_ms: Some(*end),
                created_ms: 0,
                records: 0,
                is_sealed: true,
                is_compacted: false,
            });
            base_offset = *end;
        }
        all
    }

    fn tier(local_start: i64, end: i64) -> Tier {
        Tier {
            is_enabled: true,
            local_start,
            end,
            dropped: 0,
            dropped_ms: 0,
            deleted: 0,
            pages: [].into(),
            objects: [].into(),
            replaced: Vec::new(),
        }
    }

    #[test]
    fn t1_local_retention_never_passes_the_end_of_the_tier() {
        let segments = segments(&[100, 200, 300]);
        for (end, expected) in [(0, None), (99, None), (100, Some(100)), (250, Some(200))] {
            let start = local_start(&tier(0, end), &segments, i64::MAX, &by_age(1));
            assert_eq!(start, expected, "the tier ends at {end}");
        }
        assert_eq!(local_start(&tier(200, 250), &segments, i64::MAX, &by_age(1)), None);
        assert_eq!(local_start(&tier(0, 300), &segments, 0, &by_size(250)), None);
        assert_eq!(local_start(&tier(0, 300), &segments, 0, &by_size(100)), Some(200));
    }

    proptest! {
        #[test]
        fn t1_whatever_the_segments_and_limits(
            ends in prop::collection::btree_set(1_i64..1_000, 1..20),
            (start, end) in (0_i64..1_000, 0_i64..1_000),
            (now_ms, age_ms, bytes) in (0_i64..2_000, any::<Option<u8>>(), any::<Option<u8>>()),
        ) {
            let segments = segments(&ends.into_iter().collect::<Vec<_>>());
            let (start, end) = (start.min(end), start.max(end));
            let local = Retention {
                retention_ms: age_ms.map(i64::from),
                retention_bytes: bytes.map(u64::from),
            };
            let moved = local_start(&tier(start, end), &segments, now_ms, &local);
            prop_assert!(moved.is_none_or(|moved| start < moved && moved <= end), "{moved:?}");
        }
    }

    #[test]
    fn what_is_not_uploaded_counts_for_the_total() {
        let units = newest_units(&tier(0, 150), &segments(&[100, 200, 300]), 0);
        let expected = [
            Unit { end: 200, bytes: 50, max_timestamp_ms: Some(200) },
            Unit { end: 300, bytes: 100, max_timestamp_ms: Some(300) },
        ];
        assert_eq!(units, expected);
        let units = newest_units(&tier(0, 150), &segments(&[100, 200, 300]), 250);
        assert_eq!(units, [Unit { end: 300, bytes: 50, max_timestamp_ms: Some(300) }]);
    }

    #[test]
    fn objects_are_dropped_after_the_log_start_moved_and_the_earlier_ones_are_deleted() {
        let object = |base: i64| ropewalk_shard::manifest::ObjectRef {
            base,
            end: base + 10,
            history: ropewalk_shard::HistoryId(0),
            term: 1,
            size_bytes: 1,
            digest: 0,
            max_timestamp_ms: 0,
            first_epoch: 0,
        };
        let mut tier = Tier { objects: [object(0), object(10)].into(), ..tier(0, 20) };
        assert_eq!(droppable(&tier, 0), None);
        assert_eq!(droppable(&tier, 9), None, "the first object still has a record");
        assert_eq!(droppable(&tier, 12), Some(12));
        (tier.dropped, tier.dropped_ms) = (10, 1_000);
        assert_eq!(droppable(&tier, 20), None, "the first one is not deleted yet");
        assert!(!is_deletable(&tier, 1_999, 1_000) && is_deletable(&tier, 2_000, 1_000));
        tier.deleted = 10;
        assert!(!is_deletable(&tier, 2_000, 1_000));
        assert_eq!(droppable(&tier, 20), Some(20));
    }
}
