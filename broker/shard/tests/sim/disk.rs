//! The log of one replica as its disk holds it: what is durable survives a crash, what was only
//! submitted may.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ropewalk_shard::State;
use ropewalk_shard::command::{Command, Envelope, ShardCommand};
use ropewalk_shard::engine::{
    Entry, EntryId, EntryKind, EntrySource, HardState, Members, Start, StoredEntry,
};
use ropewalk_shard::replica::Write;

use crate::dice::Dice;
use crate::mutation::Mutation;

/// The state of a shard through an entry.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub last: EntryId,
    pub members: Members,
    pub state: State,
}

impl Snapshot {
    fn forget_producers(&mut self) {
        let producers = self.state.partitions.iter().flat_map(|(id, partition)| {
            partition.producers.iter().flat_map(|all| all.keys()).map(|producer| (*id, *producer))
        });
        let command = Command::Shard(ShardCommand::ExpireProducers(producers.collect()));
        let envelope = Envelope { term: 1, time_ms: 0, command };
        self.state.apply(1, envelope, &mut Vec::new());
    }
}

/// Entries by index: what a read of the log returns, durable or not.
type View = Arc<Mutex<BTreeMap<u64, Entry>>>;

#[derive(Debug)]
pub(crate) struct Disk {
    entries: BTreeMap<u64, Entry>,
    hard_state: HardState,
    snapshot: Snapshot,
    first_members: Members,
    submitted: VecDeque<Write>,
    /// Whether the next sync fails.
    pub fails_sync: bool,
    /// Whether recovery finds that rounds which were durable cannot be read.
    is_damaged: bool,
    view: View,
    mutation: Option<Mutation>,
}

/// The outcome of a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Synced {
    /// No write is in flight.
    Nothing,
    /// The write of this number is durable.
    Durable(u64),
    /// The disk reported an error. What was in flight may be lost.
    Failed,
}

#[derive(Debug)]
struct Source(View);

impl EntrySource for Source {
    fn read(&self, index: u64) -> Result<Bytes, String> {
        let view = self.0.lock().expect("no panic while it is held");
        view.get(&index)
            .map(|entry| entry.data.to_bytes())
            .ok_or_else(|| format!("no entry {index}"))
    }
}

fn write_to(entries: &mut BTreeMap<u64, Entry>, write: &Write) {
    if let Some(first) = write.entries.first() {
        entries.split_off(&first.index);
    }
    entries.extend(write.entries.iter().map(|entry| (entry.index, entry.clone())));
}

impl Disk {
    /// The disk of a replica that starts with `snapshot` and an empty log.
    pub(crate) fn new(snapshot: Snapshot, mutation: Option<Mutation>) -> Self {
        Self {
            entries: BTreeMap::new(),
            hard_state: HardState::default(),
            first_members: snapshot.members.clone(),
            snapshot,
            submitted: VecDeque::new(),
            fails_sync: false,
            is_damaged: false,
            view: View::default(),
            mutation,
        }
    }

    /// Appends entries of the newest term that all have the same payload, and are durable.
    pub(crate) fn preload(&mut self, payload: &Bytes, count: u64) {
        let next = self.entries.last_key_value().map_or(self.snapshot.last.index, |(i, _)| *i) + 1;
        let term = self.hard_state.term;
        for index in next..next + count {
            let data = payload.clone();
            self.entries
                .insert(index, Entry { index, term, kind: EntryKind::Normal, data: data.into() });
        }
        *self.view.lock().expect("no panic while it is held") = self.entries.clone();
    }

    pub(crate) fn submit(&mut self, mut write: Write) {
        match (self.mutation, &mut write.hard_state) {
            (Some(Mutation::VoteNotWritten), Some(hard_state)) => hard_state.vote = 0,
            (Some(Mutation::HardStateNotWritten), hard_state) => *hard_state = None,
            _ => {}
        }
        write_to(&mut self.view.lock().expect("no panic while it is held"), &write);
        self.submitted.push_back(write);
    }

    /// The oldest write that is not durable becomes durable, or its sync fails.
    pub(crate) fn sync_next(&mut self) -> Synced {
        if self.fails_sync && !self.submitted.is_empty() {
            self.fails_sync = false;
            let lost = self.submitted.pop_front().expect("a write is in flight");
            if self.mutation == Some(Mutation::FailedSyncIsDurable) {
                return Synced::Durable(lost.number);
            }
            self.submitted.clear();
            return Synced::Failed;
        }
        if self.mutation == Some(Mutation::WritesSwapped) && self.submitted.len() > 1 {
            self.submitted.swap(0, 1);
        }
        let Some(write) = self.submitted.pop_front() else { return Synced::Nothing };
        write_to(&mut self.entries, &write);
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        Synced::Durable(write.number)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.submitted.is_empty()
    }

