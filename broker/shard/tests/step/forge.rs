//! A live core whose events an input chooses: messages of other replicas with any content, ticks,
//! calls, and the answers of the log. Also used by the fuzz target `step`.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ropewalk_shard::command::{self, Append, Command, ShardCommand};
use ropewalk_shard::driver::{Core, Event, Now, StateAccess};
use ropewalk_shard::engine::{
    Entry, EntryId, EntryKind, EntrySource, HardState, Members, MembersChange, Start, StoredEntry,
};
use ropewalk_shard::limits;
use ropewalk_shard::message::{Body, Message};
use ropewalk_shard::proposal::SendOrder;
use ropewalk_shard::replica::{Replica, Work, Write};
use ropewalk_shard::{HistoryId, PartitionId, Payload, State, TopicId};

/// Things that a core may keep when all its writes are durable, besides open calls.
const ITEMS_MAX: usize = 200;

/// Runs a core with the events in `data`.
pub(crate) fn step_forged(data: &[u8]) {
    let mut host = Host::new();
    let mut input = Input(data);
    while let Some(event) = input.event(&mut host) {
        match event {
            Step::Event(event) => host.event(event),
            Step::Durable => host.all_durable(),
            Step::Restart => host.restart(),
        }
    }
    host.all_durable();
}

#[derive(Default)]
struct Shared(RefCell<State>);

impl StateAccess for Shared {
    fn poll(&self, replica: &mut Replica) -> Option<Work> {
        replica.poll(&mut self.0.borrow_mut())
    }

    fn is_of_new_producer(&self, item: &Append) -> bool {
        self.0.borrow().is_of_new_producer(item)
    }

    fn level(&self) -> u8 {
        command::FORMAT_MAX
    }
}

/// The durable log of the replica.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<BTreeMap<u64, Entry>>>);

impl EntrySource for Log {
    fn read(&self, index: u64) -> Result<Bytes, String> {
        let entries = self.0.lock().expect("no panic while it is held");
        entries.get(&index).map(|entry| entry.data.to_bytes()).ok_or_else(|| "no entry".to_owned())
    }
}

struct Host {
    core: Core,
    state: Shared,
    log: Log,
    hard_state: HardState,
    writes: VecDeque<Write>,
    at: Duration,
    /// Calls that are not answered.
    calls: u64,
    next_caller: u64,
}

impl Host {
    fn new() -> Self {
        let (log, hard_state) = (Log::default(), HardState::default());
        let core = Self::start(&log, hard_state).expect("an empty log is consistent");
        Self {
            core,
            state: Shared::default(),
            log,
            hard_state,
            writes: VecDeque::new(),
            at: Duration::ZERO,
            calls: 0,
            next_caller: 0,
        }
    }

    /// Replica 1 of three, with a snapshot of a new shard and the log after it.
    fn start(log: &Log, hard_state: HardState) -> Option<Core> {
        let entries = log.0.lock().expect("no panic while it is held");
        let stored = |entry: &Entry| StoredEntry {
            index: entry.index,
            term: entry.term,
            kind: entry.kind,
            len_bytes: u32::try_from(entry.data.len()).expect("small"),
        };
        let start = Start {
            replica: 1,
            hard_state,
            members: Members { voters: vec![1, 2, 3], ..Members::default() },
            snapshot: EntryId { index: 1, term: 1 },
            entries: entries.values().map(stored).collect(),
            source: Box::new(log.clone()),
            seed: 7,
        };
        drop(entries);
        Replica::new(start).ok().map(Core::new)
    }

    fn now(&self) -> Now {
        Now { at: self.at, time_ms: 0 }
    }

