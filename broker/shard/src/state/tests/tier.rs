//! The tier of a partition: what is accepted, every refusal by name, and the bounds (T1, O4, R1).

use super::*;
use crate::command::{ChangeTier, TierChange};
use crate::id::HistoryId;
use crate::manifest::{ObjectRef, PageRef};
use crate::state::tier::{Bounded, Tier, TierRefusal};

mod model;

fn object(base: i64, end: i64) -> ObjectRef {
    ObjectRef {
        base,
        end,
        history: HistoryId(5),
        term: TERM,
        size_bytes: 100 + end.unsigned_abs(),
        digest: 7_u64.wrapping_mul(end.unsigned_abs()),
        max_timestamp_ms: 1_000 + base,
        first_epoch: 13,
    }
}

/// The page that lists these objects.
fn page_of(objects: &[ObjectRef]) -> PageRef {
    let (first, last) = (objects.first().expect("some"), objects.last().expect("some"));
    PageRef {
        level: 0,
        base: first.base,
        end: last.end,
        count: objects.len().try_into().expect("few"),
        objects_bytes: objects.iter().map(|object| object.size_bytes).sum(),
        max_timestamp_ms: objects.iter().map(|o| o.max_timestamp_ms).max().expect("some"),
        history: HistoryId(5),
        term: TERM,
        size_bytes: 40,
        digest: 11 * last.end.unsigned_abs(),
    }
}

fn change_tier(state: &mut State, change: TierChange) -> (Outcome, Vec<Effect>) {
    let change = ChangeTier { partition: partition(), change };
    run(state, Command::Shard(ShardCommand::ChangeTier(change)))
}

fn accept(state: &mut State, change: TierChange) -> Vec<Effect> {
    let (outcome, effects) = change_tier(state, change.clone());
    assert_eq!(outcome, Outcome::Done, "{change:?}");
    effects
}

fn refuse(state: &mut State, change: TierChange) -> TierRefusal {
    let before = state.partitions.clone();
    let (outcome, effects) = change_tier(state, change);
    assert_eq!((&state.partitions, effects), (&before, vec![]), "nothing was changed");
    let Outcome::TierRefused(refusal) = outcome else { panic!("{outcome:?}") };
    refusal
}

fn tier(state: &State) -> &Tier {
    state.partitions[&partition()].tier.as_deref().expect("it has a tier")
}

fn advance(state: &mut State, offset: i64) {
    change(state, ShardCommand::AdvanceLogStart(vec![(partition(), offset)]));
}

/// A partition with 100 records that takes objects.
fn tiered() -> State {
    let mut state = opened();
    append(&mut state, batch(100)).expect("taken");
    accept(&mut state, TierChange::Enable);
    state
}

/// The same with objects of ten records each.
fn with_objects(count: i64) -> State {
    let mut state = tiered();
    for at in 0..count {
        accept(&mut state, TierChange::AddObject(object(10 * at, 10 * at + 10)));
    }
    state
}

#[test]
fn objects_follow_one_another_and_the_local_start_follows_them() {
    let mut state = with_objects(3);
    let ends = |state: &State| {
        let partition = &state.partitions[&partition()];
        (partition.log_start, partition.local_start(), partition.tier_end(), partition.next_offset)
    };
    assert_eq!(ends(&state), (0, 0, 30, 100));
    let effects = accept(&mut state, TierChange::SetLocalStart(25));
    assert_eq!(effects, [Effect::LocalStart { partition: partition(), offset: 25 }]);
    assert_eq!(ends(&state), (0, 25, 30, 100));
    assert_eq!(accept(&mut state, TierChange::SetLocalStart(20)), [], "it never moves back");
    assert_eq!(ends(&state), (0, 25, 30, 100));
    advance(&mut state, 28);
    assert_eq!(ends(&state), (28, 28, 30, 100));
    advance(&mut state, 50);
    assert_eq!(ends(&state), (50, 50, 50, 100), "the log start may pass the tier");
    accept(&mut state, TierChange::AddObject(object(50, 60)));
    assert_eq!(ends(&state), (50, 50, 60, 100));
}

#[test]
fn a_partition_without_a_tier_ends_where_its_log_starts() {
    let mut state = opened();
    append(&mut state, batch(9)).expect("taken");
    advance(&mut state, 4);
    let partition = &state.partitions[&partition()];
    assert_eq!((partition.local_start(), partition.tier_end()), (4, 4));
}

