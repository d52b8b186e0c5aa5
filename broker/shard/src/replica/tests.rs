//! Tests of a single replica, with each step of its driver by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use ropewalk_batch::Builder;

use super::*;
use crate::command::{Append, OpenPartition, ShardCommand};
use crate::engine::{EntrySource, StoredEntry};
use crate::id::{PartitionId, TopicId};
use crate::message::Body;

mod held;
mod elections;
mod commits;

/// The written log of one replica, in memory.
#[derive(Debug, Default, Clone)]
struct WrittenLog {
    entries: Vec<(u64, u64, u8, Bytes)>,
    hard_state: HardState,
}

impl WrittenLog {
    fn take(&mut self, write: Write) {
        for Entry { index, term, kind, data } in write.entries {
            self.entries.retain(|entry| entry.0 < index);
            self.entries.push((index, term, kind as u8, data.to_bytes()));
        }
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
    }
}

impl EntrySource for WrittenLog {
    fn read(&self, index: u64) -> Result<Bytes, String> {
        let found = self.entries.iter().find(|entry| entry.0 == index);
        found.map(|entry| entry.3.clone()).ok_or_else(|| format!("no entry {index}"))
    }
}

fn start(written: &WrittenLog) -> Replica {
    try_start(written).expect("a sane start")
}

fn try_start(written: &WrittenLog) -> Result<Replica, EngineError> {
    try_start_from(written, Box::new(written.clone()))
}

fn try_start_from(
    written: &WrittenLog,
    source: Box<dyn EntrySource>,
) -> Result<Replica, EngineError> {
    let stored = written.entries.iter().map(|(index, term, kind, data)| StoredEntry {
        index: *index,
        term: *term,
        kind: EntryKind::from_u8(*kind).expect("our own"),
        len_bytes: u32::try_from(data.len()).expect("small"),
    });
    let start = Start {
        replica: 2,
        hard_state: written.hard_state,
        members: Members::lone(2),
        snapshot: EntryId { index: 1, term: 1 },
        entries: stored.collect(),
        source,
        seed: 0,
    };
    Replica::new(start)
}

/// A single replica that has written nothing.
pub(crate) fn lone() -> Replica {
    start(&WrittenLog::default())
}

/// A single replica whose log has one committed entry, read back from `source`.
fn holding_from(source: Box<dyn EntrySource>) -> Replica {
    let stored = StoredEntry { index: 2, term: 1, kind: EntryKind::Normal, len_bytes: 5 };
    let start = Start {
        replica: 2,
        hard_state: HardState { term: 1, vote: 2, commit: 2 },
        members: Members::lone(2),
        snapshot: EntryId { index: 1, term: 1 },
        entries: vec![stored],
        source,
        seed: 0,
    };
    Replica::new(start).expect("a sane start")
}

/// A source whose entries never find memory.
#[derive(Debug)]
struct NoMemory;

impl EntrySource for NoMemory {
    fn read(&self, _: u64) -> Result<Bytes, String> {
        unreachable!("there is no room for it")
    }

    fn has_room(&self) -> bool {
        false
    }
}

/// All work that the replica returned, with each write durable at once.
fn settle(replica: &mut Replica, state: &mut State, written: &mut WrittenLog) -> Vec<Work> {
    let mut said = Vec::new();
    while let Some(mut work) = replica.poll(state) {
        if let Some(write) = work.write.take() {
            let number = write.number;
            written.take(write);
            replica.persisted(number);
        }
        said.push(work);
    }
    said
}

fn partition() -> PartitionId {
    PartitionId { topic: TopicId(uuid::Uuid::from_u128(1)), index: 0 }
}

fn open() -> Command {
    let open = OpenPartition { partition: partition(), epoch_base: 0 };
    Command::Shard(ShardCommand::OpenPartitions(vec![open]))
}

fn append(value: &str) -> Command {
    let batch = Builder::new().record(0, None, Some(value.as_bytes())).build();
    Command::Append(vec![Append { partition: partition(), batch }])
}

fn outcomes(said: &[Work]) -> Vec<(Ticket, bool)> {
    said.iter().flat_map(|w| &w.outcomes).map(|(t, o)| (*t, o.is_ok())).collect()
}