    /// A loss of power: a prefix of what was submitted arrives on the disk.
    pub(crate) fn crash(&mut self, dice: &mut Dice) {
        let arrived = dice.below(self.submitted.len() as u64 + 1);
        for _ in 0..arrived {
            self.sync_next();
        }
        self.submitted.clear();
        *self.view.lock().expect("no panic while it is held") = self.entries.clone();
    }

    /// Loses entries that were durable, as a damaged disk does. Unless recovery notices it, the
    /// loss reaches below the commit index of the hard state. Returns whether any were there.
    pub(crate) fn lose_tail(&mut self, count: u64, is_noticed: bool) -> bool {
        let Some((last, _)) = self.entries.last_key_value() else { return false };
        let mut from = last.saturating_sub(count - 1);
        if !is_noticed {
            from = from.min(self.hard_state.commit);
        }
        let from = from.max(self.snapshot.last.index + 1);
        let lost = !self.entries.split_off(&from).is_empty();
        // A loss above the commit index shows nowhere in the log itself.
        let shows = self.hard_state.commit >= from;
        self.is_damaged |= lost && (is_noticed || !shows);
        *self.view.lock().expect("no panic while it is held") = self.entries.clone();
        lost
    }

    /// Replaces the snapshot by a newer one of this replica, and releases the entries it covers.
    pub(crate) fn checkpoint(&mut self, snapshot: Snapshot) {
        let keep = snapshot.last.index + 1;
        self.entries = self.entries.split_off(&keep);
        let mut view = self.view.lock().expect("no panic while it is held");
        *view = view.split_off(&keep);
        self.snapshot = snapshot;
        if self.mutation == Some(Mutation::SnapshotForgetsProducers) {
            self.snapshot.forget_producers();
        }
    }

    /// Replaces snapshot and log by a snapshot of another replica.
    pub(crate) fn install(&mut self, snapshot: Snapshot) {
        if self.mutation == Some(Mutation::SnapshotKeepsLog) {
            self.snapshot.state = snapshot.state;
            return;
        }
        self.hard_state.commit = self.hard_state.commit.max(snapshot.last.index);
        if self.hard_state.term < snapshot.last.term {
            self.hard_state = HardState { term: snapshot.last.term, vote: 0, ..self.hard_state };
        }
        self.entries.clear();
        self.submitted.clear();
        *self.view.lock().expect("no panic while it is held") = self.entries.clone();
        self.snapshot = snapshot;
    }

    /// What recovery reads.
    pub(crate) fn start(&self, replica: u64, seed: u64) -> (Start, State) {
        let snapshot = &self.snapshot;
        let mut entries = Vec::new();
        let mut next = snapshot.last.index + 1;
        for entry in self.entries.range(next..).map(|(_, entry)| entry) {
            if entry.index != next {
                break;
            }
            next += 1;
            entries.push(StoredEntry {
                index: entry.index,
                term: entry.term,
                kind: entry.kind,
                len_bytes: u32::try_from(entry.data.len()).expect("small"),
            });
        }
        let mut hard_state = self.hard_state;
        if self.mutation == Some(Mutation::CommitClamped) {
            hard_state.commit = hard_state.commit.min(next - 1);
        }
        let is_old = self.mutation == Some(Mutation::OldMembers);
        let mut members = if is_old { &self.first_members } else { &snapshot.members }.clone();
        if self.mutation == Some(Mutation::LearnerVotes) {
            members.voters.append(&mut members.learners);
        }
        let start = Start {
            replica,
            hard_state,
            members,
            snapshot: snapshot.last,
            entries,
            source: Box::new(Source(Arc::clone(&self.view))),
            seed,
        };
        (start, snapshot.state.clone())
    }

    /// Reads entries for a follower; `None` if the log no longer has all of them.
    pub(crate) fn read(&self, first: u64, last: u64) -> Option<Vec<Entry>> {
        let view = self.view.lock().expect("no panic while it is held");
        (first..=last).map(|index| view.get(&index).cloned()).collect()
    }

    /// Loses everything, as a disk does that is replaced by an empty one.
    pub(crate) fn replace(&mut self) {
        let empty =
            Snapshot { last: EntryId::default(), members: Members::default(), state: State::new() };
        *self = Self::new(empty, self.mutation);
    }

    /// Why recovery does not let this replica vote.
    pub(crate) fn refusal(&self) -> Option<&'static str> {
        let is_damaged = self.is_damaged && self.mutation != Some(Mutation::DamageTrusted);
        is_damaged.then_some("its log is damaged")
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}
