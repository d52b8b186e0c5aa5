//! Objects of random batches, compared with the batches themselves, and damaged in every way.

use proptest::collection::vec;
use proptest::prelude::*;
use ropewalk_batch::Builder;
use uuid::Uuid;

use super::*;
use crate::identity::Origin;
use crate::limits;
use crate::names::{ClusterId, Kind, Name};

const ORIGIN: Origin = Origin { history: 0xfeed, term: 9 };

fn partition() -> PartitionKey {
    let cluster = ClusterId::new("object-tests").expect("a valid id");
    PartitionKey { cluster, topic: Uuid::from_u128(0x77), index: 3 }
}

/// A batch to be made.
#[derive(Debug, Clone)]
struct Plan {
    gap: u8,
    records: u8,
    value_bytes: u16,
    producer: Option<(i64, i16)>,
    new_epoch: bool,
    timestamp_ms: i64,
    control: bool,
}

fn plan() -> impl Strategy<Value = Plan> {
    let gap = prop_oneof![4 => Just(0_u8), 1 => 1..5_u8];
    let producer = proptest::option::of((0..4_i64, 0..2_i16));
    (gap, 1..6_u8, 0..30_000_u16, producer, prop::bool::weighted(0.2), 0..50_i64).prop_map(
        |(gap, records, value_bytes, producer, new_epoch, timestamp_ms)| {
            let control = producer.is_some() && value_bytes % 7 == 0;
            Plan { gap, records, value_bytes, producer, new_epoch, timestamp_ms, control }
        },
    )
}

/// The batches of a plan. The first one begins at `start`.
fn batches_of(plans: &[Plan], start: i64) -> Vec<StampedBatch> {
    let (mut next, mut epoch) = (start, 5);
    let make = |(number, plan): (usize, &Plan)| {
        epoch += i32::from(plan.new_epoch);
        next += if number == 0 { 0 } else { i64::from(plan.gap) };
        let mut builder = Builder::new();
        if let Some((id, producer_epoch)) = plan.producer {
            builder = builder.producer(id, producer_epoch, number as i32 * 10);
        }
        let value = vec![number as u8; usize::from(plan.value_bytes)];
        for at in 0..i64::from(plan.records) {
            builder = builder.record(plan.timestamp_ms + at, None, Some(&value));
        }
        let builder = if plan.control { builder.control() } else { builder };
        let batch = StampedBatch::new(builder.build(), next, epoch).expect("a valid batch");
        next = batch.next_offset();
        batch
    };
    plans.iter().enumerate().map(make).collect()
}

fn encode(batches: &[StampedBatch], base: i64) -> EncodedObject {
    let mut encoder = Encoder::new(partition(), ORIGIN, base);
    for batch in batches {
        assert_eq!(encoder.push(batch), Ok(Push::Added));
    }
    let end = encoder.next_offset();
    encoder.finish(end).expect("an object")
}

fn joined(object: &EncodedObject) -> Bytes {
    object.content.to_bytes()
}

fn footer_of(object: &EncodedObject) -> Footer {
    let bytes = joined(object);
    match read_tail(&bytes, &object.name, bytes.len() as u64) {
        Ok(Tail::Footer(footer)) => *footer,
        other => panic!("no footer: {other:?}"),
    }
}

