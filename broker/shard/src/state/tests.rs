//! The invariants of the state machine (O1, O3, D5).

use bytes::Bytes;
use proptest::prelude::*;
use ropewalk_batch::Builder;

use super::*;
use crate::command::{self, CatalogCommand, NewTopic};
use crate::command::{
    CommitOffsets, Member, MemberClaim, OffsetCommit, SetGeneration, SilentProducer,
};
use crate::id::{BrokerId, ReplicaId, ShardId};
use crate::limits;
use crate::placement::{BrokerInfo, PeerEndpoint, ShardInfo, Standing};
use crate::state::partition::EpochStart;

mod digests;
mod entries;
mod groups;
mod restore;
mod tier;

const TERM: u64 = 3;

fn partition() -> PartitionId {
    PartitionId { topic: TopicId(uuid::Uuid::from_u128(7)), index: 0 }
}

fn batch(count: usize) -> Bytes {
    let mut builder = Builder::new();
    for n in 0..count {
        builder = builder.record(1_000, None, Some(n.to_string().as_bytes()));
    }
    builder.build()
}

fn numbered(producer: i64, epoch: i16, sequence: i32, count: usize) -> Bytes {
    let mut builder = Builder::new().producer(producer, epoch, sequence);
    for n in 0..count {
        builder = builder.record(1_000, None, Some(n.to_string().as_bytes()));
    }
    builder.build()
}

fn opened() -> State {
    let mut state = State::new();
    let open = OpenPartition { partition: partition(), epoch_base: 10 };
    change(&mut state, ShardCommand::OpenPartitions(vec![open]));
    state
}

fn run(state: &mut State, command: Command) -> (Outcome, Vec<Effect>) {
    let mut effects = Vec::new();
    // Encoded and decoded, like an entry of the log.
    let written = command::encode(TERM, 5_000, &command).to_bytes();
    let entry = Envelope::decode(&written.into()).expect("our own entry");
    (state.apply(TERM, entry, &mut effects), effects)
}

fn change(state: &mut State, command: ShardCommand) -> Outcome {
    run(state, Command::Shard(command)).0
}

fn append(state: &mut State, batch: Bytes) -> Result<AppendOutcome, AppendRefusal> {
    let items = vec![Append { partition: partition(), batch }];
    let Outcome::Appended(results) = run(state, Command::Append(items)).0 else {
        panic!("an append has results")
    };
    results[0]
}

#[test]
fn o1_offsets_are_dense_and_epochs_begin_where_a_term_first_writes() {
    let mut state = opened();
    assert_eq!(append(&mut state, batch(3)).expect("taken").base_offset, 0);
    assert_eq!(append(&mut state, batch(2)).expect("taken").base_offset, 3);
    let partition = &state.partitions[&partition()];
    assert_eq!(partition.next_offset, 5);
    assert_eq!(partition.epochs, [EpochStart { epoch: 13, start_offset: 0 }]);
}

/// Like Kafka's `LeaderEpochFileCache.endOffsetFor`: the leader's own epoch is in it from its
/// start.
#[test]
fn an_epoch_ends_where_the_next_one_begins_however_old_it_is() {
    let mut partition = Partition::new(10);
    let ends = |partition: &Partition, current: i32, asked: &[i32]| -> Vec<Option<(i32, i64)>> {
        let end = |epoch: &i32| partition.epoch_end(*epoch, current);
        asked.iter().map(|epoch| end(epoch).map(|end| (end.epoch, end.end_offset))).collect()
    };
    let empty = ends(&partition, 12, &[-1, 0, 11, 12, 13]);
    assert_eq!(empty, [None, Some((0, 0)), Some((11, 0)), Some((12, 0)), None]);

    partition.append(2, 0, batch(3)).expect("taken");
    partition.append(5, 0, batch(4)).expect("taken");
    let epochs = ends(&partition, 18, &[11, 12, 13, 14, 15, 17, 18, 19]);
    let expected = [
        Some((11, 0)),
        Some((12, 3)),
        Some((12, 3)),
        Some((12, 3)),
        Some((15, 7)),
        Some((15, 7)),
        Some((18, 7)),
        None,
    ];
    assert_eq!(epochs, expected, "no record yet in the epoch it is led in");

    partition.advance_log_start(5);
    let deleted = ends(&partition, 15, &[12, 14, 15, 16]);
    let expected = [Some((12, 5)), Some((14, 5)), Some((15, 7)), None];
    assert_eq!(deleted, expected, "an epoch whose records were deleted ends at the log start");
}

