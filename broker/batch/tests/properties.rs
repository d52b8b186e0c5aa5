//! Properties that hold for every batch and for every damaged batch.

use bytes::Bytes;
use every_entrance::{LIMIT_BYTES, NOW_MS, RULES, opened, seal, use_every_entrance};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use ropewalk_batch::{
    Builder, Compression, HEADER_LEN, Header, OffsetAndTimestamp, Record, RewriteOutcome, Rules,
    StampedBatch, Target, Tombstones, check, first_at_or_after, retain,
};

#[path = "properties/every_entrance.rs"]
mod every_entrance;

fn codec() -> impl Strategy<Value = Compression> {
    prop::sample::select(Compression::ALL.to_vec())
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        Just(Target::Producer),
        Just(Target::Uncompressed),
        (codec(), -1..10).prop_map(|(codec, level)| Target::Codec(codec, level)),
    ]
}

fn blob(len_max: usize) -> impl Strategy<Value = Bytes> {
    prop_oneof![
        vec(any::<u8>(), 0..len_max).prop_map(Bytes::from),
        (any::<u8>(), 0..len_max * 8).prop_map(|(byte, len)| Bytes::from(vec![byte; len])),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    let timestamp_ms =
        prop_oneof![NOW_MS - 100_000..NOW_MS + 100_000, Just(-1), 0i64..5, Just(i64::MAX),];
    let headers = vec((blob(8), option::of(blob(8))), 0..3);
    let content = (option::of(blob(40)), option::of(blob(400)), headers);
    (timestamp_ms, content).prop_map(|(timestamp_ms, (key, value, headers))| Record {
        offset_delta: 0,
        timestamp_ms,
        key,
        value,
        headers,
    })
}

fn numbered(batch: Vec<Record>) -> Vec<Record> {
    (0..).zip(batch).map(|(offset_delta, record)| Record { offset_delta, ..record }).collect()
}

fn batch() -> impl Strategy<Value = Vec<Record>> {
    vec(record(), 1..12).prop_map(numbered)
}

fn build(batch: &[Record], codec: Compression) -> Bytes {
    let mut builder = Builder::new().compression(codec).producer(5, 1, 77);
    for record in batch {
        builder.push(record);
    }
    builder.build()
}

/// One way to damage a batch: where, what to put there, how much to take out.
type Damage = (prop::sample::Index, Vec<u8>, usize);

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let small = vec(any::<u8>(), 0..6);
    vec((any::<prop::sample::Index>(), small, 0..6usize), 1..4)
}

fn damaged(good: &Bytes, damage: &[Damage]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for (at, put, take) in damage {
        let at = at.index(bytes.len() + 1);
        let end = (at + take).min(bytes.len());
        bytes.splice(at..end, put.iter().copied());
    }
    bytes
}

proptest! {
    #[test]
    fn what_is_built_passes_and_opens_to_the_same(
        batch in batch(),
        codec in codec(),
        target in target(),
    ) {
        let bytes = build(&batch, codec);
        let rules = Rules { compression: target, ..RULES };
        let checked = check(bytes.clone(), &rules, NOW_MS).expect("a good batch");
        prop_assert_eq!(opened(&checked.header, &checked.bytes), batch);
        if target == Target::Producer {
            prop_assert_eq!(checked.bytes.as_ptr(), bytes.as_ptr());
        }
    }

    #[test]
    fn b3_a_flipped_bit_is_refused_or_lies_in_the_prefix(
        batch in batch(),
        codec in codec(),
        at in any::<prop::sample::Index>(),
    ) {
        let good = build(&batch, codec);
        let mut bad = good.to_vec();
        let bit = at.index(bad.len() * 8);
        bad[bit / 8] ^= 1 << (bit % 8);
        match check(bad.into(), &RULES, NOW_MS) {
            Ok(checked) => prop_assert_eq!(&checked.bytes[16..], &good[16..]),
            Err(_) => prop_assert!(bit / 8 >= 8, "the base offset is not read"),
        }
    }

    #[test]
    fn b2_damage_is_refused_or_harmless(
        batch in batch(),
        codec in codec(),
        target in target(),
        damage in damage(),
        sealed in prop::bool::weighted(0.9),
        compacted in any::<bool>(),
    ) {
        let mut bytes = damaged(&build(&batch, codec), &damage);
        if sealed {
            seal(&mut bytes);
        }
        let rules = Rules { compression: target, compacted, ..RULES };
        use_every_entrance(&bytes.into(), &rules);
    }

    #[test]
    fn b2_noise_behind_a_good_header_is_refused_or_harmless(
        batch in batch(),
        codec in codec(),
        target in target(),
        noise in vec(any::<u8>(), 0..300),
        keep in 0..64usize,
    ) {
        let good = build(&batch, codec);
        let keep = (HEADER_LEN + keep).min(good.len());
        let mut bytes = [&good[..keep], &noise].concat();
        seal(&mut bytes);
        use_every_entrance(&bytes.into(), &Rules { compression: target, ..RULES });
    }

    #[test]
    fn a_timestamp_is_found_where_a_scan_finds_it(
        batch in batch(),
        codec in codec(),
        asked_ms in NOW_MS - 100_000..NOW_MS + 100_000,
    ) {
        let stamped = StampedBatch::new(build(&batch, codec), 500, 2).expect("a good batch");
        let found = first_at_or_after(&stamped, asked_ms, LIMIT_BYTES).expect("a good batch");
        let scanned = batch.iter().find(|record| record.timestamp_ms >= asked_ms);
        let scanned = scanned.map(|it| OffsetAndTimestamp {
            offset: 500 + i64::from(it.offset_delta),
            timestamp_ms: it.timestamp_ms,
        });
        prop_assert_eq!(found, scanned);
    }

    #[test]
    fn o1_compaction_keeps_what_it_should_where_it_was(
        batch in batch(),
        codec in codec(),
        wanted in vec(any::<bool>(), 12),
        age_ms in prop::sample::select(vec![0i64, 99, 100, 101]),
    ) {
        let mut stamped = StampedBatch::new(build(&batch, codec), 500, 2).expect("a good batch");
        let next_offset = stamped.next_offset();
        let mut left = batch;
        let is_wanted = |record: &Record| wanted[record.offset_delta as usize];
        for now_ms in [NOW_MS, NOW_MS + age_ms] {
            let tombstones = Tombstones { now_ms, retention_ms: 100 };
            let outcome = retain(&stamped, &tombstones, LIMIT_BYTES, is_wanted);
            let due = stamped.header().delete_horizon_ms().is_some_and(|ms| now_ms >= ms);
            left.retain(|record| is_wanted(record) && (record.value.is_some() || !due));
            match outcome.expect("a good batch") {
                RewriteOutcome::Unchanged => {}
                RewriteOutcome::Thinned { batch, .. } => stamped = batch,
                RewriteOutcome::Emptied { batch } => {
                    prop_assert!(left.is_empty());
                    stamped = batch;
                }
            }
            let header = Header::verify(&stamped.bytes).expect("sealed");
            prop_assert_eq!(opened(&header, &stamped.bytes), left.clone());
            prop_assert_eq!(stamped.next_offset(), next_offset);
            prop_assert_eq!((header.producer_id, header.last_sequence()), (5, 77 + (next_offset - 501) as i32));
            let has_tombstone = left.iter().any(|record| record.value.is_none());
            prop_assert!(!has_tombstone || header.delete_horizon_ms().is_some());
        }
    }
}