/// The bytes of a batch as they are stored.
fn stored(batch: &StampedBatch) -> Vec<u8> {
    [&batch.prefix()[..], &batch.body()].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 4))]

    #[test]
    fn an_object_contains_the_batches_as_they_are_stored(
        plans in vec(plan(), 1..25),
        start in 0..9_i64,
    ) {
        let batches = batches_of(&plans, start);
        let object = encode(&batches, start);
        let bytes = joined(&object);
        prop_assert_eq!(bytes.len() as u64, object.reference.size_bytes);
        prop_assert_eq!(&object.reference.name(&partition()), &object.name);
        let footer = verify(&bytes, &object.name).expect("it is valid");
        prop_assert_eq!(&footer, &footer_of(&object));
        prop_assert_eq!(footer.reference(object.name.digest), object.reference);

        let all = 0..footer.blocks.len();
        let positions = footer.positions(all.clone());
        let body = bytes.slice(positions.start as usize..positions.end as usize);
        prop_assert_eq!(footer.verify_blocks(all, &body), Ok(()));
        prop_assert_eq!(&body[..], &batches.iter().flat_map(stored).collect::<Vec<_>>()[..]);
        let split: Vec<_> = super::batches(body).collect::<Result<_, _>>().expect("whole batches");
        let of = |batches: &[StampedBatch]| batches.iter().map(stored).collect::<Vec<_>>();
        prop_assert_eq!(of(&split), of(&batches));
        let records: u32 = footer.blocks.iter().map(|block| block.records).sum();
        let data = plans.iter().filter(|plan| !plan.control);
        prop_assert_eq!(records, data.map(|plan| u32::from(plan.records)).sum::<u32>());
        for pair in footer.blocks.windows(2) {
            prop_assert!(pair[0].length + pair[1].length > limits::BLOCK_BYTES_MAX);
        }
    }

    #[test]
    fn every_offset_and_timestamp_is_found_in_its_block(
        plans in vec(plan(), 1..25),
        offset in 0..200_i64,
        timestamp_ms in 0..60_i64,
    ) {
        let batches = batches_of(&plans, 3);
        let footer = footer_of(&encode(&batches, 3));
        let block_of = |batch: &StampedBatch| {
            footer.blocks.iter().position(|block| block.end_offset >= batch.next_offset())
        };
        let holder = batches.iter().find(|batch| batch.next_offset() > offset);
        prop_assert_eq!(footer.block_at_offset(offset), holder.and_then(block_of));
        let first = batches.iter().find(|batch| batch.max_timestamp_ms >= timestamp_ms);
        prop_assert_eq!(footer.block_at_timestamp(0, timestamp_ms), first.and_then(block_of));
    }

    #[test]
    fn a_run_of_blocks_is_as_long_as_fits(
        plans in vec(plan(), 1..25),
        bytes_max in 0..400_000_u64,
    ) {
        let footer = footer_of(&encode(&batches_of(&plans, 3), 3));
        for first in 0..footer.blocks.len() {
            let run = footer.run(first, bytes_max);
            let size = |run| -> u64 {
                let positions = footer.positions(run);
                positions.end - positions.start
            };
            prop_assert_eq!(run.start, first);
            prop_assert!(run.len() == 1 || size(run.clone()) <= bytes_max);
            if run.end < footer.blocks.len() {
                prop_assert!(size(first..run.end + 1) > bytes_max);
            }
        }
        let behind = footer.blocks.len();
        prop_assert_eq!(footer.run(behind, bytes_max), behind..behind);
    }

    #[test]
    fn d5_a_footer_names_the_last_batches_of_each_producer(plans in vec(plan(), 1..40)) {
        let batches = batches_of(&plans, 0);
        let footer = footer_of(&encode(&batches, 0));
        for id in 0..4 {
            let headers = batches.iter().map(StampedBatch::header);
            let written: Vec<_> = headers.filter(|header| header.producer_id == id).collect();
            let found = footer.producers.iter().find(|producer| producer.id == id);
            let Some(last) = written.last() else {
                prop_assert_eq!(found, None);
                continue;
            };
            // Those behind the last change of the epoch.
            let same = written.iter().rev().take_while(|h| h.producer_epoch == last.producer_epoch);
            let mut expected: Vec<_> = same
                .take(5)
                .map(|h| ProducerBatch {
                    first_sequence: h.base_sequence,
                    last_sequence: h.last_sequence(),
                    base_offset: h.base_offset,
                    timestamp_ms: h.max_timestamp_ms,
                })
                .collect();
            expected.reverse();
            let expected = Producer { id, epoch: last.producer_epoch, batches: expected };
            prop_assert_eq!(found, Some(&expected));
        }
    }

    #[test]
    fn d3_a_flipped_bit_is_seen(
        plans in vec(plan(), 1..6),
        at in any::<prop::sample::Index>(),
        from_end in 0..2_000_usize,
        bit in 0..8_u8,
    ) {
        let object = encode(&batches_of(&plans, 3), 3);
        let bytes = joined(&object);
        let near_end = bytes.len() - 1 - from_end.min(bytes.len() - 1);
        for at in [at.index(bytes.len()), near_end] {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1_u8 << bit;
            let damaged = Bytes::from(damaged);
            prop_assert!(verify(&damaged, &object.name).is_err());
            // The digest detects all; so that the other checksums are tested, too:
            match read_tail(&damaged, &object.name, damaged.len() as u64) {
                Ok(Tail::Footer(footer)) => {
                    prop_assert_eq!(&*footer, &footer_of(&object));
                    let all = 0..footer.blocks.len();
                    let positions = footer.positions(all.clone());
                    let body = &damaged[positions.start as usize..positions.end as usize];
                    let in_body = positions.contains(&(at as u64));
                    prop_assert_eq!(footer.verify_blocks(all, body).is_err(), in_body);
                }
                Ok(Tail::From(_)) | Err(_) => {}
            }
        }
    }

    #[test]
    fn d3_a_part_of_an_object_is_an_error(
        plans in vec(plan(), 1..6),
        at in any::<prop::sample::Index>(),
    ) {
        let object = encode(&batches_of(&plans, 3), 3);
        let bytes = joined(&object);
        let cut = bytes.slice(..at.index(bytes.len()));
        prop_assert!(verify(&cut, &object.name).is_err());
        prop_assert!(verify(&bytes.slice(at.index(bytes.len()) + 1..), &object.name).is_err());
    }

    #[test]
    fn a_tail_of_any_length_gives_the_footer_or_its_position(
        plans in vec(plan(), 1..6),
        bytes_read in 16..3_000_usize,
    ) {
        let object = encode(&batches_of(&plans, 3), 3);
        let bytes = joined(&object);
        let size = bytes.len() as u64;
        let tail = &bytes[bytes.len() - bytes_read.min(bytes.len())..];
        match read_tail(tail, &object.name, size).expect("nothing is damaged") {
            Tail::Footer(footer) => prop_assert_eq!(*footer, footer_of(&object)),
            Tail::From(position) => {
                prop_assert!(position < size - tail.len() as u64);
                let again = read_tail(&bytes[position as usize..], &object.name, size);
                prop_assert_eq!(again, Ok(Tail::Footer(Box::new(footer_of(&object)))));
            }
        }
    }

    /// As if the checksums had been computed after the damage.
    #[test]
    fn damage_behind_valid_checksums_never_panics(
        plans in vec(plan(), 1..4),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in 0..60_usize,
    ) {
        let object = encode(&batches_of(&plans, 3), 3);
        let bytes = joined(&object);
        let footer = footer_of(&object);
        let footer_at = footer.positions(0..footer.blocks.len()).end as usize;
        let mut damaged = bytes[footer_at..bytes.len() - TRAILER_BYTES].to_vec();
        damaged.truncate(damaged.len().saturating_sub(cut));
        let header_bytes = super::header_bytes(&partition()) as usize;
        for (at, value) in changes {
            if damaged.len() > header_bytes {
                let at = header_bytes + at.index(damaged.len() - header_bytes);
                damaged[at] = value;
            }
        }
        let whole = [&bytes[..footer_at], &encode::seal(damaged)].concat();
        let _ = read_tail(&whole, &object.name, whole.len() as u64);
        prop_assert!(verify(&whole.clone().into(), &object.name).is_err() || whole == bytes);
    }

    #[test]
    fn any_bytes_give_a_footer_or_an_error(
        bytes in vec(any::<u8>(), 0..300),
        size in any::<u64>(),
    ) {
        let name = encode(&batches_of(&[SMALL], 3), 3).name;
        prop_assert!(verify(&bytes.clone().into(), &name).is_err());
        prop_assert!(!matches!(read_tail(&bytes, &name, size), Ok(Tail::Footer(_))));
        let mut behind = bytes;
        behind.extend(40_u32.to_le_bytes());
        behind.extend([0; 4]);
        behind.extend(END_MAGIC);
        prop_assert!(!matches!(read_tail(&behind, &name, size), Ok(Tail::Footer(_))));
    }
}