#[test]
fn an_entry_of_another_term_changes_nothing() {
    let mut state = opened();
    let before = state.clone();
    let items = vec![Append { partition: partition(), batch: batch(1) }];
    let entry = Envelope { term: 2, time_ms: 0, command: Command::Append(items) };
    assert_eq!(state.apply(TERM, entry, &mut Vec::new()), Outcome::TermChanged);
    assert_eq!(state, before);
}

#[test]
fn d5_a_batch_that_comes_again_gets_its_first_offset() {
    let mut state = opened();
    for n in 0..7 {
        assert_eq!(append(&mut state, numbered(9, 0, n, 1)).expect("taken").base_offset, n.into());
    }
    for n in 2..7 {
        let again = append(&mut state, numbered(9, 0, n, 1)).expect("known");
        assert!(again.duplicate);
        assert_eq!(again.base_offset, i64::from(n));
    }
    // Older than the window: cannot be distinguished from a gap (KIP-98).
    let old = append(&mut state, numbered(9, 0, 1, 1));
    assert_eq!(old, Err(AppendRefusal::OutOfOrderSequence { sequence: 1, last: 6 }));
    assert_eq!(state.partitions[&partition()].next_offset, 7);
}

#[test]
fn d5_sequences_epochs_and_wrapping() {
    let mut state = opened();
    // Nothing known: any sequence is the first.
    append(&mut state, numbered(9, 1, i32::MAX - 1, 2)).expect("taken");
    append(&mut state, numbered(9, 1, 0, 1)).expect("wraps");
    let gap = append(&mut state, numbered(9, 1, 5, 1));
    assert_eq!(gap, Err(AppendRefusal::OutOfOrderSequence { sequence: 5, last: 0 }));
    let stale = append(&mut state, numbered(9, 0, 1, 1));
    assert_eq!(stale, Err(AppendRefusal::StaleEpoch { epoch: 0, current: 1 }));
    let late = append(&mut state, numbered(9, 2, 4, 1));
    assert_eq!(late, Err(AppendRefusal::OutOfOrderSequence { sequence: 4, last: -1 }));
    append(&mut state, numbered(9, 2, 0, 1)).expect("a new epoch begins at 0");
}

#[test]
fn the_log_start_never_moves_back_or_past_the_end() {
    let mut state = opened();
    append(&mut state, batch(5)).expect("taken");
    for (asked, start) in [(3, 3), (1, 3), (99, 5)] {
        change(&mut state, ShardCommand::AdvanceLogStart(vec![(partition(), asked)]));
        assert_eq!(state.partitions[&partition()].log_start, start);
    }
}

fn generation(number: i32, members: &[&str]) -> ShardCommand {
    let member = |id: &&str| Member {
        member_id: (*id).into(),
        instance_id: None,
        client_id: "c".into(),
        client_host: "/127.0.0.1".into(),
        rebalance_timeout_ms: 1,
        session_timeout_ms: 1,
        protocols: vec![("range".into(), Bytes::new())],
        assignment: Bytes::from_static(b"a"),
    };
    ShardCommand::SetGeneration(SetGeneration {
        group: "g".into(),
        protocol_type: "consumer".into(),
        generation: number,
        protocol: Some("range".into()),
        leader: members.first().map(|m| (*m).into()),
        members: members.iter().map(member).collect(),
    })
}

fn commit(member: Option<(&str, i32)>, offset: i64) -> ShardCommand {
    let member = member.map(|(id, generation)| MemberClaim {
        member_id: id.into(),
        instance_id: None,
        generation,
    });
    let commit =
        OffsetCommit { offset, leader_epoch: -1, metadata: String::new(), expires_ms: None };
    let offsets = vec![(partition(), commit)];
    ShardCommand::CommitOffsets(CommitOffsets { group: "g".into(), member, offsets })
}

