//! Tests of the core: each decides when a write is durable and what time it is.

use std::cell::RefCell;

use ropewalk_batch::Builder;

use super::*;
use crate::command::{Envelope, OpenPartition, ShardCommand};
use crate::id::{PartitionId, TopicId};
use crate::replica::Write;
use crate::replica::tests::lone;
use crate::state::State;

mod unknown;

impl StateAccess for RefCell<State> {
    fn poll(&self, replica: &mut Replica) -> Option<Work> {
        replica.poll(&mut self.borrow_mut())
    }

    fn is_of_new_producer(&self, item: &Append) -> bool {
        self.borrow().is_of_new_producer(item)
    }

    fn level(&self) -> u8 {
        command::FORMAT_MAX
    }
}

/// The caller of the core, with a simulated log.
struct World {
    core: Core,
    state: RefCell<State>,
    at: Duration,
    has_space: bool,
    /// Submitted and not answered, oldest first.
    open: VecDeque<Write>,
    /// Every write that was submitted, in order.
    submitted: Vec<Write>,
    answers: Vec<(Caller, Answer)>,
}

impl World {
    /// A shard that leads and has partitions 0 to 2.
    fn new() -> Self {
        let mut world = Self {
            core: Core::new(lone()),
            state: RefCell::default(),
            at: Duration::from_secs(100),
            has_space: true,
            open: VecDeque::new(),
            submitted: Vec::new(),
            answers: Vec::new(),
        };
        world.settle();
        world.all_durable();
        let open = |index| OpenPartition { partition: partition(index), epoch_base: 0 };
        let open = ShardCommand::OpenPartitions((0..3).map(open).collect());
        world.propose(1000, open);
        world.all_durable();
        world.answers.clear();
        world.submitted.clear();
        world
    }

    fn now(&self) -> Now {
        Now { at: self.at, time_ms: 0 }
    }

    fn settle(&mut self) {
        while let Some(actions) = self.core.poll(self.now(), self.has_space, &self.state) {
            self.submitted.extend(actions.writes.iter().cloned());
            self.open.extend(actions.writes);
            self.answers.extend(actions.answers);
        }
    }

    fn event(&mut self, event: Event) {
        self.core.take(event, self.now());
        self.settle();
    }

    fn append(&mut self, caller: Caller, items: &[Append]) {
        self.append_in(&SendOrder::default(), caller, items);
    }

    fn append_in(&mut self, order: &SendOrder, caller: Caller, items: &[Append]) {
        let (items, order) = (items.to_vec(), order.clone());
        self.event(Event::Append { caller, items, order });
    }

    fn propose(&mut self, caller: Caller, command: ShardCommand) {
        self.event(Event::Propose { caller, command: Command::Shard(command) });
    }

    fn pass(&mut self, time: Duration) {
        self.at += time;
        self.event(Event::Tick);
    }

    /// The oldest open write is durable.
    fn durable(&mut self) {
        let write = self.open.pop_front().expect("a write is open");
        self.event(Event::Durable(write.number));
    }

    fn all_durable(&mut self) {
        while !self.open.is_empty() {
            self.durable();
        }
    }

    /// The log has no space for any open write.
    fn no_space(&mut self) {
        for write in std::mem::take(&mut self.open) {
            self.event(Event::NoSpace(write.number));
        }
    }

    /// Puts as many writes in flight as are allowed: later calls wait.
    fn fill_pipeline(&mut self) {
        for caller in 900..900 + limits::WRITES_INFLIGHT_MAX as u64 {
            self.append(caller, &[batch(0, 10)]);
        }
        assert_eq!(self.open.len(), limits::WRITES_INFLIGHT_MAX);
    }

    fn answer(&self, caller: Caller) -> Option<&Answer> {
        let mut found = self.answers.iter().filter(|(of, _)| *of == caller);
        let answer = found.next().map(|(_, answer)| answer);
        assert!(found.next().is_none(), "caller {caller} was answered twice");
        answer
    }

    /// The offsets that a call's batches got.
    fn offsets(&self, caller: Caller) -> Vec<i64> {
        match self.answer(caller) {
            Some(Answer::Appended(Ok(results))) => {
                results.iter().map(|result| result.expect("taken").base_offset).collect()
            }
            other => panic!("caller {caller} was answered {other:?}"),
        }
    }

    /// The commands that were submitted, in the order of the log.
    fn commands(&self) -> Vec<Command> {
        let entries = self.submitted.iter().flat_map(|write| &write.entries);
        entries.map(|entry| Envelope::decode(&entry.data).expect("ours").command).collect()
    }
}