#[test]
fn a_change_that_comes_again_is_accepted_and_changes_nothing() {
    let mut state = with_objects(4);
    let objects: Vec<_> = tier(&state).objects.iter().copied().collect();
    let page = page_of(&objects[..2]);
    for change in [
        TierChange::Enable,
        TierChange::AddObject(objects[3]),
        TierChange::FoldObjects(page),
        TierChange::SetLocalStart(10),
        TierChange::DropObjects { through: 0 },
        TierChange::ObjectsDeleted { through: 0, pages: vec![] },
    ] {
        accept(&mut state, change.clone());
        let before = state.partitions.clone();
        assert_eq!(accept(&mut state, change.clone()), [], "{change:?}");
        assert_eq!(state.partitions, before, "{change:?}");
    }
}

#[test]
fn a_refused_object_of_an_unknown_partition() {
    let mut state = State::new();
    let refusal = refuse(&mut state, TierChange::AddObject(object(0, 1)));
    assert_eq!(refusal, TierRefusal::NoSuchPartition);
}

#[test]
fn a_refused_change_of_a_partition_without_a_tier() {
    let mut state = opened();
    append(&mut state, batch(9)).expect("taken");
    for change in [
        TierChange::AddObject(object(0, 1)),
        TierChange::SetLocalStart(0),
        TierChange::Disable,
        TierChange::DropObjects { through: 0 },
    ] {
        assert_eq!(refuse(&mut state, change), TierRefusal::NotTiered);
    }
}

#[test]
fn a_refused_object_after_the_tier_was_disabled() {
    let mut state = with_objects(1);
    accept(&mut state, TierChange::Disable);
    let refusal = refuse(&mut state, TierChange::AddObject(object(10, 20)));
    assert_eq!(refusal, TierRefusal::Disabled);
    accept(&mut state, TierChange::Enable);
    accept(&mut state, TierChange::AddObject(object(10, 20)));
}

#[test]
fn o4_a_refused_object_that_leaves_a_gap() {
    let mut state = with_objects(1);
    let refusal = refuse(&mut state, TierChange::AddObject(object(11, 20)));
    assert_eq!(refusal, TierRefusal::Gap { base: 11, end: 10 });
}

#[test]
fn o4_a_refused_object_that_overlaps() {
    let mut state = with_objects(2);
    let refusal = refuse(&mut state, TierChange::AddObject(object(19, 30)));
    assert_eq!(refusal, TierRefusal::Overlap { base: 19, end: 20 });
    // The log start has passed the end of the tier.
    advance(&mut state, 40);
    let refusal = refuse(&mut state, TierChange::AddObject(object(20, 50)));
    assert_eq!(refusal, TierRefusal::Overlap { base: 20, end: 40 });
}

#[test]
fn a_refused_object_without_offsets() {
    let mut state = with_objects(1);
    assert_eq!(refuse(&mut state, TierChange::AddObject(object(10, 10))), TierRefusal::Empty);
    assert_eq!(refuse(&mut state, TierChange::AddObject(object(10, 9))), TierRefusal::Empty);
}

#[test]
fn a_refused_object_that_ends_after_the_log() {
    let mut state = tiered();
    let refusal = refuse(&mut state, TierChange::AddObject(object(0, 101)));
    assert_eq!(refusal, TierRefusal::BeyondLog { end: 101, next_offset: 100 });
    accept(&mut state, TierChange::AddObject(object(0, 100)));
}

#[test]
fn t1_a_refused_object_or_page_of_another_term() {
    let mut state = with_objects(2);
    let wrong = |written| TierRefusal::WrongTerm { written, current: TERM };
    for term in [TERM - 1, TERM + 1] {
        let other = ObjectRef { term, ..object(20, 30) };
        assert_eq!(refuse(&mut state, TierChange::AddObject(other)), wrong(term));
        let page = PageRef { term, ..page_of(&[object(0, 10), object(10, 20)]) };
        assert_eq!(refuse(&mut state, TierChange::FoldObjects(page)), wrong(term));
    }
}

#[test]
fn t1_a_refused_local_start_after_the_end_of_the_tier() {
    let mut state = with_objects(2);
    let refusal = refuse(&mut state, TierChange::SetLocalStart(21));
    assert_eq!(refusal, TierRefusal::BeyondTier { offset: 21, end: 20 });
    accept(&mut state, TierChange::SetLocalStart(20));
}

#[test]
fn t1_a_refused_drop_of_objects_that_are_still_read() {
    let mut state = with_objects(3);
    advance(&mut state, 15);
    let refusal = refuse(&mut state, TierChange::DropObjects { through: 20 });
    assert_eq!(refusal, TierRefusal::StillRead { offset: 20, log_start: 15 });
    accept(&mut state, TierChange::DropObjects { through: 15 });
    assert_eq!(tier(&state).object_at(9), None, "it ends before");
    assert_eq!(tier(&state).object_at(15), Some(&object(10, 20)), "it is still read");
    assert_eq!(tier(&state).dropped_ms, NOW_MS, "the clock of the shard at that time");
}