#[test]
fn names_are_taken_once_and_may_not_collide() {
    let mut state = State::new();
    let mut ids = 1..;
    let mut topic = |name: &str| NewTopic {
        id: TopicId(uuid::Uuid::from_u128(ids.next().expect("endless"))),
        name: name.into(),
        partitions: vec![],
        configs: vec![],
        owner: None,
    };
    let topics = vec![topic("a.b"), topic("a.b"), topic("a_b"), topic("ab")];
    let command = Command::Catalog(CatalogCommand::CreateTopics(topics));
    let (Outcome::Catalog { answer: catalog::Answer::Topics(made), .. }, _) =
        run(&mut state, command)
    else {
        panic!("not an answer of the catalog")
    };
    assert!(made[0].is_ok());
    assert!(matches!(made[1], Err(catalog::Refusal::TopicExists { .. })));
    assert!(matches!(made[2], Err(catalog::Refusal::NameCollision { .. })));
    assert!(made[3].is_ok());
}

#[test]
fn a_fence_grows_with_every_claim() {
    let mut state = State::new();
    let mut claim = |holder: &str, lease: &str| {
        let (holder, lease_uid) = (holder.into(), lease.into());
        let command = Command::Catalog(CatalogCommand::ClaimFence { holder, lease_uid });
        let Outcome::Catalog { answer: catalog::Answer::Fence { epoch, .. }, .. } =
            run(&mut state, command).0
        else {
            panic!("a claim has an epoch")
        };
        epoch
    };
    assert_eq!([claim("a", "1"), claim("a", "1"), claim("b", "1"), claim("b", "2")], [1, 2, 3, 4]);
}

proptest! {
    #[test]
    fn any_bytes_decode_to_an_entry_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Envelope::decode(&Bytes::from(bytes).into());
    }

    #[test]
    fn the_commands_of_format_5_survive_their_encoding(
        broker in any::<i32>(), level in any::<u8>(), encoding in any::<u8>(),
    ) {
        let report = CatalogCommand::ReportLevel { broker: BrokerId(broker), level };
        for command in [
            Command::Catalog(report),
            Command::Shard(ShardCommand::CheckState { encoding }),
        ] {
            let written = command::encode(TERM, 7, &command).to_bytes();
            prop_assert_eq!(written[0], 5);
            let read = Envelope { term: TERM, time_ms: 7, command };
            prop_assert_eq!(Envelope::decode(&written.into()), Ok(read));
        }
    }

    #[test]
    fn a_replay_from_one_piece_has_the_effects_of_the_proposal_in_chunks(
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
    ) {
        let batches = values.iter().map(|value| Builder::new().record(0, None, Some(value)).build());
        let items = batches.map(|batch| Append { partition: partition(), batch }).collect();
        let written = command::encode(TERM, 5_000, &Command::Append(items));
        let [proposed, replayed] = [written.clone(), written.to_bytes().into()].map(|payload| {
            let (mut state, mut effects) = (opened(), Vec::new());
            let entry = Envelope::decode(&payload).expect("our own entry");
            let outcome = state.apply(TERM, entry, &mut effects);
            format!("{outcome:?} {effects:?} {state:?}")
        });
        prop_assert_eq!(proposed, replayed);
    }

    /// Retries in any order within the window: every batch is stored once, in order.
    #[test]
    fn d5_retries_never_store_twice(retries in prop::collection::vec((0_usize..20, 0_i32..5), 1..60)) {
        let mut state = opened();
        let mut next = 0_i32;
        for (_, back) in retries {
            append(&mut state, numbered(1, 0, next, 1)).expect("the next one");
            next += 1;
            let again = (next - 1 - back).max(0);
            let found = append(&mut state, numbered(1, 0, again, 1)).expect("within the window");
            prop_assert!(found.duplicate);
            prop_assert_eq!(found.base_offset, i64::from(again));
        }
        prop_assert_eq!(state.partitions[&partition()].next_offset, i64::from(next));
    }

    #[test]
    fn a_state_survives_being_written_down(commits in prop::collection::vec(0_i64..100, 0..20)) {
        let mut state = opened();
        append(&mut state, numbered(1, 0, 0, 3)).expect("taken");
        for offset in commits {
            change(&mut state, commit(None, offset));
        }
        let bytes = postcard::to_allocvec(&state).expect("encodes");
        let back: State = postcard::from_bytes(&bytes).expect("decodes");
        prop_assert_eq!(back, state);
    }
}