#[test]
fn d1_nothing_is_resolved_or_applied_before_it_is_durable() {
    let (mut state, mut written) = (State::new(), WrittenLog::default());
    let mut replica = start(&written);
    settle(&mut replica, &mut state, &mut written);
    assert!(replica.leading().is_some(), "a lone voter leads at once");

    replica.propose(7, &open(), 0).expect("it leads");
    let work = replica.poll(&mut state).expect("there is something to write");
    let write = work.write.expect("the entry");
    assert!(work.outcomes.is_empty() && replica.poll(&mut state).is_none());
    assert!(state.partitions.is_empty());

    replica.persisted(write.number);
    written.take(write);
    let said = settle(&mut replica, &mut state, &mut written);
    assert_eq!(outcomes(&said), [(7, true)]);
    assert!(state.partitions.contains_key(&partition()));
}

#[test]
fn d1_several_writes_under_way_resolve_in_order_as_they_become_durable() {
    let (mut state, mut written) = (State::new(), WrittenLog::default());
    let mut replica = start(&written);
    settle(&mut replica, &mut state, &mut written);
    replica.propose(0, &open(), 0).expect("it leads");
    settle(&mut replica, &mut state, &mut written);

    let mut numbers = Vec::new();
    for ticket in 1..=3 {
        replica.propose(ticket, &append("x"), 0).expect("it leads");
        let write = replica.poll(&mut state).and_then(|w| w.write).expect("the entry");
        numbers.push(write.number);
        written.take(write);
    }
    replica.persisted(numbers[0]);
    assert_eq!(outcomes(&settle(&mut replica, &mut state, &mut written)), [(1, true)]);
    replica.persisted(numbers[2]);
    assert_eq!(outcomes(&settle(&mut replica, &mut state, &mut written)), [(2, true), (3, true)]);
    assert_eq!(state.partitions[&partition()].next_offset, 3);
}

#[test]
fn a_read_waits_for_what_is_committed_and_needs_leadership() {
    let (mut state, mut written) = (State::new(), WrittenLog::default());
    let mut replica = start(&written);
    replica.read(5);
    let said = replica.poll(&mut state).expect("an answer");
    assert_eq!(said.reads, [(5, Err(ProposeError::NotLeader))]);
    if let Some(write) = said.write {
        let number = write.number;
        written.take(write);
        replica.persisted(number);
    }
    settle(&mut replica, &mut state, &mut written);
    replica.read(6);
    let said = settle(&mut replica, &mut state, &mut written);
    let reads: Vec<_> = said.iter().flat_map(|work| &work.reads).collect();
    assert_eq!(reads, [&(6, Ok(()))]);
}

#[test]
fn d1_a_restart_replays_everything_that_was_durable_in_a_higher_term() {
    let (mut state, mut written) = (State::new(), WrittenLog::default());
    let mut replica = start(&written);
    settle(&mut replica, &mut state, &mut written);
    replica.propose(0, &open(), 0).expect("it leads");
    for ticket in 1..50 {
        replica.propose(ticket, &append("x"), 0).expect("it leads");
        settle(&mut replica, &mut state, &mut written);
    }
    let term = replica.leading().expect("it leads");

    let mut again = State::new();
    let mut replica = start(&written);
    settle(&mut replica, &mut again, &mut written);
    assert!(replica.leading().is_some_and(|now| now > term));
    assert_eq!(again, state);
}

/// What shows that entries or a vote were lost.
#[test]
fn d4_a_replica_whose_log_contradicts_its_hard_state_does_not_start() {
    let entry = |index, term| (index, term, EntryKind::Normal as u8, Bytes::new());
    let starts = |entries: &[(u64, u64, u8, Bytes)], term, commit| {
        let hard_state = HardState { term, vote: 2, commit };
        try_start(&WrittenLog { entries: entries.to_vec(), hard_state }).map(|_| ())
    };
    let log = [entry(2, 3), entry(3, 5)];
    starts(&log, 5, 3).expect("whole");
    starts(&log, 9, 1).expect("the commit index may be behind");
    let lost = |started: Result<(), EngineError>| {
        assert!(matches!(started, Err(EngineError::LogLost { .. })), "{started:?}");
    };
    lost(starts(&log, 5, 4));
    lost(starts(&[], 5, 2));
    lost(starts(&log, 4, 3));
    lost(starts(&[], 0, 1));
    try_start(&WrittenLog::default()).expect("a new replica has only a snapshot");
    let falling = starts(&[entry(2, 5), entry(3, 4)], 5, 2);
    assert!(matches!(falling, Err(EngineError::TermsFall { .. })), "{falling:?}");
}

#[test]
fn nothing_is_taken_before_the_first_entry_of_the_term_is_applied() {
    let (mut state, written) = (State::new(), WrittenLog::default());
    let mut replica = start(&written);
    assert_eq!(replica.propose(1, &open(), 0), Err(ProposeError::NotLeader));
    replica.poll(&mut state);
    assert_eq!(replica.propose(1, &open(), 0), Err(ProposeError::NotLeader));
}

