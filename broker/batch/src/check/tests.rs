//! Validation, one rule per test.

use bytes::Bytes;

use super::*;
use crate::builder::Builder;
use crate::header::NO_TIMESTAMP;
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

/// The header with one change, sealed around the same records.
fn with(bytes: &Bytes, change: impl FnOnce(&mut Header)) -> Bytes {
    let mut header = Header::parse(bytes).unwrap();
    change(&mut header);
    header.seal(bytes.to_vec()).unwrap()
}

fn faults(refusal: Refusal) -> Vec<(i32, RecordFault)> {
    let record_errors = match refusal {
        Refusal::InvalidRecord { record_errors, .. }
        | Refusal::InvalidTimestamp { record_errors } => record_errors,
        other @ (Refusal::Corrupt { .. }
        | Refusal::TooLarge { .. }
        | Refusal::UnsupportedCompression { .. }
        | Refusal::UnsupportedForMagic { .. }) => panic!("{other:?}"),
    };
    record_errors.into_iter().map(|error| (error.batch_index, error.fault)).collect()
}

#[test]
fn exactly_one_batch() {
    let one = three().build();
    assert!(matches!(refusal(Bytes::new()), Refusal::InvalidRecord { .. }));
    let two = [&one[..], &one[..]].concat();
    assert!(matches!(refusal(two.into()), Refusal::InvalidRecord { .. }));
    for len in 1..one.len() {
        assert!(matches!(refusal(one.slice(..len)), Refusal::Corrupt { .. }), "{len}");
    }
    let mut old = one.to_vec();
    old[16] = 1;
    assert!(matches!(refusal(old.into()), Refusal::UnsupportedForMagic { .. }));
}

#[test]
fn headers_no_client_may_write() {
    let good = three().build();
    let changes: [fn(&mut Header); 11] = [
        |h| h.count = 0,
        |h| h.count = -1,
        |h| (h.count, h.last_offset_delta) = (0, -1),
        |h| h.count = 2,
        |h| h.last_offset_delta = 3,
        |h| (h.count, h.last_offset_delta) = (2, 1),
        |h| (h.count, h.last_offset_delta) = (4, 3),
        |h| h.set_control(true),
        |h| h.set_delete_horizon(true),
        |h| h.set_transactional(true),
        |h| (h.producer_id, h.producer_epoch, h.base_sequence) = (5, 0, -1),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let refused = refusal(with(&good, change));
        assert!(matches!(refused, Refusal::InvalidRecord { .. }), "{index}: {refused:?}");
    }
    let refused = refusal(with(&good, |h| h.attributes |= 5));
    assert!(matches!(refused, Refusal::UnsupportedCompression { .. }), "{refused:?}");
    let produced = with(&good, |h| (h.producer_id, h.producer_epoch, h.base_sequence) = (5, 0, 0));
    assert!(check(produced, &rules(), NOW_MS).is_ok());
}

#[test]
fn zstd_needs_a_request_that_knows_it() {
    let old = Rules { zstd_allowed: false, ..rules() };
    for codec in Compression::ALL {
        let outcome = check(three().compression(codec).build(), &old, NOW_MS);
        match outcome {
            Err(Refusal::UnsupportedCompression { .. }) => assert_eq!(codec, Compression::Zstd),
            other => assert!(other.is_ok() && codec != Compression::Zstd, "{codec}: {other:?}"),
        }
    }
}

#[test]
fn compacted_topics_want_keys_and_name_the_records_without() {
    let compacted = Rules { compacted: true, ..rules() };
    for codec in Compression::ALL {
        let refused = check(three().compression(codec).build(), &compacted, NOW_MS).unwrap_err();
        assert_eq!(faults(refused), [(1, RecordFault::NoKey)]);
    }
    let empty = Builder::new().record(NOW_MS, Some(b""), None).build();
    assert!(check(empty, &compacted, NOW_MS).is_ok(), "an empty key is a key");
}

#[test]
fn the_answer_does_not_outgrow_the_request() {
    let many = (0..2_000).fold(Builder::new(), |builder, _| builder.record(NOW_MS, None, None));
    let refused = check(many.build(), &Rules { compacted: true, ..rules() }, NOW_MS).unwrap_err();
    assert_eq!(faults(refused).len(), RECORD_ERRORS_MAX);
}

