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
fn o3_only_the_current_generation_commits() {
    let mut state = opened();
    assert_eq!(change(&mut state, commit(None, 1)), Outcome::Done);
    change(&mut state, generation(2, &["m"]));
    let refused = |r| Outcome::GroupRefused(r);
    assert_eq!(
        change(&mut state, commit(Some(("m", 1)), 9)),
        refused(group::Refusal::IllegalGeneration)
    );
    assert_eq!(
        change(&mut state, commit(Some(("x", 2)), 9)),
        refused(group::Refusal::UnknownMember)
    );
    assert_eq!(change(&mut state, commit(None, 9)), refused(group::Refusal::UnknownMember));
    let delete = ShardCommand::DeleteGroup { group: "g".into() };
    assert_eq!(change(&mut state, delete), refused(group::Refusal::NotEmpty));
    assert_eq!(state.groups["g"].offsets[&partition()].offset, 1);
    // A later commit replaces, also a lower one.
    assert_eq!(change(&mut state, commit(Some(("m", 2)), 4)), Outcome::Done);
    assert_eq!(change(&mut state, commit(Some(("m", 2)), 3)), Outcome::Done);
    assert_eq!(state.groups["g"].offsets[&partition()].offset, 3);
}

#[test]
fn o3_the_old_process_of_a_static_member_is_fenced() {
    let mut state = opened();
    let ShardCommand::SetGeneration(mut set) = generation(1, &["new"]) else { unreachable!() };
    set.members[0].instance_id = Some("place".into());
    change(&mut state, ShardCommand::SetGeneration(set));
    let admit = |member_id: &str| {
        let instance_id = Some("place".to_owned());
        let claim = MemberClaim { member_id: member_id.into(), instance_id, generation: 1 };
        state.groups["g"].admit(Some(&claim))
    };
    assert_eq!(admit("new"), Ok(()));
    assert_eq!(admit("old"), Err(group::Refusal::FencedInstance));
}

#[test]
fn a_group_without_members_knows_since_when() {
    let mut state = opened();
    change(&mut state, generation(1, &["m"]));
    assert_eq!(state.groups["g"].empty_since_ms, None);
    change(&mut state, generation(2, &[]));
    assert!(state.groups["g"].empty_since_ms.is_some(), "its offsets age from here on");
}

#[test]
fn o3_an_offset_that_was_committed_again_does_not_expire() {
    let mut state = opened();
    change(&mut state, commit(None, 1));
    let committed_ms = state.groups["g"].offsets[&partition()].time_ms;
    let expire = |committed_ms| ShardCommand::ExpireOffsets {
        group: "g".into(),
        offsets: vec![(partition(), committed_ms)],
    };
    assert_eq!(change(&mut state, expire(committed_ms - 1)), Outcome::Done);
    assert_eq!(state.groups["g"].offsets[&partition()].offset, 1);
    change(&mut state, generation(1, &["m"]));
    assert_eq!(change(&mut state, expire(committed_ms)), Outcome::Done);
    assert!(state.groups["g"].offsets.is_empty(), "it has members, and stays");
    change(&mut state, generation(2, &[]));
    assert_eq!(change(&mut state, expire(committed_ms)), Outcome::Done);
    assert!(!state.groups.contains_key("g"), "neither members nor offsets are left");
    let refused = Outcome::GroupRefused(group::Refusal::NoSuchGroup);
    assert_eq!(change(&mut state, expire(committed_ms)), refused);
}

#[test]
fn deleting_topics_forgets_what_was_committed_for_them() {
    let mut state = opened();
    change(&mut state, commit(None, 1));
    change(&mut state, ShardCommand::RemoveTopics(vec![partition().topic]));
    assert!(state.groups["g"].offsets.is_empty());
}