fn partition(index: i32) -> PartitionId {
    PartitionId { topic: TopicId(uuid::Uuid::from_u128(1)), index }
}

fn batch(index: i32, value_bytes: usize) -> Append {
    let batch = Builder::new().record(0, None, Some(&vec![7; value_bytes])).build();
    Append { partition: partition(index), batch }
}

/// One record of an idempotent producer.
fn numbered(index: i32, sequence: i32) -> Append {
    let batch = Builder::new().producer(77, 0, sequence).record(0, None, Some(b"v")).build();
    Append { partition: partition(index), batch }
}

/// A command that can be recognised by its group id.
fn named(group: &str) -> ShardCommand {
    ShardCommand::DeleteGroup { group: group.to_owned() }
}

fn error(answer: Option<&Answer>) -> Option<ProposeError> {
    match answer? {
        Answer::Appended(result) => result.as_ref().err().copied(),
        Answer::Proposed(result) => result.as_ref().err().copied(),
        Answer::Read(result) => result.as_ref().err().copied(),
        Answer::Changed(_) => None,
    }
}

const MIB: usize = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn d1_nobody_is_answered_before_the_log_says_durable() {
    let mut world = World::new();
    world.append(1, &[batch(0, 10)]);
    world.propose(2, named("g"));
    world.pass(60 * SECOND);
    assert!(world.answers.is_empty());
    assert_eq!(world.state.borrow().partitions[&partition(0)].next_offset, 0);
    world.durable();
    assert_eq!(world.offsets(1), [0]);
    assert!(world.answer(2).is_none(), "its own write is not durable");
    world.durable();
    assert!(world.answer(2).is_some());
}

#[test]
fn joined_batches_of_two_callers_each_get_their_own_offsets() {
    let mut world = World::new();
    world.fill_pipeline();
    world.append(1, &[batch(0, 10), batch(1, 10)]);
    world.append(2, &[batch(0, 10)]);
    world.append(3, &[batch(2, 10), batch(1, 10), batch(0, 10)]);
    world.durable();
    world.durable();
    let joined = world.commands().into_iter().nth(2).expect("a third entry");
    assert!(matches!(joined, Command::Append(items) if items.len() == 6), "they are one entry");
    world.all_durable();
    // Two batches of partition 0 were under way before.
    assert_eq!(world.offsets(1), [2, 0]);
    assert_eq!(world.offsets(2), [3]);
    assert_eq!(world.offsets(3), [0, 1, 4]);
}

#[test]
fn commands_and_batches_are_committed_in_the_order_in_which_they_came() {
    let mut world = World::new();
    world.fill_pipeline();
    world.append(1, &[batch(1, 1)]);
    world.propose(2, named("first"));
    world.append(3, &[batch(2, 1)]);
    world.propose(4, named("second"));
    world.propose(5, named("third"));
    world.all_durable();
    let order: Vec<String> = world
        .commands()
        .iter()
        .skip(2)
        .map(|command| match command {
            Command::Append(items) => format!("append to {}", items[0].partition.index),
            Command::Shard(ShardCommand::DeleteGroup { group }) => group.clone(),
            other @ (Command::Shard(_) | Command::Catalog(_)) => {
                panic!("{other:?} was not proposed")
            }
        })
        .collect();
    assert_eq!(order, ["append to 1", "first", "append to 2", "second", "third"]);
    assert_eq!(world.submitted.len(), 3, "what waits together is one write");
}

#[test]
fn refused_writes_are_made_again_in_order_when_there_is_space() {
    let mut world = World::new();
    world.append(1, &[batch(0, 10)]);
    world.append(2, &[batch(0, 10)]);
    let first = world.commands();
    world.no_space();
    assert!(world.open.is_empty() && world.answers.is_empty());
    // What comes meanwhile waits behind them.
    world.append(3, &[batch(0, 10)]);
    assert!(world.open.is_empty());
    world.pass(SECOND);
    assert_eq!(world.open.len(), 2, "both again");
    world.no_space();
    world.pass(SECOND);
    assert_eq!(world.commands()[4..6], first, "again, in their order");
    world.all_durable();
    assert_eq!((world.offsets(1), world.offsets(2)), (vec![0], vec![1]));
    assert_eq!(world.offsets(3), [2]);
}

#[test]
fn d1_a_write_behind_a_refused_one_does_not_count_as_durable() {
    let mut world = World::new();
    world.append(1, &[batch(0, 10)]);
    world.append(2, &[batch(0, 10)]);
    let [first, second] = [0, 1].map(|at| world.open[at].number);
    world.open.clear();
    world.event(Event::NoSpace(first));
    world.event(Event::Durable(second));
    assert!(world.answers.is_empty(), "the first is not in the log");
    world.pass(SECOND);
    let again: Vec<_> = world.open.iter().map(|write| write.number).collect();
    assert_eq!(again, [first, second]);
    world.all_durable();
    assert_eq!((world.offsets(1), world.offsets(2)), (vec![0], vec![1]));
}

