//! Decisions by tables, and over many objects by random ones against the shard's own state.

use proptest::prelude::*;
use ropewalk_shard::command::{
    ChangeTier, Command, Envelope, OpenPartition, ShardCommand, TierChange,
};
use ropewalk_shard::{HistoryId, Outcome, PartitionId, State, TopicId};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn segment(base_offset: i64, next_offset: i64, size_bytes: u64) -> SegmentInfo {
    SegmentInfo {
        base_offset,
        next_offset,
        size_bytes,
        max_timestamp_ms: Some(next_offset),
        created_ms: 0,
        records: (next_offset - base_offset) as u64,
        is_sealed: true,
        is_compacted: false,
    }
}

fn tier(is_enabled: bool, local_start: i64) -> Tier {
    let mut state = open(1_000);
    change(&mut state, TierChange::Enable);
    change(&mut state, TierChange::AddObject(object(0, 500)));
    change(&mut state, TierChange::SetLocalStart(local_start));
    if !is_enabled {
        change(&mut state, TierChange::Disable);
    }
    *state.partitions[&ID].tier.clone().expect("it has objects")
}

/// A state with one partition whose log ends at `next_offset`.
fn open(next_offset: i64) -> State {
    let mut state = State::default();
    let open = OpenPartition { partition: ID, epoch_base: 0 };
    let command = Command::Shard(ShardCommand::OpenPartitions(vec![open]));
    state.apply(TERM, Envelope { term: TERM, time_ms: 0, command }, &mut Vec::new());
    state.partitions.get_mut(&ID).expect("it is open").next_offset = next_offset;
    state
}

const ID: PartitionId = PartitionId { topic: TopicId(uuid::Uuid::from_u128(7)), index: 0 };
const TERM: u64 = 3;

fn change(state: &mut State, change: TierChange) -> Outcome {
    let command = ShardCommand::ChangeTier(ChangeTier { change, partition: ID });
    let entry = Envelope { term: TERM, time_ms: 0, command: Command::Shard(command) };
    state.apply(TERM, entry, &mut Vec::new())
}

fn object(base: i64, end: i64) -> ObjectRef {
    ObjectRef {
        base,
        end,
        history: HistoryId(1),
        term: TERM,
        size_bytes: 100,
        digest: base as u64,
        max_timestamp_ms: end,
        first_epoch: 0,
    }
}

#[test]
fn a_partition_follows_the_policy_of_its_topic() {
    use TierPolicy::{Discard, Keep, Upload};
    let (on, off) = (tier(true, 300), tier(false, 300));
    for (policy, tier, expected) in [
        (Upload, None, Some(Switch::Enable)),
        (Upload, Some(&on), None),
        (Upload, Some(&off), Some(Switch::Enable)),
        (Keep, None, None),
        (Keep, Some(&on), Some(Switch::Disable)),
        (Keep, Some(&off), None),
        (Discard, None, None),
        (Discard, Some(&on), Some(Switch::Disable)),
        (Discard, Some(&off), Some(Switch::Discard { log_start: 300 })),
    ] {
        assert_eq!(switch(policy, 0, tier), expected, "{policy:?}");
    }
    assert_eq!(switch(Discard, 300, Some(&off)), None, "it is discarded already");
}

#[test]
fn an_object_is_uploaded_when_it_is_full_or_old() {
    let rules = UploadRules { object_bytes: 1_000, age_max: HOUR };
    let almost = HOUR - Duration::from_millis(1);
    for (bytes, waited, expected) in [
        (0, Duration::ZERO, false),
        (0, 2 * HOUR, false),
        (1, almost, false),
        (1, HOUR, true),
        (999, Duration::ZERO, false),
        (1_000, Duration::ZERO, true),
    ] {
        assert_eq!(rules.is_due(bytes, waited), expected, "{bytes} bytes for {waited:?}");
    }
}

#[test]
fn records_wait_from_when_they_were_first_seen() {
    let start = Instant::now() + 10 * HOUR;
    let at = |hours: u32| start + hours * HOUR;
    let mut waiting = Waiting::found(100, 100, start, HOUR);
    assert_eq!(waiting.observe(100, 100, at(1)), Duration::ZERO, "nothing waits");
    assert_eq!(waiting.observe(100, 101, at(2)), Duration::ZERO);
    assert_eq!(waiting.observe(100, 150, at(4)), 2 * HOUR, "more records do not reset it");
    assert_eq!(waiting.observe(140, 150, at(5)), Duration::ZERO, "the oldest one is uploaded");
    assert_eq!(waiting.observe(140, 150, at(6)), HOUR);
    assert_eq!(waiting.observe(150, 150, at(7)), Duration::ZERO);
    let mut found = Waiting::found(100, 101, start, HOUR);
    assert_eq!(found.observe(100, 101, at(0)), HOUR, "after a restart");
}

