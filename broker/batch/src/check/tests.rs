//! The door, one rule at a time.

use bytes::Bytes;

use super::*;
use crate::builder::Builder;
use crate::records::{Record, records};

const NOW_MS: i64 = 1_700_000_000_000;
const MIB: usize = 1 << 20;

pub(super) fn rules() -> Rules {
    Rules {
        size_bytes_max: MIB,
        compacted: false,
        timestamp: TimestampType::CreateTime,
        before_ms_max: i64::MAX,
        after_ms_max: 3_600_000,
        compression: Target::Producer,
        zstd_allowed: true,
        decompressed_bytes_max: 8 * MIB,
    }
}

fn three() -> Builder {
    Builder::new()
        .record(NOW_MS - 5, Some(b"k1"), Some(b"v1"))
        .record(NOW_MS - 1, None, Some(b"v2"))
        .record_with_headers(NOW_MS - 3, (Some(b"k3"), None), &[(b"h", None), (b"h", Some(b"x"))])
}

fn opened(bytes: &Bytes) -> Vec<Record> {
    let header = Header::verify(bytes).unwrap();
    records(&header, bytes.clone(), MIB).unwrap().map(Result::unwrap).collect()
}

fn refusal(bytes: Bytes) -> Refusal {
    check(bytes, &rules(), NOW_MS).unwrap_err()
}

#[test]
fn a_good_batch_comes_out_as_the_same_bytes() {
    for codec in Compression::ALL {
        let bytes = three().compression(codec).build();
        let checked = check(bytes.clone(), &rules(), NOW_MS).unwrap();
        assert_eq!(checked.bytes.as_ptr(), bytes.as_ptr(), "{codec}: no copy");
        assert_eq!(checked.header, Header::parse(&bytes).unwrap());
        assert_eq!(checked.header.max_timestamp_ms, NOW_MS - 1);
    }
}

#[test]
fn records_come_back_as_they_went_in() {
    let expected = opened(&three().build());
    assert_eq!(expected.len(), 3);
    assert_eq!(expected[1].key, None);
    assert_eq!(expected[2].value, None);
    assert_eq!(expected[2].headers.len(), 2, "order and duplicates stay");
    for codec in Compression::ALL {
        assert_eq!(opened(&three().compression(codec).build()), expected, "{codec}");
    }
}

#[test]
fn b3_a_changed_byte_is_corrupt_and_a_changed_prefix_is_not() {
    let good = three().build().to_vec();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let outcome = check(bad.into(), &rules(), NOW_MS);
        let stamped = at < 8 || (12..16).contains(&at);
        assert_eq!(outcome.is_ok(), stamped, "byte {at}: {outcome:?}");
    }
    let mut cut = good.clone();
    cut.pop();
    assert!(matches!(refusal(cut.into()), Refusal::Corrupt { .. }));
}