#[test]
fn t1_a_refused_deletion_of_objects_that_were_not_dropped() {
    let mut state = with_objects(3);
    advance(&mut state, 20);
    let deleted = |through| TierChange::ObjectsDeleted { through, pages: vec![] };
    let refusal = refuse(&mut state, deleted(10));
    assert_eq!(refusal, TierRefusal::NotDropped { offset: 10, dropped: 0 });
    accept(&mut state, TierChange::DropObjects { through: 20 });
    assert_eq!(tier(&state).objects.len(), 3, "they wait for the grace period");
    accept(&mut state, deleted(10));
    assert_eq!(tier(&state).objects, [object(10, 20), object(20, 30)]);
    accept(&mut state, deleted(20));
    assert_eq!((tier(&state).deleted, tier(&state).objects.len()), (20, 1));
}

#[test]
fn r1_a_refused_object_or_page_too_many() {
    let mut state = tiered();
    append(&mut state, batch(5_000)).expect("taken");
    let mut base = 0;
    let mut add = |state: &mut State, change: fn(&mut State, TierChange)| {
        change(state, TierChange::AddObject(object(base, base + 1)));
        base += 1;
    };
    let accepted = |state: &mut State, change| drop(accept(state, change));
    let too_many = |what, count| TierRefusal::TooMany { what, count };
    for _ in 0..limits::TIER_PAGES_MAX {
        for _ in 0..2 {
            add(&mut state, accepted);
        }
        let objects: Vec<_> = tier(&state).objects.iter().copied().collect();
        accept(&mut state, TierChange::FoldObjects(page_of(&objects)));
    }
    for _ in 0..limits::TIER_OBJECTS_MAX {
        add(&mut state, accepted);
    }
    let next = TierChange::AddObject(object(tier(&state).end, tier(&state).end + 1));
    let refusal = refuse(&mut state, next);
    assert_eq!(refusal, too_many(Bounded::Objects, limits::TIER_OBJECTS_MAX));
    let objects: Vec<_> = tier(&state).objects.iter().copied().collect();
    let refusal = refuse(&mut state, TierChange::FoldObjects(page_of(&objects)));
    assert_eq!(refusal, too_many(Bounded::Pages, limits::TIER_PAGES_MAX));

    let tier = tier(&state);
    let bytes = size_of::<Tier>()
        + tier.objects.capacity() * size_of::<ObjectRef>()
        + tier.pages.capacity() * size_of::<PageRef>()
        + limits::TIER_REPLACED_MAX * size_of::<PageRef>();
    assert!(bytes <= 10 << 10, "{bytes}: the bound that `limits` states");
}

#[test]
fn r1_a_partition_without_a_tier_pays_one_pointer() {
    let without = size_of::<(i32, i64, i64, Vec<EpochStart>, usize)>();
    assert_eq!(size_of::<Partition>(), without + size_of::<usize>());
}

/// The references to the objects of `state`, as pages of these sizes list them.
fn fold(state: &mut State, counts: &[usize]) -> Vec<PageRef> {
    let mut pages = Vec::new();
    for count in counts {
        let objects: Vec<_> = tier(state).objects.iter().copied().take(*count).collect();
        pages.push(page_of(&objects));
        accept(state, TierChange::FoldObjects(page_of(&objects)));
    }
    pages
}

#[test]
fn a_page_takes_the_oldest_objects_and_grows() {
    let mut state = with_objects(8);
    let all: Vec<_> = tier(&state).objects.iter().copied().collect();
    let pages = fold(&mut state, &[2, 3]);
    assert_eq!(tier(&state).pages, pages);
    assert_eq!(tier(&state).objects, &all[5..]);
    // The newest page is written again with more objects.
    let larger = page_of(&all[2..7]);
    let effects = accept(&mut state, TierChange::FoldObjects(larger));
    assert_eq!(effects, [Effect::TierChanged(partition())]);
    assert_eq!(tier(&state).pages, [pages[0], larger]);
    assert_eq!(tier(&state).replaced, [pages[1]]);
    assert_eq!(tier(&state).objects, &all[7..]);
    assert_eq!(tier(&state).page_at(19), Some(&pages[0]));
    assert_eq!(tier(&state).page_at(20), Some(&larger));
    assert_eq!((tier(&state).page_at(70), tier(&state).object_at(70)), (None, Some(&all[7])));
    // Deleted pages are released by their digests.
    let deleted = |pages| TierChange::ObjectsDeleted { through: 0, pages };
    accept(&mut state, deleted(vec![1, 2]));
    assert_eq!(tier(&state).replaced.len(), 1);
    accept(&mut state, deleted(vec![1, pages[1].digest]));
    assert_eq!(tier(&state).replaced, []);
}