#[test]
fn a_read_is_refused_while_a_replay_waits_for_memory() {
    let (mut state, mut written) = (State::new(), WrittenLog::default());
    let mut replica = holding_from(Box::new(NoMemory));
    settle(&mut replica, &mut state, &mut written);
    assert_eq!(replica.applied().index, 1, "nothing can be applied");
    assert!(replica.needs_ticks(), "it looks for memory again");
    replica.read(5);
    let work = replica.poll(&mut state).expect("an answer");
    assert_eq!(work.reads, [(5, Err(ProposeError::NotLeader))]);
    assert!(replica.poll(&mut state).is_none());
}

/// A source that has memory while it is set.
#[derive(Debug)]
struct Memory(Arc<AtomicBool>);

impl EntrySource for Memory {
    fn read(&self, index: u64) -> Result<Bytes, String> {
        Err(format!("entry {index} was not in the log at start"))
    }

    fn has_room(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A follower of replica 1 with an empty log.
fn follower(has_memory: &Arc<AtomicBool>) -> Replica {
    let start = Start {
        replica: 2,
        hard_state: HardState { term: 1, vote: 0, commit: 1 },
        members: Members { voters: vec![1, 2, 3], ..Members::default() },
        snapshot: EntryId { index: 1, term: 1 },
        entries: Vec::new(),
        source: Box::new(Memory(Arc::clone(has_memory))),
        seed: 0,
    };
    Replica::new(start).expect("a sane start")
}

/// The message of replica 1, which leads in term 2, with `commands` after the entry `previous`.
fn appended(previous: EntryId, commands: &[Command], commit: u64) -> Message {
    let entries = commands.iter().zip(previous.index + 1..).map(|(command, index)| Entry {
        index,
        term: 2,
        kind: EntryKind::Normal,
        data: command::encode(2, 0, command),
    });
    let body = Body::Append { previous, commit, entries: entries.collect() };
    Message { from: 1, to: 2, term: 2, body }
}

fn sent(said: &[Work]) -> impl Iterator<Item = &Body> {
    let messages = said.iter().flat_map(|work| work.messages.iter().chain(&work.messages_after));
    messages.map(|message| &message.body)
}

#[test]
fn r1_a_follower_that_waits_for_memory_acknowledges_and_answers() {
    let has_memory = Arc::new(AtomicBool::new(false));
    let (mut replica, mut state) = (follower(&has_memory), State::new());
    let mut written = WrittenLog::default();
    let first = EntryId { index: 1, term: 1 };
    let commands = [open(), append("x"), append("y")];
    replica.step(appended(first, &commands, 4)).expect("it follows");
    let said = settle(&mut replica, &mut state, &mut written);
    assert!(sent(&said).any(|body| matches!(body, Body::Appended { index: 4, .. })));
    assert_eq!((replica.committed(), replica.applied().index), (4, 2), "only records need memory");
    let body = Body::Heartbeat { commit: 4, context: Bytes::new() };
    replica.step(Message { from: 1, to: 2, term: 2, body }).expect("it follows");
    let said = settle(&mut replica, &mut state, &mut written);
    assert!(sent(&said).any(|body| matches!(body, Body::HeartbeatResponse { .. })));
    assert_eq!((replica.applied().index, replica.leader()), (2, Some(1)));
    has_memory.store(true, Ordering::Relaxed);
    settle(&mut replica, &mut state, &mut written);
    assert_eq!(replica.applied().index, 4);
    assert_eq!(state.partitions[&partition()].next_offset, 2);
}

#[test]
fn r1_a_follower_applies_a_piece_before_it_looks_for_memory_again() {
    let has_memory = Arc::new(AtomicBool::new(false));
    let (mut replica, mut state) = (follower(&has_memory), State::new());
    let mut written = WrittenLog::default();
    let most = usize::try_from(limits::APPLIED_AT_ONCE_BYTES_MAX).expect("small");
    let large = append(&"x".repeat(most * 2 / 5));
    let first = [open(), large.clone(), large.clone()];
    replica.step(appended(EntryId { index: 1, term: 1 }, &first, 4)).expect("it follows");
    settle(&mut replica, &mut state, &mut written);
    let second = [large.clone(), large];
    replica.step(appended(EntryId { index: 4, term: 2 }, &second, 6)).expect("it follows");
    settle(&mut replica, &mut state, &mut written);
    assert_eq!((replica.committed(), replica.applied().index), (6, 2));
    for applied in [4, 6] {
        has_memory.store(true, Ordering::Relaxed);
        replica.poll(&mut state).expect("there is memory");
        has_memory.store(false, Ordering::Relaxed);
        settle(&mut replica, &mut state, &mut written);
        assert_eq!(replica.applied().index, applied);
    }
}

/// A snapshot replaces the log only where no entry that may count for a majority is lost with it.
#[test]
fn d1_a_replica_lacks_only_what_its_log_does_not_have() {
    let entries = (2..=6).map(|index| (index, 3, EntryKind::Normal as u8, Bytes::new()));
    let hard_state = HardState { term: 5, vote: 0, commit: 4 };
    let written = WrittenLog { entries: entries.collect(), hard_state };
    let start = Start {
        replica: 2,
        hard_state,
        members: Members { voters: vec![1, 2, 3], ..Members::default() },
        snapshot: EntryId { index: 1, term: 1 },
        entries: (2..=6)
            .map(|index| StoredEntry { index, term: 3, kind: EntryKind::Normal, len_bytes: 0 })
            .collect(),
        source: Box::new(written),
        seed: 0,
    };
    let replica = Replica::new(start).expect("a sane start");
    let lacks = |index, term| replica.lacks(EntryId { index, term });
    assert!(!lacks(1, 1), "it is in the snapshot");
    assert!(!lacks(4, 3), "it is committed");
    assert!(!lacks(4, 9), "no other entry can be committed there");
    assert!(!lacks(6, 3), "the log has it");
    assert!(lacks(6, 4), "the leader's entry is another one");
    assert!(lacks(7, 3));
}

/// A log as an older version of the broker reads it: from an index on, it has an unknown format.
#[derive(Debug)]
struct OlderVersion(WrittenLog, u64);

impl EntrySource for OlderVersion {
    fn read(&self, index: u64) -> Result<Bytes, String> {
        let mut data = self.0.read(index)?.to_vec();
        if let Some(format) = data.first_mut().filter(|_| index >= self.1) {
            *format = u8::MAX;
        }
        Ok(data.into())
    }
}

#[test]
fn d1_an_entry_of_a_newer_version_stops_the_replica_and_a_newer_version_continues() {
    let (mut state, mut written) = (State::new(), WrittenLog::default());
    let mut replica = start(&written);
    settle(&mut replica, &mut state, &mut written);
    for (ticket, command) in (0..).zip([open(), append("x"), append("y"), append("z")]) {
        replica.propose(ticket, &command, 0).expect("it leads");
        settle(&mut replica, &mut state, &mut written);
    }
    let (third, last) = (replica.applied().index - 1, replica.applied().index);

    let older = Box::new(OlderVersion(written.clone(), third));
    let mut replica = try_start_from(&written, older).expect("its format is read when applied");
    let mut behind = State::new();
    let mut work = settle(&mut replica, &mut behind, &mut written);
    let stopped = work.iter_mut().find_map(|work| work.stopped.take()).expect("it stops");
    assert!(matches!(&stopped, StopReason::NewerEntry { index, .. } if *index == third));
    assert!(stopped.ends_with_upgrade() && !stopped.needs_mark());
    assert!(stopped.to_string().contains("format 255"), "{stopped}");
    assert_eq!(behind.partitions[&partition()].next_offset, 1, "what came before is applied");
    assert_eq!(replica.propose(9, &append("w"), 0), Err(ProposeError::NotLeader));
    replica.read(10);
    let refused = replica.poll(&mut behind).expect("an answer");
    assert_eq!(refused.reads, [(10, Err(ProposeError::NotLeader))]);
    assert!(replica.poll(&mut behind).is_none() && !replica.needs_ticks());

    let (mut upgraded, mut replica) = (State::new(), start(&written));
    settle(&mut replica, &mut upgraded, &mut written);
    assert!(replica.leading().is_some() && replica.applied().index >= last);
    assert_eq!(upgraded, state);
}

#[test]
fn a_leader_that_stops_answers_what_it_has_proposed() {
    let (mut state, mut written) = (State::new(), WrittenLog::default());
    let mut replica = start(&written);
    settle(&mut replica, &mut state, &mut written);
    replica.propose(1, &open(), 0).expect("it leads");
    replica.read(2);
    let mut work = Work::default();
    replica.stop(StopReason::Diverged { index: 2, own: 1, majority: 2 }, &mut work);
    assert_eq!(work.outcomes, [(1, Err(ProposeError::Unknown))], "it may be committed");
    assert_eq!((work.leads, replica.leading()), (Some(None), None));
    let refused = replica.poll(&mut state).expect("an answer");
    assert_eq!(refused.reads, [(2, Err(ProposeError::NotLeader))]);
    assert!(replica.poll(&mut state).is_none());
}
