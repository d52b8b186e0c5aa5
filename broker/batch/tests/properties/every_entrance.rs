//! Calls every function of the crate on a batch, and asserts what each guarantees.
//!
//! Shared by the properties beside it and by the fuzz target `batch`.

use bytes::Bytes;
use ropewalk_batch::{
    Header, Record, RewriteOutcome, Rules, StampedBatch, Target, TimestampType, Tombstones, check,
    first_at_or_after, records, retain,
};

pub(crate) const NOW_MS: i64 = 1_700_000_000_000;
pub(crate) const LIMIT_BYTES: usize = 1 << 20;

pub(crate) const RULES: Rules = Rules {
    size_bytes_max: 1 << 20,
    compacted: false,
    timestamp: TimestampType::CreateTime,
    before_ms_max: i64::MAX,
    after_ms_max: i64::MAX,
    compression: Target::Producer,
    zstd_allowed: true,
    decompressed_bytes_max: LIMIT_BYTES,
};

/// Computes length and checksum again, so that damage reaches the checks behind them.
pub(crate) fn seal(bytes: &mut [u8]) {
    if let Some(length) = bytes.len().checked_sub(12).filter(|_| bytes.len() > 21) {
        bytes[8..12].copy_from_slice(&(length as u32).to_be_bytes());
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    }
}

/// Calls every function that reads bytes from the wire or from a disk.
pub(crate) fn use_every_entrance(bytes: &Bytes, rules: &Rules) {
    if let Ok(checked) = check(bytes.clone(), rules, NOW_MS) {
        let header = Header::verify(&checked.bytes).expect("a valid batch has a valid checksum");
        assert_eq!(header, checked.header);
        let all = opened(&header, &checked.bytes);
        assert_eq!(all.len(), header.count as usize);
        assert!(all.iter().zip(0..).all(|(record, delta)| record.offset_delta == delta));
        let max_ms = all.iter().map(|record| record.timestamp_ms).max();
        assert_eq!(max_ms.map(|ms| ms.max(-1)), Some(header.max_timestamp_ms));
        assert!(checked.bytes.len() <= rules.size_bytes_max);
    }
    if let Ok(header) = Header::parse(bytes)
        && let Ok(all) = records(&header, bytes.clone(), LIMIT_BYTES)
    {
        all.for_each(drop);
    }
    let stamped = [StampedBatch::new(bytes.clone(), 10, 1), StampedBatch::read(bytes.clone())];
    for stamped in stamped.into_iter().flatten() {
        let _ = first_at_or_after(&stamped, NOW_MS, LIMIT_BYTES);
        let tombstones = Tombstones { now_ms: NOW_MS, retention_ms: 1 };
        if let Ok(RewriteOutcome::Thinned { batch, .. } | RewriteOutcome::Emptied { batch }) =
            retain(&stamped, &tombstones, LIMIT_BYTES, |record| record.offset_delta % 2 == 0)
        {
            assert_eq!(batch.next_offset(), stamped.next_offset());
            assert!(
                batch.count == 0
                    || opened(&batch.header(), &batch.bytes).len() as i32 == batch.count
            );
        }
    }
}

pub(crate) fn opened(header: &Header, bytes: &Bytes) -> Vec<Record> {
    let records = records(header, bytes.clone(), LIMIT_BYTES).expect("opens");
    records.map(|record| record.expect("a whole record")).collect()
}