#[test]
fn a_page_of_pages_takes_the_oldest_pages_and_grows() {
    let mut state = with_objects(10);
    let pages = fold(&mut state, &[2, 2, 2, 2]);
    let above = |pages: &[PageRef], digest| {
        let [first, .., last] = pages else { panic!("several") };
        PageRef {
            level: 1,
            base: first.base,
            end: last.end,
            count: pages.len().try_into().expect("few"),
            objects_bytes: pages.iter().map(|page| page.objects_bytes).sum(),
            max_timestamp_ms: pages.iter().map(|p| p.max_timestamp_ms).max().expect("some"),
            digest,
            ..*first
        }
    };
    let first = above(&pages[..2], 1);
    accept(&mut state, TierChange::FoldObjects(first));
    assert_eq!(tier(&state).pages, [first, pages[2], pages[3]]);
    let larger = above(&pages[..3], 2);
    accept(&mut state, TierChange::FoldObjects(larger));
    assert_eq!(tier(&state).pages, [larger, pages[3]]);
    assert_eq!(tier(&state).replaced, [first]);
    // A page of level 2 does not exist, and one of level 1 does not list objects.
    let third = PageRef { level: 2, ..larger };
    assert_eq!(refuse(&mut state, TierChange::FoldObjects(third)), TierRefusal::PageMismatch);
    let objects: Vec<_> = tier(&state).objects.iter().copied().collect();
    let second = PageRef { level: 1, ..page_of(&objects) };
    assert_eq!(refuse(&mut state, TierChange::FoldObjects(second)), TierRefusal::PageMismatch);
    advance(&mut state, 75);
    accept(&mut state, TierChange::DropObjects { through: 75 });
    accept(&mut state, TierChange::ObjectsDeleted { through: 75, pages: vec![] });
    assert_eq!(tier(&state).pages, [pages[3]], "a part of it is still read");
}

#[test]
fn o4_a_refused_page_that_does_not_list_the_oldest_objects() {
    let mut state = with_objects(5);
    let all: Vec<_> = tier(&state).objects.iter().copied().collect();
    let page = page_of(&all[..3]);
    for other in [
        page_of(&all[1..3]),
        PageRef { base: 1, ..page },
        PageRef { end: 29, ..page },
        PageRef { end: 31, ..page },
        PageRef { count: 2, ..page },
        PageRef { objects_bytes: page.objects_bytes + 1, ..page },
        PageRef { max_timestamp_ms: 0, ..page },
        PageRef { level: 1, ..page },
        PageRef { end: 0, count: 0, objects_bytes: 0, ..page },
    ] {
        let refusal = refuse(&mut state, TierChange::FoldObjects(other));
        assert_eq!(refusal, TierRefusal::PageMismatch, "{other:?}");
    }
    accept(&mut state, TierChange::FoldObjects(page));
    let skipped = page_of(&[object(0, 30), object(40, 50)]);
    assert_eq!(refuse(&mut state, TierChange::FoldObjects(skipped)), TierRefusal::PageMismatch);
    let none_added = PageRef { digest: 1, ..page };
    assert_eq!(refuse(&mut state, TierChange::FoldObjects(none_added)), TierRefusal::PageMismatch);
}

/// `DeleteRecords` may leave a gap between objects. No page hides it.
#[test]
fn o4_a_refused_page_over_a_gap() {
    let mut state = with_objects(2);
    advance(&mut state, 40);
    accept(&mut state, TierChange::AddObject(object(40, 50)));
    accept(&mut state, TierChange::AddObject(object(50, 60)));
    let all: Vec<_> = tier(&state).objects.iter().copied().collect();
    let refusal = refuse(&mut state, TierChange::FoldObjects(page_of(&all)));
    assert_eq!(refusal, TierRefusal::PageMismatch);
    let pages = fold(&mut state, &[2]);
    let over = PageRef { end: 60, count: 4, ..pages[0] };
    assert_eq!(refuse(&mut state, TierChange::FoldObjects(over)), TierRefusal::PageMismatch);
    fold(&mut state, &[2]);
}