#[test]
fn a_full_log_refuses_batches_after_a_wait_and_commands_go_on() {
    let mut world = World::new();
    world.has_space = false;
    world.append(1, &[batch(0, 10)]);
    world.pass(3 * SECOND);
    world.append(2, &[batch(0, 10)]);
    world.propose(3, named("g"));
    world.pass(limits::FULL_WAIT_MAX - 3 * SECOND);
    assert!(world.answers.is_empty(), "not before the wait is over");
    world.pass(SECOND);
    assert_eq!(error(world.answer(1)), Some(ProposeError::Full));
    assert!(world.answer(2).is_none(), "each waits from when it came");
    world.pass(3 * SECOND);
    assert_eq!(error(world.answer(2)), Some(ProposeError::Full));
    world.all_durable();
    assert_eq!(error(world.answer(3)), None);
    assert!(world.answer(3).is_some(), "a command needs no space for batches");
    world.has_space = true;
    world.append(4, &[batch(0, 10)]);
    world.all_durable();
    assert_eq!(world.offsets(4), [0], "nothing that was refused is in the log");
}

/// A partition accepts any first sequence of a producer that is new to it.
#[test]
fn no_batch_of_a_new_producer_overtakes_one_that_was_refused() {
    let mut world = World::new();
    let sent = SendOrder::default();
    world.has_space = false;
    world.append_in(&sent, 1, &[batch(2, 10), numbered(0, 0)]);
    world.pass(3 * SECOND);
    world.append_in(&sent, 2, &[numbered(0, 1)]);
    world.pass(limits::FULL_WAIT_MAX - 2 * SECOND);
    assert_eq!(error(world.answer(1)), Some(ProposeError::Full));
    world.has_space = true;
    world.append_in(&sent, 3, &[numbered(0, 2)]);
    world.append(4, &[batch(0, 10)]);
    world.all_durable();
    assert_eq!(error(world.answer(2)), Some(ProposeError::Behind), "it came before");
    assert_eq!(error(world.answer(3)), Some(ProposeError::Behind), "it came after");
    assert_eq!(world.offsets(4), [0], "others are not concerned");
    // The client sends all of it again, on another connection.
    let again = SendOrder::default();
    for sequence in 0..3 {
        let caller = 5 + u64::try_from(sequence).expect("small");
        world.append_in(&again, caller, &[numbered(0, sequence)]);
    }
    world.all_durable();
    assert_eq!([5, 6, 7].map(|caller| world.offsets(caller)[0]), [1, 2, 3]);
    assert!(!again.is_ended());
}

#[test]
fn a_producer_that_the_partition_knows_is_kept_in_order_by_its_sequences() {
    let mut world = World::new();
    let sent = SendOrder::default();
    world.append_in(&sent, 1, &[numbered(0, 0)]);
    world.all_durable();
    world.has_space = false;
    world.append_in(&sent, 2, &[numbered(0, 1)]);
    world.pass(limits::FULL_WAIT_MAX + SECOND);
    assert_eq!(error(world.answer(2)), Some(ProposeError::Full));
    assert!(!sent.is_ended(), "the connection continues");
    world.has_space = true;
    world.append_in(&sent, 3, &[numbered(0, 2)]);
    world.append_in(&sent, 4, &[numbered(0, 1)]);
    world.all_durable();
    let refusal = AppendRefusal::OutOfOrderSequence { sequence: 2, last: 0 };
    assert_eq!(world.answer(3), Some(&Answer::Appended(Ok(vec![Err(refusal)]))));
    assert_eq!(world.offsets(4), [1]);
}

#[test]
fn a_busy_engine_keeps_the_order_and_takes_what_waits_later() {
    let mut world = World::new();
    world.append(1, &[batch(0, 9 * MIB)]);
    world.append(2, &[batch(0, 9 * MIB), batch(1, 10)]);
    world.append(3, &[batch(1, 10)]);
    world.propose(4, named("g"));
    assert_eq!(world.open.len(), 1, "two of them are over the bound of uncommitted bytes");
    world.pass(SECOND);
    assert_eq!(world.open.len(), 1);
    world.all_durable();
    assert_eq!(world.offsets(1), [0]);
    assert_eq!(world.offsets(2), [1, 0]);
    assert_eq!(world.offsets(3), [1]);
    assert!(world.answer(4).is_some());
}

