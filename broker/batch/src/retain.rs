//! Removes records from a batch, for compaction, without moving an offset.
//!
//! The crate documentation lists what callers may rely on. The caller decides which record of a key
//! is the last one. How long a tombstone stays is written in the batch (KIP-534) and handled here.

use crate::builder::Builder;
use crate::codec::Compression;
use crate::error::BatchError;
use crate::header::{HEADER_LEN, Header, NO_TIMESTAMP};
use crate::records::{Record, records};
use crate::stamped::StampedBatch;

/// How long tombstones are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tombstones {
    /// The broker's time at the start of this compaction pass.
    pub now_ms: i64,
    /// How long a tombstone is kept for consumers to read it (`delete.retention.ms`).
    pub retention_ms: i64,
}

impl Tombstones {
    /// The time from which tombstones may be removed that this pass is the first to keep.
    fn horizon_ms(&self) -> i64 {
        self.now_ms.saturating_add(self.retention_ms)
    }
}

/// The result of removing records from a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RewriteOutcome {
    /// All records stay: the batch can be copied as it is.
    Unchanged,
    /// Records were removed, or the delete horizon was set. Offsets are unchanged.
    Thinned {
        /// The batch to store instead.
        batch: StampedBatch,
        /// Number of records that were removed.
        dropped: i32,
    },
    /// All records were removed.
    Emptied {
        /// A header without records, to keep for a producer's last batch and for the log's last
        /// batch.
        batch: StampedBatch,
    },
}

/// Keeps the records for which `keep` returns true, except tombstones whose delete horizon has
/// passed.
///
/// `keep` is called once per record, in offset order; the offset is `batch.base_offset` plus the
/// record's delta. `limit_bytes` bounds the decompressed size and must be at least the limit that
/// validation used.
pub fn retain(
    batch: &StampedBatch,
    tombstones: &Tombstones,
    limit_bytes: usize,
    mut keep: impl FnMut(&Record) -> bool,
) -> Result<RewriteOutcome, BatchError> {
    let header = batch.header();
    if header.is_control() {
        return Ok(RewriteOutcome::Unchanged);
    }
    if header.count == 0 {
        return Ok(RewriteOutcome::Emptied { batch: batch.clone() });
    }
    let all = records(&header, batch.bytes.clone(), limit_bytes)?;

    let horizon_ms = header.delete_horizon_ms();
    let expired = horizon_ms.is_some_and(|horizon_ms| tombstones.now_ms >= horizon_ms);
    let mut stays = Vec::new();
    let mut keeps_tombstone = false;
    for record in all.clone() {
        let record = record?;
        if !(0..=header.last_offset_delta).contains(&record.offset_delta) {
            return Err(BatchError::Malformed("a record lies outside the offsets of its batch"));
        }
        let tombstone = record.value.is_none();
        let kept = keep(&record) && !(tombstone && expired);
        keeps_tombstone |= kept && tombstone;
        stays.push(kept);
    }
    let sets_horizon = keeps_tombstone && horizon_ms.is_none();
    let dropped = stays.iter().filter(|kept| !**kept).count();
    if dropped == stays.len() {
        return Ok(RewriteOutcome::Emptied { batch: emptied(header)? });
    }
    if dropped == 0 && !sets_horizon {
        return Ok(RewriteOutcome::Unchanged);
    }

    let mut builder = Builder::like(&header);
    if let Some(horizon_ms) = horizon_ms.or(sets_horizon.then(|| tombstones.horizon_ms())) {
        builder = builder.delete_horizon(horizon_ms);
    }
    for (record, kept) in all.zip(stays) {
        if kept {
            builder.push(&record?);
        }
    }
    let batch = StampedBatch::read(builder.try_build()?)?;
    Ok(RewriteOutcome::Thinned { batch, dropped: dropped as i32 })
}