const SMALL: Plan = Plan {
    gap: 0,
    records: 2,
    value_bytes: 10,
    producer: None,
    new_epoch: false,
    timestamp_ms: 1,
    control: false,
};

#[test]
fn equal_batches_give_equal_objects_and_other_terms_other_names() {
    let batches = batches_of(&[SMALL, SMALL], 3);
    let (one, other) = (encode(&batches, 3), encode(&batches, 3));
    assert_eq!(one.content, other.content);
    let later = Origin { term: 10, ..ORIGIN };
    let mut encoder = Encoder::new(partition(), later, 3);
    batches.iter().for_each(|batch| assert_eq!(encoder.push(batch), Ok(Push::Added)));
    assert_ne!(encoder.finish(7).unwrap().name, one.name);
}

/// A log start may be inside a batch.
#[test]
fn a_range_may_begin_inside_its_first_batch() {
    let batches = batches_of(&[SMALL, SMALL], 10);
    let object = encode(&batches, 11);
    assert_eq!((object.reference.base, object.reference.end), (11, 14));
    assert!(verify(&joined(&object), &object.name).is_ok());
    let mut encoder = Encoder::new(partition(), ORIGIN, 12);
    assert!(encoder.push(&batches[0]).is_err(), "this batch ends before the range");
}