#[test]
fn what_a_new_leader_finds_is_as_old_as_its_timestamps_but_no_older_than_the_bound() {
    let segments = [segment(0, 100, 10), segment(100, 200, 10)];
    let age = |end, now_ms| age_found(&segments, end, now_ms, HOUR);
    assert_eq!(age(0, 150), Duration::from_millis(50));
    assert_eq!(age(100, 150), Duration::ZERO, "its timestamps are in the future");
    assert_eq!(age(150, i64::MAX), HOUR);
    assert_eq!(age(200, i64::MAX), Duration::ZERO, "all is uploaded");
}

#[test]
fn bytes_of_a_segment_count_in_proportion() {
    let segments = [segment(0, 100, 1_000), segment(100, 200, 500)];
    for (end, expected) in [(0, 1_500), (50, 1_000), (99, 510), (100, 500), (200, 0), (300, 0)] {
        assert_eq!(bytes_from(&segments, end), expected, "from {end}");
    }
    assert_eq!(bytes_from(&[segment(0, 1_000, 3)], 999), 1, "never none while records wait");
}

/// The page that a fold makes, without a bucket.
fn folded(fold: &Fold) -> PageRef {
    let (first, added): (u8, Vec<(i64, i64, u64, u64)>) = match &fold.entries {
        FoldEntries::Objects(objects) => {
            (0, objects.iter().map(|o| (o.base, o.end, 1, o.size_bytes)).collect())
        }
        FoldEntries::Pages(pages) => {
            (1, pages.iter().map(|p| (p.base, p.end, 1, p.objects_bytes)).collect())
        }
    };
    let known = fold.grows.iter().map(|p| (p.base, p.end, u64::from(p.count), p.objects_bytes));
    let all: Vec<_> = known.chain(added).collect();
    let (base, end) = (all[0].0, all[all.len() - 1].1);
    PageRef {
        level: first,
        base,
        end,
        count: all.iter().map(|(_, _, count, _)| *count as u32).sum(),
        objects_bytes: all.iter().map(|(_, _, _, bytes)| bytes).sum(),
        max_timestamp_ms: end,
        history: HistoryId(1),
        term: TERM,
        size_bytes: 1,
        digest: ((base as u64) << 32) | end as u64,
    }
}

#[derive(Debug, Clone)]
enum Act {
    /// So many objects are added.
    Add(usize),
    /// The log start moves to this part of the log, and all that is dropped is deleted.
    Drop(u8),
    /// The log start passes the end of the tier.
    Jump,
    /// Replaced pages are deleted.
    Delete,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (1_usize..200).prop_map(Act::Add),
        1 => any::<u8>().prop_map(Act::Drop),
        1 => Just(Act::Jump),
        3 => Just(Act::Delete),
    ];
    prop::collection::vec(act, 1..60)
}

fn is_accepted(outcome: &Outcome) -> bool {
    *outcome == Outcome::Done
}

fn at(state: &State) -> &Tier {
    state.partitions[&ID].tier.as_deref().expect("it is enabled")
}

fn log_start(state: &mut State, offset: i64) {
    let command = ShardCommand::AdvanceLogStart(vec![(ID, offset)]);
    let entry = Envelope { term: TERM, time_ms: 0, command: Command::Shard(command) };
    assert!(is_accepted(&state.apply(TERM, entry, &mut Vec::new())));
}

proptest! {
    /// The state accepts every fold, and the next object always has room.
    #[test]
    fn r1_every_fold_is_accepted_and_objects_always_have_room(acts in acts()) {
        let mut state = open(i64::MAX);
        prop_assert!(is_accepted(&change(&mut state, TierChange::Enable)));
        for act in acts {
            match act {
                Act::Add(count) => for _ in 0..count {
                    while let Some(fold) = fold(at(&state)) {
                        let page = folded(&fold);
                        let outcome = change(&mut state, TierChange::FoldObjects(page));
                        prop_assert_eq!(outcome, Outcome::Done, "{:?}", fold);
                    }
                    let end = at(&state).end;
                    let added = change(&mut state, TierChange::AddObject(object(end, end + 10)));
                    prop_assert_eq!(added, Outcome::Done);
                },
                Act::Drop(part) => {
                    let end = at(&state).end * i64::from(part) / 255;
                    log_start(&mut state, end);
                    let through = state.partitions[&ID].log_start;
                    let dropped = change(&mut state, TierChange::DropObjects { through });
                    prop_assert_eq!(dropped, Outcome::Done);
                    let deleted = TierChange::ObjectsDeleted { through, pages: Vec::new() };
                    prop_assert_eq!(change(&mut state, deleted), Outcome::Done);
                }
                Act::Jump => {
                    let end = at(&state).end + 5;
                    log_start(&mut state, end);
                }
                Act::Delete => {
                    let pages = at(&state).replaced.iter().map(|page| page.digest).collect();
                    let through = at(&state).deleted;
                    let deleted = TierChange::ObjectsDeleted { through, pages };
                    prop_assert!(is_accepted(&change(&mut state, deleted)));
                }
            }
        }
    }
}