#[test]
fn d5_a_batch_with_a_known_first_and_another_last_sequence_is_no_duplicate() {
    let mut state = opened();
    append(&mut state, numbered(9, 0, 0, 3)).expect("taken");
    let shorter = append(&mut state, numbered(9, 0, 0, 2));
    assert_eq!(shorter, Err(AppendRefusal::OutOfOrderSequence { sequence: 0, last: 2 }));
}

/// The time of the entries that [`run`] applies.
const NOW_MS: i64 = 5_000;

fn silent(producer_id: i64, seen_ms: i64) -> ShardCommand {
    let partition = partition();
    ShardCommand::ExpireSilentProducers(vec![SilentProducer { partition, producer_id, seen_ms }])
}

#[test]
fn d5_a_producer_that_wrote_after_it_was_found_silent_is_remembered() {
    let mut state = opened();
    append(&mut state, numbered(9, 0, 0, 1)).expect("taken");
    // Found silent at an earlier batch than its last.
    change(&mut state, silent(9, NOW_MS - 1));
    assert!(append(&mut state, numbered(9, 0, 0, 1)).expect("known").duplicate);
    change(&mut state, silent(9, NOW_MS));
    assert!(!append(&mut state, numbered(9, 0, 0, 1)).expect("taken").duplicate);
}

/// After a change of leader the clock may be behind, even by more than a producer may be silent.
#[test]
fn d5_a_producer_that_wrote_by_a_clock_that_is_behind_is_remembered() {
    let mut state = opened();
    append(&mut state, numbered(9, 0, 0, 1)).expect("taken");
    for (sequence, time_ms) in [(1, 0), (2, 0), (3, NOW_MS)] {
        let seen_ms = state.partitions[&partition()].producers.as_ref().expect("one")[&9].seen_ms;
        let items = vec![Append { partition: partition(), batch: numbered(9, 0, sequence, 1) }];
        let entry = Envelope { term: TERM, time_ms, command: Command::Append(items) };
        state.apply(TERM, entry, &mut Vec::new());
        change(&mut state, silent(9, seen_ms));
        let again = append(&mut state, numbered(9, 0, sequence, 1)).expect("known");
        assert!(again.duplicate, "sequence {sequence} at {time_ms} ms");
    }
}

#[test]
fn d5_one_producer_expires_and_the_others_are_remembered() {
    for expire in [silent(9, NOW_MS), ShardCommand::ExpireProducers(vec![(partition(), 9)])] {
        let mut state = opened();
        append(&mut state, numbered(9, 0, 0, 1)).expect("taken");
        append(&mut state, numbered(8, 0, 0, 1)).expect("taken");
        change(&mut state, expire);
        assert!(append(&mut state, numbered(8, 0, 0, 1)).expect("known").duplicate);
        assert!(!append(&mut state, numbered(9, 0, 0, 1)).expect("taken").duplicate);
    }
}

#[test]
fn r1_a_partition_remembers_so_many_producers_and_forgets_the_oldest() {
    let at = |time_ms, batch| {
        let command = Command::Append(vec![Append { partition: partition(), batch }]);
        Envelope { term: TERM, time_ms, command }
    };
    let many = i64::try_from(limits::PARTITION_PRODUCERS_MAX).expect("fits");
    let (mut state, mut again) = (opened(), opened());
    // Producer 0 writes first and last.
    for id in (0..many).chain([0, many]) {
        let sequence = i32::from(id == 0 && state.partitions[&partition()].next_offset > 0);
        let entry = at(state.partitions[&partition()].next_offset, numbered(id, 0, sequence, 1));
        state.apply(TERM, entry.clone(), &mut Vec::new());
        again.apply(TERM, entry, &mut Vec::new());
    }
    assert_eq!(state, again, "every replica chooses alike");
    let known = state.partitions[&partition()].producers.as_ref().expect("some are known");
    assert_eq!(
        known.len(),
        limits::PARTITION_PRODUCERS_MAX + 1 - limits::PRODUCERS_EVICTED_AT_ONCE
    );
    assert!(known.contains_key(&0), "it wrote just now");
    assert!(known.contains_key(&many), "it came last");
    assert!(!known.contains_key(&1), "it was silent for longest");
    assert!(append(&mut state, numbered(0, 0, 1, 1)).expect("known").duplicate);
    let taken = append(&mut state, numbered(1, 0, 5, 1)).expect("any sequence is its first");
    assert!(!taken.duplicate);
}