#[test]
fn an_engine_that_stays_busy_refuses_after_the_wait_from_when_the_call_came() {
    let mut world = World::new();
    world.append(1, &[batch(0, 9 * MIB)]);
    world.append(2, &[batch(0, 9 * MIB)]);
    world.pass(4 * SECOND);
    world.append(3, &[batch(0, 9 * MIB)]);
    assert!(world.answers.is_empty());
    world.pass(SECOND + SECOND / 10);
    assert_eq!(error(world.answer(2)), Some(ProposeError::Busy));
    assert!(world.answer(3).is_none());
    world.all_durable();
    assert_eq!((world.offsets(1), world.offsets(3)), (vec![0], vec![1]));
}

#[test]
fn a_command_that_a_busy_engine_does_not_take_keeps_its_place() {
    let mut world = World::new();
    world.propose(1, named(&"a".repeat(9 * MIB)));
    world.propose(2, named(&"b".repeat(9 * MIB)));
    world.propose(3, named("c"));
    assert_eq!(world.open.len(), 1, "two of them are over the bound of uncommitted bytes");
    world.pass(SECOND);
    world.all_durable();
    let letters = world.commands().into_iter().map(|command| match command {
        Command::Shard(ShardCommand::DeleteGroup { group }) => group[..1].to_owned(),
        other @ (Command::Append(_) | Command::Shard(_) | Command::Catalog(_)) => {
            panic!("{other:?} was not proposed")
        }
    });
    assert_eq!(letters.collect::<String>(), "abc");
}

#[test]
fn a_slow_log_is_not_a_full_one() {
    let mut world = World::new();
    world.fill_pipeline();
    world.append(1, &[batch(0, 10)]);
    world.pass(60 * SECOND);
    assert!(world.answers.is_empty());
    world.all_durable();
    assert_eq!(world.offsets(1), [2]);
}

#[test]
fn a_call_larger_than_an_entry_becomes_several_and_one_answer() {
    let mut world = World::new();
    let items: Vec<_> = (0..9).map(|at| batch(at % 3, 400 << 10)).collect();
    world.append(1, &items);
    world.all_durable();
    assert_eq!(world.offsets(1), [0, 0, 0, 1, 1, 1, 2, 2, 2]);
    for command in world.commands() {
        let Command::Append(items) = command else { panic!("only batches were proposed") };
        assert!(items.iter().map(command::item_len).sum::<usize>() <= limits::ENTRY_BYTES_MAX);
    }
}

#[test]
fn what_fits_no_entry_is_refused_alone() {
    let mut world = World::new();
    world.append(1, &[batch(0, 10), batch(1, limits::BATCH_BYTES_MAX)]);
    let Some(ProposeError::TooLarge { size_bytes_max, .. }) = error(world.answer(1)) else {
        panic!("answered {:?}", world.answer(1));
    };
    assert_eq!(size_bytes_max, limits::BATCH_BYTES_MAX);
    world.propose(2, named(&"g".repeat(limits::ENTRY_BYTES_HARD_MAX)));
    assert!(matches!(error(world.answer(2)), Some(ProposeError::TooLarge { .. })));
    world.append(3, &[batch(0, limits::BATCH_BYTES_MAX - 1024)]);
    world.propose(4, named("g"));
    world.all_durable();
    assert_eq!(world.offsets(3), [0]);
    assert!(world.answer(4).is_some());
}

#[test]
fn a_submission_fits_a_log_file() {
    let mut world = World::new();
    world.fill_pipeline();
    for caller in 0..200 {
        world.propose(caller, named(&"g".repeat(limits::ENTRY_BYTES_MAX / 3)));
    }
    world.append(500, &[batch(0, limits::BATCH_BYTES_MAX - 1024)]);
    world.all_durable();
    let bytes_max = limits::WRITE_BYTES_MAX as u64;
    for write in &world.submitted {
        let bytes: u64 = write.entries.iter().map(|entry| entry.data.len() as u64 + 128).sum();
        assert!(bytes <= bytes_max, "{bytes} bytes in one submission");
    }
    assert_eq!(world.offsets(500), [2]);
}

#[test]
fn the_only_replica_compares_nothing() {
    let mut world = World::new();
    world.append(1, &[batch(0, 10)]);
    world.all_durable();
    let written = world.submitted.len();
    for _ in 0..3 * limits::CHECK_TICKS {
        world.event(Event::Tick);
    }
    assert_eq!(world.submitted.len(), written, "a check would cost a sync");
    assert_eq!(world.state.borrow().log_sum, None);
}