#[test]
fn create_times_lie_within_the_window() {
    let day = Rules { before_ms_max: 10, after_ms_max: 20, ..rules() };
    let at = |ms: i64| check(Builder::new().record(ms, None, None).build(), &day, NOW_MS);
    for ok in [NOW_MS, NOW_MS - 10, NOW_MS + 20, NO_TIMESTAMP] {
        assert!(at(ok).is_ok(), "{ok}");
    }
    for timestamp_ms in [NOW_MS - 11, NOW_MS + 21, 0, -2, i64::MIN, i64::MAX] {
        let fault = RecordFault::TimestampOutOfRange { timestamp_ms };
        assert_eq!(faults(at(timestamp_ms).unwrap_err()), [(0, fault)]);
    }
    let broker = Rules { timestamp: TimestampType::LogAppendTime, ..day };
    let late = Builder::new().record(0, None, None).build();
    assert!(check(late, &broker, NOW_MS).is_ok(), "the broker's time replaces it");
}

#[test]
fn the_broker_alone_says_append_time() {
    let claimed = Builder::new().append_time(NOW_MS).record(NOW_MS, None, None).build();
    for timestamp in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
        let refused = check(claimed.clone(), &Rules { timestamp, ..rules() }, NOW_MS).unwrap_err();
        assert!(matches!(refused, Refusal::InvalidTimestamp { .. }));
        assert_eq!(faults(refused), [(0, RecordFault::AppendTimeClaimed)]);
    }
}

#[test]
fn the_maximum_timestamp_is_computed_not_believed() {
    for codec in Compression::ALL {
        let good = three().compression(codec).build();
        let lying = with(&good, |h| h.max_timestamp_ms = NOW_MS + 999_999);
        let checked = check(lying, &rules(), NOW_MS).unwrap();
        assert_eq!(checked.header.max_timestamp_ms, NOW_MS - 1);
        assert_eq!(checked.bytes, good, "{codec}: only the header changes");
    }
}

#[test]
fn append_time_is_set_and_sealed() {
    let broker = Rules { timestamp: TimestampType::LogAppendTime, ..rules() };
    for codec in Compression::ALL {
        let sent = three().compression(codec).build();
        let checked = check(sent.clone(), &broker, NOW_MS + 7).unwrap();
        assert_eq!(checked.header.timestamp_type(), TimestampType::LogAppendTime);
        assert_eq!(checked.header.max_timestamp_ms, NOW_MS + 7);
        assert_eq!(checked.bytes[HEADER_LEN..], sent[HEADER_LEN..], "records stay as sent");
        assert!(opened(&checked.bytes).iter().all(|record| record.timestamp_ms == NOW_MS + 7));
    }
}

#[test]
fn topics_compress_as_they_like() {
    let expected = opened(&three().build());
    for sent in Compression::ALL {
        for wanted in Compression::ALL {
            let level = wanted.level_default();
            let rules = Rules { compression: Target::Codec(wanted, level), ..rules() };
            let bytes = three().producer(9, 1, 4).compression(sent).build();
            let before = Header::parse(&bytes).unwrap();
            let checked = check(bytes.clone(), &rules, NOW_MS).unwrap();
            assert_eq!(checked.header.compression(), wanted);
            assert_eq!(opened(&checked.bytes), expected, "{sent} to {wanted}");
            assert_eq!(checked.bytes == bytes, sent == wanted);
            assert_eq!(checked.header.producer_id, before.producer_id);
            assert_eq!(checked.header.base_sequence, before.base_sequence);
        }
        let plain = Rules { compression: Target::Uncompressed, ..rules() };
        let checked = check(three().compression(sent).build(), &plain, NOW_MS).unwrap();
        assert_eq!(checked.bytes, three().build());
    }
}

#[test]
fn odd_inner_offsets_are_rewritten() {
    for codec in Compression::ALL {
        let expected = opened(&three().build());
        let mut odd = Builder::new().compression(codec);
        for (record, offset_delta) in expected.iter().zip([2, 300, 0]) {
            odd.push(&Record { offset_delta, ..record.clone() });
        }
        let odd = with(&odd.build(), |h| h.last_offset_delta = 2);
        let checked = check(odd, &rules(), NOW_MS).unwrap();
        assert_eq!(opened(&checked.bytes), expected, "{codec}");
        assert_eq!(checked.header.compression(), codec);
    }
}

