//! Retention by time and by size.
//!
//! The leader of a shard calls [`expired`] periodically and proposes the result as a new log start
//! offset; every replica applies it with [`crate::Segments::set_log_start`]. Pure.
//!
//! Invariants: only whole segments are removed, the oldest first, without a gap. Nothing at or
//! above the high watermark is removed.

use crate::view::SegmentInfo;

/// Limits of a partition's age and size; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Age from which records are removed (`retention.ms`).
    pub retention_ms: Option<i64>,
    /// The oldest segments are removed as long as the others have at least this size
    /// (`retention.bytes`).
    pub retention_bytes: Option<u64>,
}

/// The new log start offset, if retention removes any segment.
///
/// The age of a segment is that of its youngest record. Without records (compaction removed them),
/// it is the age of its file.
#[must_use]
pub fn expired(
    segments: &[SegmentInfo],
    now_ms: i64,
    retention: &Retention,
    high_watermark: i64,
) -> Option<i64> {
    let mut kept_bytes: u64 = segments.iter().map(|segment| segment.size_bytes).sum();
    let mut log_start = None;
    for segment in segments {
        let youngest_ms = segment.max_timestamp_ms.unwrap_or(segment.created_ms);
        let is_old = retention
            .retention_ms
            .is_some_and(|retention_ms| now_ms.saturating_sub(youngest_ms) > retention_ms);
        kept_bytes -= segment.size_bytes;
        let is_too_much = retention.retention_bytes.is_some_and(|bytes| kept_bytes >= bytes);
        let is_committed = segment.next_offset <= high_watermark;
        if !is_committed || !(is_old || is_too_much) {
            break;
        }
        log_start = Some(segment.next_offset);
    }
    log_start
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments of 10 offsets and 100 bytes with these largest timestamps.
    fn segments(youngest_ms: &[i64]) -> Vec<SegmentInfo> {
        (0..)
            .zip(youngest_ms)
            .map(|(n, youngest_ms)| SegmentInfo {
                base_offset: n * 10,
                next_offset: n * 10 + 10,
                size_bytes: 100,
                max_timestamp_ms: Some(*youngest_ms),
                created_ms: 0,
                records: 10,
                is_sealed: true,
                is_compacted: false,
            })
            .collect()
    }

    fn by_age(retention_ms: i64) -> Retention {
        Retention { retention_ms: Some(retention_ms), retention_bytes: None }
    }

    fn by_size(retention_bytes: u64) -> Retention {
        Retention { retention_ms: None, retention_bytes: Some(retention_bytes) }
    }

    #[test]
    fn for_ever_lets_nothing_go() {
        assert_eq!(expired(&segments(&[1, 2, 3]), i64::MAX, &Retention::default(), 30), None);
        assert_eq!(expired(&[], 100, &by_age(0), 30), None);
    }

    #[test]
    fn age_goes_by_the_youngest_record_and_stops_at_the_first_that_stays() {
        let given = segments(&[10, 20, 5, 30]);
        assert_eq!(expired(&given, 60, &by_age(50), 40), None);
        assert_eq!(expired(&given, 61, &by_age(50), 40), Some(10));
        assert_eq!(expired(&given, 66, &by_age(50), 40), Some(10), "the third hides behind");
        assert_eq!(expired(&given, 71, &by_age(50), 40), Some(30));
        assert_eq!(expired(&given, 500, &by_age(50), 40), Some(40), "the last one too");
    }

    #[test]
    fn size_keeps_at_least_what_was_asked_for() {
        let given = segments(&[0, 0, 0, 0]);
        assert_eq!(expired(&given, 0, &by_size(400), 40), None);
        assert_eq!(expired(&given, 0, &by_size(301), 40), None);
        assert_eq!(expired(&given, 0, &by_size(300), 40), Some(10));
        assert_eq!(expired(&given, 0, &by_size(150), 40), Some(20));
    }

    #[test]
    fn nothing_uncommitted_goes() {
        let given = segments(&[0, 0, 0]);
        assert_eq!(expired(&given, 1_000, &by_age(1), 25), Some(20));
        assert_eq!(expired(&given, 1_000, &by_age(1), 9), None);
    }

    #[test]
    fn an_emptied_segment_is_as_old_as_its_file() {
        let mut given = segments(&[0]);
        given[0].max_timestamp_ms = None;
        given[0].created_ms = 100;
        assert_eq!(expired(&given, 150, &by_age(50), 10), None);
        assert_eq!(expired(&given, 151, &by_age(50), 10), Some(10));
    }
}
