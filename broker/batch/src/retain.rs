//! Takes records out of a batch, for compaction, and moves nothing else.
//!
//! See the crate's front page for what a log made of the results may rely on. Which record of a
//! key is the last one is the caller's knowledge; how long a tombstone stays is written in the
//! batch itself (KIP-534) and handled here.

use crate::builder::Builder;
use crate::codec::Compression;
use crate::error::BatchError;
use crate::header::{HEADER_LEN, Header, NO_TIMESTAMP};
use crate::records::{Record, records};
use crate::stamped::StampedBatch;

/// How long tombstones stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tombstones {
    /// The time of this pass.
    pub now_ms: i64,
    /// How long consumers get to see a tombstone (`delete.retention.ms`).
    pub retention_ms: i64,
}

impl Tombstones {
    /// When a tombstone that this pass is the first to keep may go.
    fn horizon_ms(&self) -> i64 {
        self.now_ms.saturating_add(self.retention_ms)
    }
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RewriteOutcome {
    /// Every record stays: the batch can be copied as it is.
    Unchanged,
    /// Records are gone, or the delete horizon was set. Offsets are as before.
    Thinned {
        /// What to store instead.
        batch: StampedBatch,
        /// How many records are gone.
        dropped: i32,
    },
    /// No record is left.
    Emptied {
        /// A header without records, for a producer's last batch and for the log's last batch.
        batch: StampedBatch,
    },
}

/// Keeps the records `keep` wants, less the tombstones whose time has passed.
///
/// `keep` sees every record once, in order; its offset is `batch.base_offset` plus its delta.
/// `limit_bytes` bounds what is decompressed and must not be less than what the door let in.
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

/// The header alone. Readers must not look for a codec's frame where there is nothing.
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
