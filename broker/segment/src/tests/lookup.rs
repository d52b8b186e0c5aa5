//! Timestamps, epochs and counts, against a plain list of records.

use proptest::prelude::*;

use ropewalk_batch::OffsetAndTimestamp;

use super::*;
use crate::EpochEnd;

/// One batch of the model: timestamps of its records, epoch, control or data.
#[derive(Debug, Clone)]
struct Given {
    times: Vec<i64>,
    epoch_step: i32,
    is_control: bool,
}

fn given() -> impl Strategy<Value = Vec<Given>> {
    let one = (prop::collection::vec(0..50_i64, 1..12), 0..10_i32, 0..5_u8).prop_map(
        |(times, epoch_step, kind)| Given {
            times,
            epoch_step: (epoch_step - 7).max(0),
            is_control: kind == 0,
        },
    );
    prop::collection::vec(one, 0..60)
}

fn build(given: &[Given]) -> Vec<StampedBatch> {
    let (mut offset, mut epoch) = (0, 0);
    let mut made = Vec::new();
    for batch in given {
        epoch += batch.epoch_step;
        let mut builder = Builder::new();
        for time in &batch.times {
            builder = builder.record(*time, Some(b"some key"), Some(b"some value, longer"));
        }
        if batch.is_control {
            builder = builder.control();
        }
        made.push(StampedBatch::new(builder.build(), offset, epoch).unwrap());
        offset += batch.times.len() as i64;
    }
    made
}

fn pair(found: Option<OffsetAndTimestamp>) -> Option<(i64, i64)> {
    found.map(|at| (at.offset, at.timestamp_ms))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.div_ceil(6)))]

    #[test]
    fn lookups_agree_with_a_plain_list(given in given(), start in 0.0..1.0_f64) {
        let bench = Bench::new();
        let mut segments = bench.open(None, 0);
        let all = build(&given);
        for some in all.chunks(9) {
            segments.append(some, 0, &small()).unwrap();
        }
        let next = segments.next_offset();
        let start = (start * next as f64) as i64;
        let _files = segments.set_log_start(start);
        let reader = segments.reader();
        let times: Vec<(i64, i64)> =
            (0..).zip(given.iter().flat_map(|b| b.times.clone())).skip(start as usize).collect();

        for asked in 0..51 {
            let wanted = times.iter().find(|(_, time)| *time >= asked).copied();
            prop_assert_eq!(pair(reader.offset_for_timestamp(asked).unwrap()), wanted, "from {}", asked);
            let later = start + 5;
            let wanted = times.iter().find(|(at, time)| *time >= asked && *at >= later).copied();
            let found = reader.offset_for_timestamp_from(later, asked).unwrap();
            prop_assert_eq!(pair(found), wanted, "from {} at {}", asked, later);
        }
        let later = times.iter().skip(9).max_by_key(|(at, time)| (*time, -at)).copied();
        prop_assert_eq!(pair(reader.max_timestamp_from(start + 9).unwrap()), later);
        let youngest = times.iter().map(|(_, time)| *time).max();
        let wanted = times.iter().find(|(_, time)| Some(*time) == youngest).copied();
        prop_assert_eq!(pair(reader.max_timestamp().unwrap()), wanted);

        let data: Vec<bool> =
            given.iter().flat_map(|b| vec![!b.is_control; b.times.len()]).collect();
        for (from, to) in [(0, next), (start, next), (start + 3, next - 2), (next / 2, next / 2 + 7)] {
            let kept = from.max(start)..to.min(next);
            let wanted = kept.filter(|offset| data[*offset as usize]).count() as u64;
            prop_assert_eq!(reader.visible_count(from..to).unwrap(), wanted, "{}..{}", from, to);
        }

        if start == 0 {
            let last = all.last().map_or(0, |batch| batch.leader_epoch);
            for epoch in -1..=last + 1 {
                let before = all.iter().rev().find(|batch| batch.leader_epoch <= epoch);
                let wanted = before.map(|batch| EpochEnd {
                    epoch: batch.leader_epoch,
                    end_offset: batch.next_offset(),
                });
                prop_assert_eq!(reader.epoch_end(epoch).unwrap(), wanted, "epoch {}", epoch);
            }
        }
    }
}
