//! The log of one replica as its disk holds it: what is durable survives a crash, what was only
//! submitted may.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ropewalk_shard::State;
use ropewalk_shard::engine::{Entry, EntryId, EntrySource, HardState, Members, Start, StoredEntry};
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

/// Entries by index: what a read of the log returns, durable or not.
type View = Arc<Mutex<BTreeMap<u64, Entry>>>;

#[derive(Debug)]
pub(crate) struct Disk {
    entries: BTreeMap<u64, Entry>,
    hard_state: HardState,
    snapshot: Snapshot,
    first_members: Members,
    submitted: VecDeque<Write>,
    /// Whether recovery finds that rounds which were durable cannot be read.
    is_damaged: bool,
    view: View,
    mutation: Option<Mutation>,
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
            is_damaged: false,
            view: View::default(),
            mutation,
        }
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

    /// The oldest write that is not durable becomes durable; returns its number.
    pub(crate) fn sync_next(&mut self) -> Option<u64> {
        if self.mutation == Some(Mutation::WritesSwapped) && self.submitted.len() > 1 {
            self.submitted.swap(0, 1);
        }
        let write = self.submitted.pop_front()?;
        write_to(&mut self.entries, &write);
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        Some(write.number)
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

    /// Loses entries that were durable, as a damaged disk does. Returns whether any were there.
    pub(crate) fn lose_tail(&mut self, count: u64) -> bool {
        let Some((last, _)) = self.entries.last_key_value() else { return false };
        let from = last.saturating_sub(count - 1).max(self.snapshot.last.index + 1);
        let lost = !self.entries.split_off(&from).is_empty();
        self.is_damaged |= lost;
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
        if self.mutation == Some(Mutation::DamageTrusted) {
            hard_state.commit = hard_state.commit.min(next - 1);
        }
        let is_old = self.mutation == Some(Mutation::OldMembers);
        let members = if is_old { &self.first_members } else { &snapshot.members };
        let start = Start {
            replica,
            hard_state,
            members: members.clone(),
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

    /// Whether recovery refuses to let this replica vote.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.is_damaged && self.mutation != Some(Mutation::DamageTrusted)
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}
