//! A partition that is restored from its objects (T2): what follows from them, and every refusal.

use super::*;
use crate::command::{ChangeTier, TierChange};
use crate::id::HistoryId;
use crate::manifest::{
    ObjectRef, PageRef, RestoredBatch, RestoredEpoch, RestoredPartition, RestoredProducer,
};
use crate::state::partition::EPOCHS_MAX;
use crate::state::tier::{Bounded, TierRefusal};

/// An object that the lost cluster wrote, in a later term than this one has.
fn object(base: i64, end: i64) -> ObjectRef {
    ObjectRef {
        base,
        end,
        history: HistoryId(1),
        term: 99,
        size_bytes: 100,
        digest: 5,
        max_timestamp_ms: 1_000,
        first_epoch: 3,
    }
}

fn page(level: u8, base: i64, end: i64) -> PageRef {
    PageRef {
        level,
        base,
        end,
        count: 2,
        objects_bytes: 200,
        max_timestamp_ms: 1_000,
        history: HistoryId(1),
        term: 99,
        size_bytes: 40,
        digest: 6,
    }
}

/// Records 7 to 60, of which the first are no longer read.
fn restored() -> RestoredPartition {
    let batch =
        RestoredBatch { first_sequence: 4, last_sequence: 6, base_offset: 50, timestamp_ms: 1_000 };
    RestoredPartition {
        log_start: 7,
        end: 60,
        pages: vec![page(1, 5, 20), page(0, 20, 30)],
        objects: vec![object(30, 40), object(40, 60)],
        epochs: vec![
            RestoredEpoch { epoch: 3, start_offset: 7 },
            RestoredEpoch { epoch: 12, start_offset: 45 },
        ],
        producers: vec![RestoredProducer { id: 9, epoch: 2, batches: vec![batch] }],
    }
}

fn restore(state: &mut State, restored: RestoredPartition) -> (Outcome, Vec<Effect>) {
    let change = TierChange::Restore(Box::new(restored));
    let change = ChangeTier { change, partition: partition() };
    run(state, Command::Shard(ShardCommand::ChangeTier(change)))
}

fn refuse(state: &mut State, restored: RestoredPartition) -> TierRefusal {
    let before = state.partitions.clone();
    let (outcome, effects) = restore(state, restored);
    assert_eq!((&state.partitions, effects), (&before, vec![]), "nothing was changed");
    let Outcome::TierRefused(refusal) = outcome else { panic!("{outcome:?}") };
    refusal
}

#[test]
fn t2_an_empty_partition_continues_from_its_objects() {
    let mut state = opened();
    let (outcome, effects) = restore(&mut state, restored());
    assert_eq!(outcome, Outcome::Done);
    let effect = Effect::Restored { partition: partition(), log_start: 7, end: 60 };
    assert_eq!(effects, [effect]);
    let found = &state.partitions[&partition()];
    assert_eq!((found.log_start, found.next_offset), (7, 60));
    assert_eq!((found.local_start(), found.tier_end()), (60, 60));
    let tier = found.tier.as_deref().expect("it has a tier");
    assert_eq!((tier.is_enabled, tier.dropped, tier.deleted), (true, 7, 5));
    assert_eq!(tier.page_at(7), Some(&page(1, 5, 20)));
    assert_eq!(tier.page_at(29), Some(&page(0, 20, 30)));
    assert_eq!(tier.object_at(59), Some(&object(40, 60)));
    assert_eq!(append(&mut state, batch(2)).expect("taken").base_offset, 60, "O1");
}

#[test]
fn t2_the_same_restore_again_changes_nothing() {
    let mut state = opened();
    restore(&mut state, restored());
    let before = state.partitions.clone();
    assert_eq!(restore(&mut state, restored()), (Outcome::Done, vec![]));
    assert_eq!(state.partitions, before);
}

#[test]
fn d5_t2_a_retry_of_a_batch_in_an_object_is_a_duplicate() {
    let mut state = opened();
    restore(&mut state, restored());
    // It has just been seen, however old its batches are.
    let seen = state.partitions[&partition()].producers.as_ref().expect("some")[&9].seen_ms;
    assert_eq!(seen, 5_000);
    let again = append(&mut state, numbered(9, 2, 4, 3)).expect("known");
    assert_eq!((again.duplicate, again.base_offset), (true, 50));
    assert_eq!(append(&mut state, numbered(9, 2, 7, 1)).expect("the next one").base_offset, 60);
    let stale = append(&mut state, numbered(9, 1, 0, 1));
    assert_eq!(stale, Err(AppendRefusal::StaleEpoch { epoch: 1, current: 2 }));
}

#[test]
fn t2_leader_epochs_continue_above_those_of_the_lost_cluster() {
    let mut state = opened();
    restore(&mut state, restored());
    append(&mut state, batch(1)).expect("taken");
    let found = &state.partitions[&partition()];
    let end = |epoch| found.epoch_end(epoch, 13).map(|end| (end.epoch, end.end_offset));
    assert_eq!([end(3), end(11), end(12)], [Some((3, 45)), Some((3, 45)), Some((12, 60))]);
    assert_eq!(end(13), Some((13, 61)));
    // In this term the epoch is 13.
    let mut state = opened();
    let mut above = restored();
    above.epochs[1].epoch = 13;
    let refusal = refuse(&mut state, above);
    assert_eq!(refusal, TierRefusal::EpochNotBelow { found: 13, current: 13 });
}