    fn event(&mut self, event: Event) {
        if matches!(event, Event::Tick) {
            self.at += Duration::from_millis(limits::TICK_MS);
        }
        self.core.take(event, self.now());
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(actions) = self.core.poll(self.now(), true, &self.state) {
            self.writes.extend(actions.writes);
            self.calls -= actions.answers.len() as u64;
            for message in actions.messages {
                let history = HistoryId::default();
                let encoded = message.encode(history).to_bytes();
                assert_eq!(Message::decode(encoded, history), Ok(message));
            }
            for fetch in actions.fetches {
                let entries = self.log.0.lock().expect("no panic while it is held");
                let range = fetch.first..=fetch.last;
                let entries = range.map(|index| entries.get(&index).cloned()).collect();
                self.core.take(Event::Fetched { id: fetch.id, entries }, self.now());
            }
            if actions.stopped.is_some() {
                // Its members, its log or its state are beyond repair.
                *self = Self::new();
                return;
            }
        }
    }

    /// The log is durable: what is left has to fit the bounds.
    fn all_durable(&mut self) {
        while let Some(write) = self.writes.pop_front() {
            self.store(&write);
            self.core.take(Event::Durable(write.number), self.now());
            self.settle();
        }
        let footprint = self.core.footprint();
        let items_max = ITEMS_MAX + 4 * usize::try_from(self.calls).expect("few");
        let bytes_max = limits::LOG_WINDOW_BYTES
            + limits::UNCOMMITTED_BYTES_MAX
            + limits::INBOX_BYTES_MAX as u64;
        let is_bounded = footprint.items <= items_max && footprint.bytes <= bytes_max;
        assert!(is_bounded, "{footprint:?} with {} open calls", self.calls);
    }

    fn store(&mut self, write: &Write) {
        let mut entries = self.log.0.lock().expect("no panic while it is held");
        if let Some(first) = write.entries.first() {
            entries.split_off(&first.index);
        }
        entries.extend(write.entries.iter().map(|entry| (entry.index, entry.clone())));
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
    }

    /// A restart from what is durable, or from an empty disk if the log is found to be damaged.
    fn restart(&mut self) {
        match Self::start(&self.log, self.hard_state) {
            Some(core) => {
                (self.core, self.state, self.calls) = (core, Shared::default(), 0);
                self.writes.clear();
            }
            None => *self = Self::new(),
        }
        self.settle();
    }
}

enum Step {
    Event(Event),
    Durable,
    Restart,
}