#[test]
fn a_bound_group_begins_only_where_it_has_committed_nothing() {
    let mut state = opened();
    let second = PartitionId { index: 1, ..partition() };
    change(&mut state, commit(None, 4));
    let group = "g".to_owned();
    let offsets = vec![(partition(), 0), (second, 9)];
    let (_, effects) =
        run(&mut state, Command::Shard(ShardCommand::StartOffsets { group, offsets }));
    assert_eq!(state.groups["g"].offsets[&partition()].offset, 4, "O3: a commit is kept");
    assert_eq!(state.groups["g"].offsets[&second].offset, 9);
    assert_eq!(effects, [Effect::GroupChanged("g".into())], "nothing was processed");
    let (group, offsets) = ("h".to_owned(), vec![]);
    change(&mut state, ShardCommand::StartOffsets { group, offsets });
    assert!(!state.groups.contains_key("h"), "nothing to begin with makes no group");
}

#[test]
fn entries_carry_the_lowest_format_that_can_express_them() {
    let plain = Command::Catalog(CatalogCommand::AllocateProducerIds { count: 1 });
    assert_eq!(command::encode(TERM, 0, &plain).to_bytes()[0], 1);
    let inner = Box::new(CatalogCommand::DeleteTopics(vec![]));
    let fenced = Command::Catalog(CatalogCommand::Fenced { epoch: 1, command: inner });
    let written = command::encode(TERM, 0, &fenced);
    assert_eq!(written.to_bytes()[0], 2);
    assert_eq!(Envelope::decode(&written).expect("known").command, fenced);
    let expire = Command::Shard(silent(9, NOW_MS));
    let written = command::encode(TERM, 0, &expire);
    assert_eq!(written.to_bytes()[0], 3);
    assert_eq!(Envelope::decode(&written).expect("known").command, expire);
    let close = Command::Shard(ShardCommand::CloseTopics(deletions(&[partition().topic])));
    let written = command::encode(TERM, 0, &close);
    assert_eq!(written.to_bytes()[0], 4);
    assert_eq!(Envelope::decode(&written).expect("known").command, close);
    let forget = Command::Catalog(CatalogCommand::ForgetBroker { broker: BrokerId(1) });
    let written = command::encode(TERM, 0, &forget);
    assert_eq!(written.to_bytes()[0], 6);
    assert_eq!(Envelope::decode(&written).expect("known").command, forget);
    let mut newer = written.to_bytes().to_vec();
    let unknown = command::FORMAT_MAX + 1;
    newer[0] = unknown;
    assert_eq!(
        Envelope::decode(&Bytes::from(newer).into()).expect_err("unknown"),
        command::CommandError::Format(unknown)
    );
}

/// An older broker would read the fence and stop at what is in it, with a wrong reason.
#[test]
fn a_command_that_carries_another_one_has_the_format_of_the_newer_of_both() {
    let fenced =
        |command: CatalogCommand| CatalogCommand::Fenced { epoch: 1, command: Box::new(command) };
    let format = |command| command::encode(TERM, 0, &Command::Catalog(command)).to_bytes()[0];
    let abandon = || CatalogCommand::AbandonTopics(vec![partition().topic]);
    let report = CatalogCommand::ReportLevel { broker: BrokerId(1), level: 9 };
    assert_eq!(format(fenced(abandon())), format(abandon()));
    assert_eq!(format(fenced(fenced(abandon()))), 4);
    assert_eq!(format(fenced(report)), 5);
    assert_eq!(format(fenced(CatalogCommand::DeleteTopics(vec![]))), 2);
}

#[test]
fn a_command_is_written_when_every_broker_reads_it() {
    let check = Command::Shard(ShardCommand::CheckState { encoding: ENCODING });
    let close = Command::Shard(ShardCommand::CloseTopics(vec![]));
    let report = CatalogCommand::ReportLevel { broker: BrokerId(1), level: 9 };
    let forget = Command::Catalog(CatalogCommand::ForgetBroker { broker: BrokerId(1) });
    for (level, command, is_written) in [
        (0, &close, true),
        (0, &check, false),
        (4, &check, false),
        (5, &check, true),
        (9, &check, true),
        (5, &forget, false),
        (6, &forget, true),
        (0, &Command::Catalog(report), true),
    ] {
        assert_eq!(command::is_written_at(level, command), is_written, "{level} {command:?}");
    }
}