#[test]
fn r1_a_refused_page_that_replaces_one_too_many() {
    let mut state = tiered();
    let mut all = Vec::new();
    let mut add = |state: &mut State| {
        let base = tier(state).end;
        all.push(object(base, base + 1));
        accept(state, TierChange::AddObject(object(base, base + 1)));
        page_of(&all)
    };
    add(&mut state);
    for _ in 0..=limits::TIER_REPLACED_MAX {
        let page = add(&mut state);
        accept(&mut state, TierChange::FoldObjects(page));
    }
    let page = add(&mut state);
    let refusal = refuse(&mut state, TierChange::FoldObjects(page));
    let what = Bounded::ReplacedPages;
    assert_eq!(refusal, TierRefusal::TooMany { what, count: limits::TIER_REPLACED_MAX });
}

#[test]
fn r1_a_refused_page_with_too_many_entries() {
    let mut state = tiered();
    append(&mut state, batch(5_000)).expect("taken");
    let mut all = Vec::new();
    let mut last = None;
    while all.len() <= limits::TIER_PAGE_ENTRIES_MAX as usize {
        let base = tier(&state).end;
        all.push(object(base, base + 1));
        accept(&mut state, TierChange::AddObject(object(base, base + 1)));
        let is_full = tier(&state).objects.len() == limits::TIER_OBJECTS_MAX;
        if is_full && all.len() <= limits::TIER_PAGE_ENTRIES_MAX as usize {
            let page = page_of(&all);
            accept(&mut state, TierChange::FoldObjects(page));
            let pages = last.replace(page).map(|page: PageRef| page.digest);
            let pages = pages.into_iter().collect();
            accept(&mut state, TierChange::ObjectsDeleted { through: 0, pages });
        }
    }
    let refusal = refuse(&mut state, TierChange::FoldObjects(page_of(&all)));
    let count = limits::TIER_PAGE_ENTRIES_MAX as usize;
    assert_eq!(refusal, TierRefusal::TooMany { what: Bounded::Entries, count });
}

#[test]
fn a_disabled_tier_is_removed_with_its_last_object() {
    let mut state = with_objects(2);
    accept(&mut state, TierChange::SetLocalStart(20));
    accept(&mut state, TierChange::Disable);
    advance(&mut state, 20);
    accept(&mut state, TierChange::DropObjects { through: 20 });
    accept(&mut state, TierChange::ObjectsDeleted { through: 10, pages: vec![] });
    assert_eq!(tier(&state).objects, [object(10, 20)]);
    accept(&mut state, TierChange::ObjectsDeleted { through: 20, pages: vec![] });
    assert_eq!(state.partitions[&partition()].tier, None);
    // One that never had an object is removed at once.
    let mut state = tiered();
    accept(&mut state, TierChange::Disable);
    assert_eq!(state.partitions[&partition()].tier, None);
}

#[test]
fn commands_on_a_tier_survive_their_encoding_under_format_8() {
    for change in [
        TierChange::Enable,
        TierChange::Disable,
        TierChange::AddObject(object(1 << 50, (1 << 50) + 7)),
        TierChange::FoldObjects(page_of(&[object(1, 2), object(2, 9)])),
        TierChange::SetLocalStart(7),
        TierChange::DropObjects { through: 7 },
        TierChange::ObjectsDeleted { through: 7, pages: vec![1, u64::MAX] },
    ] {
        let is_local_start = matches!(change, TierChange::SetLocalStart(_));
        let change = ChangeTier { partition: partition(), change };
        let command = Command::Shard(ShardCommand::ChangeTier(change));
        let written = command::encode(TERM, 7, &command);
        assert_eq!(written.to_bytes()[0], 8);
        assert_eq!(command::frees_space(&written), is_local_start, "{command:?}");
        assert!(command::leads_to_space(&written), "{command:?}");
        assert!(!command::is_written_at(7, &command) && command::is_written_at(8, &command));
        let read = Envelope { term: TERM, time_ms: 7, command };
        assert_eq!(Envelope::decode(&written), Ok(read));
    }
}

/// The encoding of an entry, so that a later version reads what this one wrote.
#[test]
fn an_added_object_has_these_bytes() {
    let change = ChangeTier { partition: partition(), change: TierChange::AddObject(object(3, 5)) };
    let command = Command::Shard(ShardCommand::ChangeTier(change));
    let written = command::encode(TERM, 0, &command).to_bytes();
    // The fifteenth command and its third change; base and end, history, term, size, digest, time
    // and epoch; the partition.
    let expected = [14, 2, 6, 10, 5, 3, 105, 35, 0xD6, 0x0F, 26, 16];
    assert_eq!(written[18..18 + expected.len()], expected);
}
