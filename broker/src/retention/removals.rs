//! Log lines about records that retention removes: the partition, its new log start, how much is
//! removed, and which setting caused it.
//!
//! Invariant: **R1** at most [`LINES_PER_MINUTE_MAX`] lines a minute. Suppressed lines are counted
//! and reported with the first removal of a later minute.

use ropewalk_segment::SegmentInfo;
use ropewalk_segment::retention::Retention;
use tracing::info;

use crate::catalog::TopicView;

/// Most partitions that are logged within a minute.
const LINES_PER_MINUTE_MAX: usize = 100;

/// The log lines of the current minute.
#[derive(Debug, Default)]
pub(super) struct Removals {
    minute: i64,
    lines: usize,
    left_out: usize,
}

/// The records that are removed from one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct RemovedRecords {
    bytes: u64,
    records: u64,
    /// The newest timestamp that is removed, Unix milliseconds.
    newest_ms: Option<i64>,
    is_old: bool,
}

/// A partition whose log start retention moves.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogStartMove<'a> {
    /// Index of the partition in its topic.
    pub(super) index: i32,
    /// All segments before the move.
    pub(super) segments: &'a [SegmentInfo],
    /// The new log start.
    pub(super) start: i64,
}

impl Removals {
    /// Logs that retention moves the log start of a partition of `topic`.
    pub(super) fn note(
        &mut self,
        topic: &TopicView,
        LogStartMove { index, segments, start }: LogStartMove<'_>,
        now_ms: i64,
    ) {
        if !self.may_log(now_ms) {
            return;
        }
        let retention = topic.config.retention();
        let removed = removed(segments, start, &retention, now_ms);
        info!(
            topic = &*topic.name,
            partition = index,
            log_start = start,
            records = removed.records,
            bytes = removed.bytes,
            newest_timestamp_ms = removed.newest_ms,
            reason = %reason(&removed, &retention),
            "retention removes records"
        );
    }

    fn may_log(&mut self, now_ms: i64) -> bool {
        let minute = now_ms.div_euclid(60_000);
        if minute != self.minute {
            if self.left_out > 0 {
                info!(partitions = self.left_out, "retention removed records of more partitions");
            }
            *self = Self { minute, ..Self::default() };
        }
        let is_logged = self.lines < LINES_PER_MINUTE_MAX;
        self.lines += usize::from(is_logged);
        self.left_out += usize::from(!is_logged);
        is_logged
    }
}

fn removed(
    segments: &[SegmentInfo],
    start: i64,
    retention: &Retention,
    now_ms: i64,
) -> RemovedRecords {
    let mut removed = RemovedRecords::default();
    for segment in segments.iter().filter(|segment| segment.next_offset <= start) {
        removed.bytes += segment.size_bytes;
        removed.records += segment.records;
        removed.newest_ms = removed.newest_ms.max(segment.max_timestamp_ms);
        let youngest_ms = segment.max_timestamp_ms.unwrap_or(segment.created_ms);
        let age_ms = now_ms.saturating_sub(youngest_ms);
        removed.is_old |= retention.retention_ms.is_some_and(|max| age_ms > max);
    }
    removed
}

fn reason(removed: &RemovedRecords, retention: &Retention) -> String {
    match (removed.is_old, retention.retention_ms, retention.retention_bytes) {
        (true, Some(ms), _) => format!("older than retention.ms={ms}"),
        (_, _, Some(bytes)) => format!("more than retention.bytes={bytes}"),
        (..) => "no retention setting explains the removal".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(base_offset: i64, max_timestamp_ms: i64) -> SegmentInfo {
        SegmentInfo {
            base_offset,
            next_offset: base_offset + 10,
            size_bytes: 100,
            max_timestamp_ms: Some(max_timestamp_ms),
            created_ms: max_timestamp_ms,
            records: 9,
            is_sealed: true,
            is_compacted: false,
        }
    }

    #[test]
    fn a_removal_names_how_much_goes_and_which_setting_asked() {
        const NOW_MS: i64 = 1_700_000_000_000;
        // Timestamps in seconds instead of milliseconds: every record is of 1970.
        let segments = [segment(0, 1_700_000_000), segment(10, 1_700_000_001), segment(20, NOW_MS)];
        let by_age = Retention { retention_ms: Some(604_800_000), retention_bytes: None };
        let gone = removed(&segments, 20, &by_age, NOW_MS);
        assert_eq!((gone.bytes, gone.records), (200, 18));
        assert_eq!(gone.newest_ms, Some(1_700_000_001));
        assert_eq!(reason(&gone, &by_age), "older than retention.ms=604800000");
        let by_size = Retention { retention_ms: None, retention_bytes: Some(250) };
        let gone = removed(&segments, 10, &by_size, NOW_MS);
        assert_eq!(reason(&gone, &by_size), "more than retention.bytes=250");
        let both = Retention { retention_ms: Some(604_800_000), retention_bytes: Some(250) };
        let gone = removed(&[segment(0, NOW_MS)], 10, &both, NOW_MS);
        assert_eq!(reason(&gone, &both), "more than retention.bytes=250");
    }

    #[test]
    fn r1_lines_are_bounded_by_the_minute() {
        let mut removals = Removals::default();
        let logged = (0..1000).filter(|_| removals.may_log(60_000)).count();
        assert_eq!(
            (logged, removals.left_out),
            (LINES_PER_MINUTE_MAX, 1000 - LINES_PER_MINUTE_MAX)
        );
        assert!(removals.may_log(120_000), "another minute");
    }
}