#[test]
fn commands_that_free_space_are_told_from_others_by_their_bytes() {
    let group = || "g".to_owned();
    let all = [
        (ShardCommand::OpenPartitions(vec![]), false),
        (ShardCommand::ClosePartitions(vec![partition()]), true),
        (ShardCommand::AdvanceLogStart(vec![(partition(), 1)]), true),
        (ShardCommand::ExpireProducers(vec![]), false),
        (ShardCommand::DeleteGroup { group: group() }, false),
        (ShardCommand::RemoveTopics(vec![]), false),
        (ShardCommand::StartOffsets { group: group(), offsets: vec![] }, false),
        (silent(9, NOW_MS), false),
        (ShardCommand::CloseTopics(deletions(&[partition().topic])), true),
        (ShardCommand::CheckState { encoding: ENCODING }, false),
    ];
    for (shard, frees) in all {
        let written = command::encode(TERM, 0, &Command::Shard(shard.clone()));
        assert_eq!(command::frees_space(&written), frees, "{shard:?}");
    }
    let delete = Command::Catalog(CatalogCommand::DeleteTopics(vec![]));
    assert!(!command::frees_space(&command::encode(TERM, 0, &delete)));
}

#[test]
fn an_expiry_of_producers_that_an_older_broker_wrote_is_read() {
    let old = Command::Shard(ShardCommand::ExpireProducers(vec![(partition(), 9)]));
    let written = command::encode(TERM, 7, &old);
    // Format 1, a shard command, term and time; the fourth variant, one partition with producer 9.
    let mut bytes = vec![1, 1];
    bytes.extend(TERM.to_le_bytes());
    bytes.extend(7_i64.to_le_bytes());
    bytes.extend([3, 1]);
    assert_eq!(written.to_bytes()[..bytes.len()], bytes);
    assert_eq!(Envelope::decode(&written).expect("known").command, old);
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

fn check(state: &mut State) {
    change(state, ShardCommand::CheckState { encoding: ENCODING });
}

#[test]
fn after_the_first_check_the_digest_covers_what_was_appended() {
    let mut states = [opened(), opened()];
    let values = [b"one", b"two"];
    let valued = |value: &[u8]| Builder::new().record(0, None, Some(value)).build();
    for (state, value) in states.iter_mut().zip(values) {
        append(state, valued(value)).expect("taken");
    }
    assert_eq!(states[0].digest(), states[1].digest(), "the state has no records");
    states.iter_mut().for_each(check);
    assert_eq!(states[0].digest(), states[1].digest(), "the first check begins the sum");
    for (state, value) in states.iter_mut().zip(values) {
        append(state, valued(value)).expect("taken");
    }
    assert_ne!(states[0].digest(), states[1].digest());
    states.iter_mut().for_each(check);
    assert_ne!(states[0].digest(), states[1].digest(), "a later check keeps the sum");
}

/// The sum is over partitions, offsets and checksums: the same batches in another order, or in
/// another partition, have another one.
#[test]
fn the_sum_of_what_was_appended_covers_partition_offsets_and_content() {
    let second = PartitionId { index: 1, ..partition() };
    let sum = |batches: &[(PartitionId, usize)]| {
        let mut state = opened();
        let open = OpenPartition { partition: second, epoch_base: 10 };
        change(&mut state, ShardCommand::OpenPartitions(vec![open]));
        check(&mut state);
        for (partition, count) in batches {
            let items = vec![Append { partition: *partition, batch: batch(*count) }];
            run(&mut state, Command::Append(items));
        }
        state.log_sum.expect("it has begun")
    };
    let first = partition();
    let sums = [
        sum(&[]),
        sum(&[(first, 1)]),
        sum(&[(second, 1)]),
        sum(&[(first, 1), (first, 2)]),
        sum(&[(first, 2), (first, 1)]),
        sum(&[(first, 1), (second, 2)]),
    ];
    let different: std::collections::BTreeSet<_> = sums.iter().collect();
    assert_eq!(different.len(), sums.len(), "{sums:?}");
    assert_eq!(sum(&[(first, 1), (second, 2)]), sums[5]);
}

/// A state with something of everything.
fn varied() -> State {
    let mut state = opened();
    check(&mut state);
    append(&mut state, numbered(9, 0, 0, 3)).expect("taken");
    change(&mut state, generation(1, &["m"]));
    change(&mut state, commit(Some(("m", 1)), 4));
    let topics = ["b", "a"].map(|name| NewTopic {
        id: TopicId(uuid::Uuid::from_u128(u128::from(name.as_bytes()[0]))),
        name: name.to_owned(),
        partitions: vec![],
        configs: vec![("k".to_owned(), "v".to_owned()), ("a".to_owned(), "w".to_owned())],
        owner: None,
    });
    run(&mut state, Command::Catalog(CatalogCommand::CreateTopics(topics.to_vec())));
    let abandon = CatalogCommand::AbandonTopics(vec![partition().topic]);
    run(&mut state, Command::Catalog(abandon));
    let report = CatalogCommand::ReportLevel { broker: BrokerId(1), level: 5 };
    run(&mut state, Command::Catalog(report));
    let catalog = state.catalog.as_mut().expect("it is there");
    catalog.shards.insert(ShardId(1), ShardInfo::lone(ReplicaId(2), BrokerId(1)));
    let info = BrokerInfo {
        rack: Some("a".to_owned()),
        peer: Some(PeerEndpoint { host: "h".to_owned(), ports: [1, 2] }),
        endpoints: BTreeMap::from([("PLAINTEXT".to_owned(), ("h".to_owned(), 3))]),
        admin: Some("h:4".to_owned()),
        incarnation: 5,
        standing: Standing::Draining,
    };
    let [broker, other] = [BrokerId(2), BrokerId(3)];
    for command in [
        CatalogCommand::RegisterBroker { broker, info: info.clone() },
        CatalogCommand::RegisterBroker { broker: other, info },
        CatalogCommand::ForgetBroker { broker: other },
        CatalogCommand::PlaceReplica { shard: ShardId(1), broker },
    ] {
        run(&mut state, Command::Catalog(command));
    }
    state
}

/// If this fails, the encoding of the state has changed: replicas of this and of the last version
/// would be found to differ. Raise [`ENCODING`], and the version of the snapshot.
#[test]
fn the_digest_of_an_encoding_never_changes() {
    assert_eq!((ENCODING, varied().digest()), (2, 2_256_888_112));
}

proptest! {
    /// A state that was built in another order, or read back from a snapshot, has the same bytes.
    #[test]
    fn the_encoding_is_canonical(
        ids in prop::collection::btree_set(0_u8..50, 1..20),
        shuffled in any::<prop::sample::Index>(),
    ) {
        let mut order: Vec<u8> = ids.into_iter().collect();
        let built = |order: &[u8]| {
            let mut state = State::new();
            let partition = |n: &u8| PartitionId {
                topic: TopicId(uuid::Uuid::from_u128(u128::from(*n))),
                index: 0,
            };
            let open = |n| OpenPartition { partition: partition(n), epoch_base: 0 };
            change(&mut state, ShardCommand::OpenPartitions(order.iter().map(open).collect()));
            for n in order {
                let offset = OffsetCommit {
                    offset: 1,
                    leader_epoch: -1,
                    metadata: String::new(),
                    expires_ms: None,
                };
                let (group, offsets) = (format!("g{n}"), vec![(partition(n), offset)]);
                let commit = CommitOffsets { group, member: None, offsets };
                change(&mut state, ShardCommand::CommitOffsets(commit));
                let items = vec![Append { partition: partition(n), batch: numbered(9, 0, 0, 1) }];
                run(&mut state, Command::Append(items));
            }
            state
        };
        let bytes = |state: &State| postcard::to_allocvec(state).expect("encodes");
        let sorted = bytes(&built(&order));
        let first = shuffled.index(order.len());
        order.rotate_left(first);
        order.reverse();
        let other = built(&order);
        prop_assert_eq!(&bytes(&other), &sorted);
        let back: State = postcard::from_bytes(&sorted).expect("decodes");
        prop_assert_eq!(bytes(&back), sorted);
        prop_assert_eq!(back.digest(), other.digest());
    }
}