#[test]
fn o1_batches_that_overlap_are_refused() {
    let batches = batches_of(&[SMALL, SMALL], 10);
    let mut encoder = Encoder::new(partition(), ORIGIN, 10);
    assert_eq!(encoder.push(&batches[1]), Ok(Push::Added));
    let refused = encoder.push(&batches[0]).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the batch at offset 10 does not go into the object: malformed records: the offsets of \
         its batches overlap"
    );
}

#[test]
fn batches_of_an_older_epoch_are_refused() {
    let mut batches = batches_of(&[SMALL, SMALL], 10);
    batches[1].leader_epoch = 4;
    let mut encoder = Encoder::new(partition(), ORIGIN, 10);
    assert_eq!(encoder.push(&batches[0]), Ok(Push::Added));
    assert!(encoder.push(&batches[1]).is_err());
}

#[test]
fn d3_a_damaged_batch_is_not_uploaded() {
    let mut batch = batches_of(&[SMALL], 10).remove(0);
    let mut bytes = batch.bytes.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    batch.bytes = bytes.into();
    let refused = Encoder::new(partition(), ORIGIN, 10).push(&batch);
    assert!(matches!(
        refused,
        Err(EncodeError::Batch { base_offset: 10, reason: BatchError::Checksum { .. } })
    ));
}

#[test]
fn an_object_has_batches_and_ends_behind_them() {
    let empty = Encoder::new(partition(), ORIGIN, 10).finish(20);
    assert!(matches!(empty, Err(EncodeError::Range { .. })));
    let mut encoder = Encoder::new(partition(), ORIGIN, 10);
    assert_eq!(encoder.push(&batches_of(&[SMALL], 10)[0]), Ok(Push::Added));
    let refused = encoder.finish(11).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "offsets 10 to 11 are not the range of an object whose batches end at Some(12)"
    );
}

#[test]
fn a_footer_of_another_object_is_refused() {
    let object = encode(&batches_of(&[SMALL], 10), 10);
    let bytes = joined(&object);
    let size = bytes.len() as u64;
    let page = Name { kind: Kind::Page(crate::names::Level::Objects), ..object.name.clone() };
    let other = Name { base: 9, ..object.name.clone() };
    for wrong in [page, other] {
        let refused = read_tail(&bytes, &wrong, size).unwrap_err();
        assert!(matches!(refused, FormatError::Invalid { what: "object", .. }), "{refused}");
    }
}

#[test]
fn a_newer_version_is_named_and_is_no_damage() {
    let object = encode(&batches_of(&[SMALL], 10), 10);
    let bytes = joined(&object);
    let footer = footer_of(&object);
    let footer_at = footer.positions(0..footer.blocks.len()).end as usize;
    let mut newer = bytes[footer_at..bytes.len() - TRAILER_BYTES].to_vec();
    newer[8] = 2;
    let tail = encode::seal(newer);
    let refused = read_tail(&tail, &object.name, bytes.len() as u64).unwrap_err();
    assert_eq!(refused, FormatError::Version { what: "object", found: 2, newest: 1 });
}

/// An uploader that gets `Full` finishes the object and begins the next one with the same batch.
#[test]
fn r1_an_object_is_full_at_its_bound_of_producers() {
    let mut encoder = Encoder::new(partition(), ORIGIN, 0);
    let mut next = 0;
    let mut batch = |id: i64| {
        let bytes = Builder::new().producer(id, 0, 0).record(1, None, None).build();
        let batch = StampedBatch::new(bytes, next, 1).unwrap();
        next = batch.next_offset();
        batch
    };
    for id in 0..i64::from(limits::PRODUCERS_MAX) {
        assert_eq!(encoder.push(&batch(id)), Ok(Push::Added));
    }
    assert_eq!(encoder.push(&batch(0)), Ok(Push::Added), "a known producer still fits");
    let one_more = batch(i64::from(limits::PRODUCERS_MAX));
    assert_eq!(encoder.push(&one_more), Ok(Push::Full));
    let end = encoder.next_offset();
    let object = encoder.finish(end).unwrap();
    assert!(verify(&joined(&object), &object.name).is_ok());
    let mut following = Encoder::new(partition(), ORIGIN, end);
    assert_eq!(following.push(&one_more), Ok(Push::Added));
}