#[test]
fn t2_records_that_were_all_deleted_leave_their_offsets() {
    let mut state = opened();
    let nothing = RestoredPartition {
        log_start: 60,
        pages: vec![],
        objects: vec![],
        epochs: vec![],
        producers: vec![],
        ..restored()
    };
    assert_eq!(restore(&mut state, nothing).0, Outcome::Done);
    assert_eq!(append(&mut state, batch(1)).expect("taken").base_offset, 60);
    assert_eq!(state.partitions[&partition()].log_start, 60);
}

#[test]
fn t2_a_partition_with_records_is_never_replaced() {
    let mut state = opened();
    append(&mut state, batch(2)).expect("taken");
    assert_eq!(refuse(&mut state, restored()), TierRefusal::NotEmpty { next_offset: 2 });
    change(&mut state, ShardCommand::AdvanceLogStart(vec![(partition(), 2)]));
    assert_eq!(refuse(&mut state, restored()), TierRefusal::NotEmpty { next_offset: 2 });
    let mut state = opened();
    restore(&mut state, restored());
    let other = RestoredPartition { log_start: 8, ..restored() };
    assert_eq!(refuse(&mut state, other), TierRefusal::NotEmpty { next_offset: 60 });
    let mut state = State::new();
    assert_eq!(refuse(&mut state, restored()), TierRefusal::NoSuchPartition);
}

#[test]
fn o4_a_refused_restore_with_a_gap_or_an_overlap() {
    let mut state = opened();
    let changed = |change: fn(&mut RestoredPartition)| {
        let mut changed = restored();
        change(&mut changed);
        changed
    };
    for wrong in [
        changed(|r| r.objects = r.objects.split_off(1)),
        changed(|r| r.objects.truncate(1)),
        changed(|r| r.objects[0].base = 29),
        changed(|r| r.objects[1].base = 41),
        changed(|r| r.pages[1].end = 31),
        changed(|r| r.end = 61),
        changed(|r| r.log_start = 4),
        changed(|r| r.log_start = -1),
        changed(|r| r.log_start = 61),
        changed(|r| (r.objects, r.pages) = (vec![], vec![])),
        changed(|r| r.objects.insert(0, object(30, 30))),
    ] {
        assert_eq!(refuse(&mut state, wrong), TierRefusal::NotContiguous);
    }
    for wrong in [
        changed(|r| r.pages[0].level = 2),
        changed(|r| r.pages.iter_mut().for_each(|page| page.level = 1 - page.level)),
    ] {
        assert_eq!(refuse(&mut state, wrong), TierRefusal::PageMismatch);
    }
    for wrong in [
        changed(|r| r.epochs.reverse()),
        changed(|r| r.epochs[1].start_offset = 60),
        changed(|r| r.epochs[1].start_offset = 7),
        changed(|r| r.producers[0].batches.clear()),
        changed(|r| r.producers.push(r.producers[0].clone())),
    ] {
        assert_eq!(refuse(&mut state, wrong), TierRefusal::OutOfOrder);
    }
}

#[test]
fn r1_a_refused_restore_of_too_much() {
    let mut state = opened();
    let objects = |count: i64| (0..count).map(|at| object(at, at + 1)).collect();
    let most = RestoredPartition {
        log_start: 0,
        end: limits::TIER_OBJECTS_MAX as i64,
        pages: vec![],
        objects: objects(limits::TIER_OBJECTS_MAX as i64),
        ..restored()
    };
    let too_many = |what, count| TierRefusal::TooMany { what, count };
    let more =
        RestoredPartition { end: most.end + 1, objects: objects(most.end + 1), ..most.clone() };
    let refusal = refuse(&mut state, more);
    assert_eq!(refusal, too_many(Bounded::Objects, limits::TIER_OBJECTS_MAX));
    let mut more = restored();
    more.pages = vec![page(0, 0, 1); limits::TIER_PAGES_MAX + 1];
    assert_eq!(refuse(&mut state, more), too_many(Bounded::Pages, limits::TIER_PAGES_MAX));
    let mut more = restored();
    more.producers[0].batches = vec![more.producers[0].batches[0]; 6];
    assert_eq!(refuse(&mut state, more), too_many(Bounded::Producers, 5));
    let mut more = restored();
    let producer = |id: i64| RestoredProducer { id, ..restored().producers[0].clone() };
    more.producers = (0..=limits::PARTITION_PRODUCERS_MAX as i64).map(producer).collect();
    let max = limits::PARTITION_PRODUCERS_MAX;
    assert_eq!(refuse(&mut state, more), too_many(Bounded::Producers, max));
    let mut more = restored();
    let epoch = |epoch: i32| RestoredEpoch { epoch: epoch - 2_000, start_offset: epoch.into() };
    more.epochs = (0..=EPOCHS_MAX as i32).map(epoch).collect();
    let refusal = refuse(&mut state, more);
    assert_eq!(refusal, too_many(Bounded::Epochs, EPOCHS_MAX));
    assert_eq!(restore(&mut state, most).0, Outcome::Done, "the most that is accepted");
}

#[test]
fn a_restore_survives_its_encoding_under_format_9() {
    let change = TierChange::Restore(Box::new(restored()));
    let change = ChangeTier { partition: partition(), change };
    let command = Command::Shard(ShardCommand::ChangeTier(change));
    let written = command::encode(TERM, 7, &command);
    assert_eq!(written.to_bytes()[0], 9);
    assert!(!command::frees_space(&written));
    assert!(!command::is_written_at(8, &command) && command::is_written_at(9, &command));
    let read = Envelope { term: TERM, time_ms: 7, command };
    assert_eq!(Envelope::decode(&written), Ok(read));
}