/// What a catalog proves of its deleted topics.
fn deletions(topics: &[TopicId]) -> Vec<Deletion> {
    let mut state = State { catalog: Some(Box::default()), ..State::default() };
    let abandon = Command::Catalog(CatalogCommand::AbandonTopics(topics.to_vec()));
    let entry = Envelope { term: TERM, time_ms: NOW_MS, command: abandon };
    state.apply(TERM, entry, &mut Vec::new());
    let catalog = state.catalog.expect("it is there");
    topics.iter().filter_map(|topic| catalog.deletion(*topic)).collect()
}

#[test]
fn a_deleted_topic_is_closed_with_what_groups_committed_and_no_other_is() {
    let mut state = opened();
    let other = PartitionId { topic: TopicId(uuid::Uuid::from_u128(77)), index: 3 };
    let second = PartitionId { index: partition().index + 1, ..partition() };
    let open = [other, second].map(|partition| OpenPartition { partition, epoch_base: 0 });
    change(&mut state, ShardCommand::OpenPartitions(open.to_vec()));
    for partition in [partition(), other] {
        let offset =
            OffsetCommit { offset: 1, leader_epoch: -1, metadata: String::new(), expires_ms: None };
        let offsets = vec![(partition, offset)];
        let commit = CommitOffsets { group: "g".to_owned(), member: None, offsets };
        change(&mut state, ShardCommand::CommitOffsets(commit));
    }
    let deleted = deletions(&[partition().topic]);
    let close = Command::Shard(ShardCommand::CloseTopics(deleted));
    let mut effects = Vec::new();
    let entry = Envelope { term: TERM, time_ms: NOW_MS, command: close };
    assert_eq!(state.apply(TERM, entry, &mut effects), Outcome::Done);
    let changed = Effect::GroupChanged("g".to_owned());
    assert_eq!(effects, [Effect::Closed(partition()), Effect::Closed(second), changed]);
    assert_eq!(state.partitions.keys().collect::<Vec<_>>(), [&other]);
    assert_eq!(state.groups["g"].offsets.keys().collect::<Vec<_>>(), [&other]);
}

#[test]
fn r1_the_newest_epochs_of_a_partition_are_remembered() {
    let mut partition = Partition::new(0);
    let terms = partition::EPOCHS_MAX as u64 + 500;
    for term in 1..=terms {
        let batch = ropewalk_batch::Builder::new().record(1, None, Some(b"value")).build();
        partition.append(term, 0, batch).expect("taken");
    }
    assert_eq!(partition.epochs.len(), partition::EPOCHS_MAX);
    let newest = i32::try_from(terms).expect("few");
    let end = |epoch: i32, end_offset: i64| Some(partition::EpochEnd { epoch, end_offset });
    let of_newest = partition.epoch_end(newest, newest);
    let of_earlier = partition.epoch_end(newest - 1, newest);
    assert_eq!(of_newest, end(newest, terms as i64));
    assert_eq!(of_earlier, end(newest - 1, terms as i64 - 1));
}

/// A capture must not copy the producers and offsets, which may be a million.
#[test]
fn r1_a_clone_of_the_state_shares_its_parts_until_they_change() {
    let mut state = opened();
    let captured = state.clone();
    let shared = |state: &State| {
        let pairs = state.partitions.iter().zip(&captured.partitions);
        pairs.filter(|((_, ours), (_, theirs))| ours.is_shared_with(theirs)).count()
    };
    let count = state.partitions.len();
    assert!(count > 0 && shared(&state) == count);
    let before = captured.clone();
    let first = *state.partitions.keys().next().expect("one");
    let batch = ropewalk_batch::Builder::new().record(1, None, Some(b"value")).build();
    let partition = state.partitions.get_mut(&first).expect("it is open");
    partition.append(1, 0, batch).expect("taken");
    assert_eq!(shared(&state), count - 1, "only what changed was copied");
    assert_eq!(captured, before, "the capture is as it was");
    assert_ne!(state, captured);
}