/// Numbers and bytes that an input chooses.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> u64 {
        u64::from(self.byte().unwrap_or(0))
    }

    fn bytes(&mut self, len: usize) -> Bytes {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        Bytes::copy_from_slice(bytes)
    }

    /// A number near `about`; now and then a huge one.
    fn near(&mut self, about: u64) -> u64 {
        match self.number() {
            255 => u64::MAX,
            254 => 1 << 62,
            253 => 0,
            byte => about.saturating_add(byte % 8).saturating_sub(4),
        }
    }

    fn event(&mut self, host: &mut Host) -> Option<Step> {
        let event = match self.byte()? {
            0..=140 => Event::Message(self.message(host)),
            141..=150 => {
                let len = usize::try_from(self.number()).expect("small");
                let Ok(message) = Message::decode(self.bytes(len), HistoryId::default()) else {
                    return Some(Step::Event(Event::Tick));
                };
                Event::Message(message)
            }
            151..=190 => Event::Tick,
            191..=240 => return Some(Step::Durable),
            241..=243 => return Some(Step::Restart),
            choice => return Some(Step::Event(self.call(host, choice))),
        };
        Some(Step::Event(event))
    }

    fn call(&mut self, host: &mut Host, choice: u8) -> Event {
        let replica = self.number() % 5;
        match choice {
            244 => match self.number() % 3 {
                0 => Event::Unreachable(replica),
                1 => Event::Held { replica, first: self.near(host.core.replica().last_index()) },
                _ => Event::Sendable(replica),
            },
            245 => Event::Transfer(replica),
            246 => Event::Compacted(self.number()),
            247 => Event::Fetched { id: self.number(), entries: None },
            248 => Event::NoSpace(self.number()),
            249 => Event::Durable(self.number()),
            _ => self.open_call(host, choice),
        }
    }

    fn open_call(&mut self, host: &mut Host, choice: u8) -> Event {
        host.calls += 1;
        host.next_caller += 1;
        let caller = host.next_caller;
        match choice {
            250 | 251 => Event::Read { caller },
            252 | 253 => {
                let topic = TopicId(uuid::Uuid::from_u128(1));
                let item =
                    Append { partition: PartitionId { topic, index: 0 }, batch: self.bytes(9) };
                Event::Append { caller, items: vec![item], order: SendOrder::default() }
            }
            _ => Event::Change { caller, change: MembersChange::AddLearner(self.number()) },
        }
    }

    fn message(&mut self, host: &Host) -> Message {
        let replica = host.core.replica();
        let (own_term, last) = (replica.term(), replica.last_index());
        let from = 1 + self.number() % 5;
        let to = if self.number() == 255 { self.number() } else { 1 };
        let term = self.near(own_term + 3);
        let committed = replica.committed();
        let body = match self.number() % 11 {
            0..=2 => {
                let previous = EntryId { index: self.near(last), term: self.near(own_term) };
                let count = self.number() % 4;
                let entries = (1..=count).map(|i| self.entry(previous.index, i, term)).collect();
                Body::Append { previous, commit: self.near(last), entries }
            }
            3 => Body::Appended { index: self.near(last), commit: self.near(last) },
            4 => Body::AppendRejected {
                index: self.near(last),
                hint: EntryId { index: self.near(last), term: self.near(own_term) },
                commit: self.near(last),
            },
            5 => Body::Heartbeat { commit: self.near(committed), context: self.bytes(8) },
            6 => Body::HeartbeatResponse {
                commit: self.near(last),
                context: self.bytes(8),
                is_full: self.number().is_multiple_of(2),
            },
            7 => Body::RequestVote {
                last: EntryId { index: self.near(last + 4), term: self.near(own_term) },
                committed: EntryId { index: self.near(last), term: self.near(own_term) },
                is_pre_vote: self.number().is_multiple_of(2),
                is_transfer: self.number().is_multiple_of(4),
            },
            8 => Body::Vote {
                granted: !self.number().is_multiple_of(4),
                is_pre_vote: self.number().is_multiple_of(2),
                committed: EntryId { index: self.near(last), term: self.near(own_term) },
            },
            9 => Body::StateDigest { index: self.near(committed), digest: 7 },
            _ => Body::TimeoutNow,
        };
        Message { from, to, term, body }
    }

    fn entry(&mut self, previous: u64, at: u64, term: u64) -> Entry {
        let index = previous.wrapping_add(at);
        let kind =
            if self.number().is_multiple_of(8) { EntryKind::Members } else { EntryKind::Normal };
        let data = match self.number() % 9 {
            0 => self.bytes(10).into(),
            1 => MembersChange::AddLearner(self.number() % 6).encode().into(),
            2 => MembersChange::Promote(self.number() % 6).encode().into(),
            3 => MembersChange::Remove(self.number() % 6).encode().into(),
            4 => {
                let topic = TopicId(uuid::Uuid::from_u128(1));
                let close = ShardCommand::ClosePartitions(vec![PartitionId { topic, index: 0 }]);
                command::encode(term, 0, &Command::Shard(close))
            }
            5 => {
                let encoding = ropewalk_shard::state::ENCODING;
                let check = Command::Shard(ShardCommand::CheckState { encoding });
                command::encode(term, 0, &check)
            }
            6 => {
                let (replica, history) = (self.number() % 6, HistoryId(self.number()));
                MembersChange::Survive { replica, history }.encode().into()
            }
            _ => Payload::default(),
        };
        Entry { index, term: term.min(self.near(term)), kind, data }
    }
}
