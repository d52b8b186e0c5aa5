//! Batches of a real client (kafka-python 3.0.12, see `broker/batch/tests/golden/make.py`) pass
//! validation unchanged, and their records are those that the client sent.
//!

use bytes::Bytes;
use ropewalk_batch::{
    Builder, Compression, Header, Record, Rules, StampedBatch, Target, TimestampType, check,
    first_at_or_after, records,
};

const BATCHES: &str = include_str!("golden/kafka-python.txt");
const BASE_MS: i64 = 1_700_000_000_000;
const LIMIT_BYTES: usize = 1 << 20;

const RULES: Rules = Rules {
    size_bytes_max: 1 << 20,
    compacted: false,
    timestamp: TimestampType::CreateTime,
    before_ms_max: i64::MAX,
    after_ms_max: 3_600_000,
    compression: Target::Producer,
    zstd_allowed: true,
    decompressed_bytes_max: LIMIT_BYTES,
};

fn batches() -> impl Iterator<Item = (&'static str, Bytes)> {
    BATCHES.lines().map(|line| {
        let (name, hex) = line.split_once(' ').expect("a name and hex");
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
        (name, (0..hex.len()).step_by(2).map(byte).collect())
    })
}

fn expected(large: bool) -> Vec<Record> {
    let some = |text: &'static str| Some(Bytes::from(text));
    let record = |offset_delta: i32, ms: i64, key, value| Record {
        offset_delta,
        timestamp_ms: BASE_MS + ms,
        key,
        value,
        headers: Vec::new(),
    };
    let mut all = vec![
        record(0, 0, some("key-0"), some("value-0")),
        record(1, 250, None, some("no key")),
        record(2, -3, some("tombstone"), None),
        record(3, 7, some(""), some("")),
    ];
    all[3].headers = [("h", some("1")), ("h", some("2")), ("", None), ("é", some(""))]
        .map(|(key, value)| (Bytes::from(key), value))
        .into();
    if large {
        all.push(record(4, 1, some("large"), Some("ropewalk ".repeat(8_000).into())));
    }
    all
}

#[test]
fn a_real_clients_batches_pass_unchanged_and_open() {
    assert_eq!(batches().count(), 7);
    for (name, bytes) in batches() {
        let checked = check(bytes.clone(), &RULES, BASE_MS).unwrap();
        assert_eq!(checked.bytes.as_ptr(), bytes.as_ptr(), "{name}");
        let codec = checked.header.compression();
        assert!(name.starts_with(codec.name()), "{name}");
        let opened = records(&checked.header, bytes.clone(), LIMIT_BYTES).unwrap();
        let opened: Vec<Record> = opened.map(Result::unwrap).collect();
        assert_eq!(opened, expected(codec != Compression::None), "{name}");

        let stamped = StampedBatch::new(bytes, 1_000, 1).unwrap();
        let found = first_at_or_after(&stamped, BASE_MS + 2, LIMIT_BYTES).unwrap();
        let found = found.map(|at| (at.offset, at.timestamp_ms));
        assert_eq!(found, Some((1_001, BASE_MS + 250)), "{name}");
        assert_eq!(first_at_or_after(&stamped, BASE_MS + 251, LIMIT_BYTES).unwrap(), None);
    }
}

#[test]
fn producer_fields_are_read() {
    let (_, bytes) = batches().find(|(name, _)| *name == "none-transactional").unwrap();
    let header = Header::verify(&bytes).unwrap();
    assert_eq!((header.producer_id, header.producer_epoch), (4711, 3));
    assert_eq!((header.base_sequence, header.last_sequence()), (i32::MAX - 1, 1), "it wraps");
    assert!(header.is_transactional());
}

#[test]
fn the_builder_writes_the_same_bytes_as_a_real_client() {
    let (_, bytes) = batches().find(|(name, _)| *name == "none").unwrap();
    let mut builder = Builder::new().stamp(0, Header::parse(&bytes).unwrap().leader_epoch);
    for record in expected(false) {
        builder.push(&record);
    }
    assert_eq!(builder.build(), bytes);
}