/// The header alone. It names no codec, because there is no compressed data to read.
fn emptied(mut header: Header) -> Result<StampedBatch, BatchError> {
    header.set_compression(Compression::None);
    header.set_delete_horizon(false);
    header.base_timestamp_ms = NO_TIMESTAMP;
    header.count = 0;
    StampedBatch::read(header.seal(vec![0; HEADER_LEN])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::TimestampType;
    use bytes::Bytes;

    const LIMIT_BYTES: usize = 1 << 20;
    const FIRST: Tombstones = Tombstones { now_ms: 1_000, retention_ms: 500 };

    fn batch(codec: Compression) -> StampedBatch {
        let bytes = Builder::new()
            .compression(codec)
            .producer(7, 2, 40)
            .transactional()
            .record(10, Some(b"a"), Some(b"1"))
            .record(30, Some(b"b"), None)
            .record(20, Some(b"c"), Some(b"3"))
            .record(5, Some(b"a"), Some(b"4"))
            .build();
        StampedBatch::new(bytes, 100, 3).unwrap()
    }

    fn left(batch: &StampedBatch) -> Vec<(i32, i64, Bytes)> {
        let header = Header::verify(&batch.bytes).unwrap();
        assert_eq!(header, batch.header(), "the prefix is right too");
        records(&header, batch.bytes.clone(), LIMIT_BYTES)
            .unwrap()
            .map(|record| record.unwrap())
            .map(|record| (record.offset_delta, record.timestamp_ms, record.key.unwrap()))
            .collect()
    }

    fn thinned(outcome: RewriteOutcome) -> (StampedBatch, i32) {
        match outcome {
            RewriteOutcome::Thinned { batch, dropped } => (batch, dropped),
            other @ (RewriteOutcome::Unchanged | RewriteOutcome::Emptied { .. }) => {
                panic!("{other:?}")
            }
        }
    }

    #[test]
    fn o1_offsets_and_producer_fields_do_not_move() {
        for codec in Compression::ALL {
            let before = batch(codec);
            let outcome = retain(&before, &FIRST, LIMIT_BYTES, |r| r.offset_delta == 2);
            let (after, dropped) = thinned(outcome.unwrap());
            assert_eq!(dropped, 3);
            assert_eq!(left(&after), [(2, 20, Bytes::from_static(b"c"))]);
            assert_eq!(after.next_offset(), before.next_offset());
            assert_eq!((after.base_offset, after.leader_epoch, after.count), (100, 3, 1));
            let (old, new) = (before.header(), after.header());
            assert_eq!(new.compression(), codec);
            assert_eq!(new.last_sequence(), 43);
            assert_eq!(
                (new.producer_id, new.producer_epoch, new.base_sequence, new.is_transactional()),
                (old.producer_id, old.producer_epoch, old.base_sequence, true)
            );
            assert_eq!(new.max_timestamp_ms, 20, "the largest of what is left");
            assert_eq!(new.delete_horizon_ms(), None);
        }
    }

    #[test]
    fn a_tombstone_gets_a_horizon_and_goes_when_it_has_passed() {
        let (marked, dropped) =
            thinned(retain(&batch(Compression::Lz4), &FIRST, LIMIT_BYTES, |_| true).unwrap());
        assert_eq!(dropped, 0, "the first pass only writes the horizon");
        assert_eq!(marked.header().delete_horizon_ms(), Some(1_500));
        let all = [(0, 10, "a"), (1, 30, "b"), (2, 20, "c"), (3, 5, "a")]
            .map(|(delta, ms, key)| (delta, ms, Bytes::from(key)));
        assert_eq!(left(&marked), all, "timestamps are the same from another base");

        let early = Tombstones { now_ms: 1_499, ..FIRST };
        assert_eq!(
            retain(&marked, &early, LIMIT_BYTES, |_| true).unwrap(),
            RewriteOutcome::Unchanged
        );
        let (half, _) =
            thinned(retain(&marked, &early, LIMIT_BYTES, |r| r.offset_delta > 0).unwrap());
        assert_eq!(half.header().delete_horizon_ms(), Some(1_500), "the horizon does not move");

        let due = Tombstones { now_ms: 1_500, ..FIRST };
        let (after, dropped) = thinned(retain(&half, &due, LIMIT_BYTES, |_| true).unwrap());
        assert_eq!(dropped, 1);
        assert_eq!(left(&after), all[2..]);
    }

    #[test]
    fn an_emptied_batch_is_a_header_that_still_holds_its_place() {
        let before = batch(Compression::Zstd);
        let outcome = retain(&before, &FIRST, LIMIT_BYTES, |_| false).unwrap();
        let RewriteOutcome::Emptied { batch: after } = outcome else { panic!("{outcome:?}") };
        assert_eq!(after.size_bytes(), HEADER_LEN);
        assert_eq!(after.next_offset(), before.next_offset());
        assert_eq!(after.header().last_sequence(), 43);
        assert_eq!(after.header().compression(), Compression::None);
        assert_eq!(after.max_timestamp_ms, before.max_timestamp_ms);
        assert!(left(&after).is_empty());
        let again = retain(&after, &FIRST, LIMIT_BYTES, |_| true).unwrap();
        assert_eq!(again, RewriteOutcome::Emptied { batch: after });
    }

    #[test]
    fn the_brokers_time_survives() {
        let bytes = Builder::new()
            .append_time(77)
            .record(10, Some(b"a"), None)
            .record(11, Some(b"b"), Some(b"1"))
            .build();
        let before = StampedBatch::new(bytes, 0, 0).unwrap();
        let (after, _) = thinned(retain(&before, &FIRST, LIMIT_BYTES, |_| true).unwrap());
        assert_eq!(after.header().timestamp_type(), TimestampType::LogAppendTime);
        assert_eq!(after.max_timestamp_ms, 77);
        assert_eq!(left(&after).iter().map(|it| it.1).collect::<Vec<_>>(), [77, 77]);
    }

    #[test]
    fn markers_pass_through() {
        let bytes =
            Builder::new().producer(7, 2, -1).transactional().control().record(1, None, None);
        let marker = StampedBatch::new(bytes.build(), 5, 0).unwrap();
        let outcome = retain(&marker, &FIRST, LIMIT_BYTES, |_| false).unwrap();
        assert_eq!(outcome, RewriteOutcome::Unchanged);
    }
}