#[test]
fn the_size_is_compared_as_stored() {
    let plain = Builder::new().record(NOW_MS, None, Some(&[b'x'; 4_000])).build();
    let zipped = Builder::new()
        .compression(Compression::Zstd)
        .record(NOW_MS, None, Some(&[b'x'; 4_000]))
        .build();
    let small = Rules { size_bytes_max: 1_000, ..rules() };
    let refused = |bytes: &Bytes, compression| {
        let outcome = check(bytes.clone(), &Rules { compression, ..small }, NOW_MS);
        matches!(outcome, Err(Refusal::TooLarge { .. }))
    };
    assert!(refused(&plain, Target::Producer));
    assert!(!refused(&plain, Target::Codec(Compression::Gzip, -1)));
    assert!(!refused(&zipped, Target::Producer));
    assert!(refused(&zipped, Target::Uncompressed));
    let exact = Rules { size_bytes_max: plain.len(), ..rules() };
    assert!(check(plain.clone(), &exact, NOW_MS).is_ok());
    let short = Rules { size_bytes_max: plain.len() - 1, ..rules() };
    assert!(check(plain, &short, NOW_MS).is_err());
}

#[test]
fn b1_a_bomb_is_refused_at_the_limit() {
    let zeroes = vec![0; 4 * MIB];
    for codec in Compression::ALL.into_iter().skip(1) {
        let bomb = Builder::new().compression(codec).record(NOW_MS, None, Some(&zeroes)).build();
        assert!(bomb.len() < MIB, "{codec}");
        let tight = Rules { decompressed_bytes_max: MIB, ..rules() };
        for compression in [Target::Producer, Target::Uncompressed] {
            let refused = check(bomb.clone(), &Rules { compression, ..tight }, NOW_MS).unwrap_err();
            assert!(matches!(refused, Refusal::TooLarge { .. }), "{codec}: {refused:?}");
        }
        let header = Header::parse(&bomb).unwrap();
        assert!(records(&header, bomb.clone(), MIB).is_err());
        assert!(check(bomb, &rules(), NOW_MS).is_ok(), "{codec}");
    }
}

#[test]
fn what_does_not_decompress_is_refused_for_good() {
    for codec in Compression::ALL.into_iter().skip(1) {
        let good = three().compression(codec).build();
        for len in 0..good.len() - HEADER_LEN {
            let cut = good.slice(..HEADER_LEN + len);
            let header = Header::parse(&good).unwrap();
            let refused = check(header.seal(cut.to_vec()).unwrap(), &rules(), NOW_MS);
            // A frame of lz4 may lose its end mark, four bytes, and still hold all records.
            let whole = codec == Compression::Lz4 && HEADER_LEN + len + 4 >= good.len();
            match refused {
                Err(Refusal::InvalidRecord { .. }) => assert!(!whole),
                other => assert!(other.is_ok() && whole, "{codec} at {len}: {other:?}"),
            }
        }
    }
}

#[test]
fn raw_snappy_is_read_and_an_impossible_claim_is_not_believed() {
    let plain = three().build();
    let raw = |block: &[u8]| {
        let mut header = Header::parse(&plain).unwrap();
        header.set_compression(Compression::Snappy);
        header.seal([&plain[..HEADER_LEN], block].concat()).unwrap()
    };
    let block = snap::raw::Encoder::new().compress_vec(&plain[HEADER_LEN..]).unwrap();
    let checked = check(raw(&block), &rules(), NOW_MS).unwrap();
    assert_eq!(opened(&checked.bytes), opened(&plain));
    let claims_4_gib = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0];
    assert!(matches!(refusal(raw(&claims_4_gib)), Refusal::InvalidRecord { .. }));
}

#[test]
fn framing_that_lies_is_refused() {
    // length, attributes, timestamp, offset, key length, value length, headers
    let lies: [&[u8]; 10] = [
        &[13, 0, 0, 0, 1, 1, 0],
        &[11, 0, 0, 0, 1, 1, 0],
        &[12, 0, 0, 0, 3, 1, 0],
        &[12, 0, 0, 0, 1, 2, 0],
        &[12, 0, 0, 0, 1, 1, 1],
        &[12, 0, 0, 0, 1, 1, 2],
        &[12, 0, 0, 0, 1, 1, 0, 0],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 1, 1, 0],
        &[],
    ];
    let one = Builder::new().record(NOW_MS, None, None).build();
    assert_eq!(&one[HEADER_LEN..], [12, 0, 0, 0, 1, 1, 0]);
    for lie in lies {
        let header = Header::parse(&one).unwrap();
        let bytes = header.seal([&one[..HEADER_LEN], lie].concat()).unwrap();
        assert!(matches!(refusal(bytes), Refusal::InvalidRecord { .. }), "{lie:?}");
    }
}
