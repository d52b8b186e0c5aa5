//! What one replica keeps on its disk: a write-ahead log and its newest snapshot.
//!
//! The log is the broker's own on a simulated disk: see `log`. The snapshot is replaced in one
//! step.

mod log;
mod tail;

use std::collections::VecDeque;

use bytes::Bytes;
use ropewalk_shard::State;
use ropewalk_shard::command::{Command, Envelope, ShardCommand};
use ropewalk_shard::engine::{Entry, EntryId, HardState, Members, Start};
use ropewalk_shard::replica::Write;

use crate::dice::Dice;
use crate::mutation::Mutation;
use crate::tier::Records;
use log::Log;
use log::Outcome;
pub(crate) use log::{OpenFailure, Place};
use tail::Tail;

/// The state of a shard through an entry.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub last: EntryId,
    pub members: Members,
    pub state: State,
    /// The records that its files have, in a run with a tier.
    pub records: Records,
}

impl Snapshot {
    /// The snapshot of a replica that has nothing.
    pub(crate) fn empty() -> Self {
        Self {
            last: EntryId::default(),
            members: Members::default(),
            state: State::new(),
            records: Records::new(),
        }
    }

    fn forget_tier(&mut self) {
        self.state.partitions.values_mut().for_each(|partition| partition.tier = None);
    }

    fn forget_producers(&mut self) {
        let producers = self.state.partitions.iter().flat_map(|(id, partition)| {
            partition.producers.iter().flat_map(|all| all.keys()).map(|producer| (*id, *producer))
        });
        let command = Command::Shard(ShardCommand::ExpireProducers(producers.collect()));
        let envelope = Envelope { term: 1, time_ms: 0, command };
        self.state.apply(1, envelope, &mut Vec::new());
    }
}

/// A write that the log has not answered.
#[derive(Debug)]
struct Submitted {
    write: Write,
    /// Whether other shards took the space that there was when it was submitted.
    is_refused: bool,
}

#[derive(Debug)]
pub(crate) struct Disk {
    log: Log,
    snapshot: Snapshot,
    first_members: Members,
    submitted: VecDeque<Submitted>,
    /// Whether the next sync fails.
    pub fails_sync: bool,
    mutation: Option<Mutation>,
}

/// The outcome of a sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Synced {
    /// No write is in flight.
    Nothing,
    /// The write of this number is durable.
    Durable(u64),
    /// The log has no space for the write of this number.
    Full(u64),
    /// The entries of the write of this number do not follow the log.
    Hole(u64),
    /// The disk reported an error. What was in flight may be lost.
    Failed,
}

impl Disk {
    /// The disk of a replica that starts with `snapshot` and an empty log.
    pub(crate) fn new(place: Place, snapshot: Snapshot, mutation: Option<Mutation>) -> Self {
        Self {
            log: Log::create(place, snapshot.last),
            first_members: snapshot.members.clone(),
            snapshot,
            submitted: VecDeque::new(),
            fails_sync: false,
            mutation,
        }
    }

    /// Fills the log with entries of the newest term that all have the same payload, in place of
    /// those that it has.
    pub(crate) fn preload(&mut self, payload: &Bytes, count: u64) {
        self.log.preload(payload, count);
    }

    /// Writes entries without their payloads from now on. The replica must not restart then.
    pub(crate) fn drop_payloads(&mut self) {
        self.log.drop_payloads();
    }

    pub(crate) fn submit(&mut self, mut write: Write, is_refused: bool) {
        match (self.mutation, &mut write.hard_state) {
            (Some(Mutation::VoteNotWritten), Some(hard_state)) => hard_state.vote = 0,
            (Some(Mutation::HardStateNotWritten), hard_state) => *hard_state = None,
            _ => {}
        }
        self.submitted.push_back(Submitted { write, is_refused });
        let last = self.submitted.len() - 1;
        if self.mutation == Some(Mutation::WritesSwapped) && last > 0 && last % 2 == 1 {
            self.swap_content(last - 1, last);
        }
    }

    /// Exchanges what two writes contain, and leaves them their numbers.
    fn swap_content(&mut self, one: usize, other: usize) {
        self.submitted.swap(one, other);
        let number = self.submitted[one].write.number;
        self.submitted[one].write.number = self.submitted[other].write.number;
        self.submitted[other].write.number = number;
    }

    /// The oldest write that is not durable becomes durable, is refused, or its sync fails.
    pub(crate) fn sync_next(&mut self) -> Synced {
        let Some(Submitted { write, is_refused }) = self.submitted.pop_front() else {
            return Synced::Nothing;
        };
        let number = write.number;
        if is_refused {
            return Synced::Full(number);
        }
        if std::mem::take(&mut self.fails_sync) {
            if self.mutation == Some(Mutation::FailedSyncIsDurable) {
                return Synced::Durable(number);
            }
            self.log.fail_next_sync();
        }
        let outcome = self.log.write(write);
        self.log.clear_faults();
        match outcome {
            Outcome::Durable => Synced::Durable(number),
            Outcome::Full => Synced::Full(number),
            Outcome::Hole => Synced::Hole(number),
            Outcome::Failed => Synced::Failed,
        }
    }

    /// The number of the write that was submitted last and is not answered.
    pub(crate) fn newest_in_flight(&self) -> Option<u64> {
        self.submitted.back().map(|last| last.write.number)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.submitted.is_empty()
    }

    /// The process ends, in one case of two by a loss of power: a prefix of what was submitted is
    /// durable, and a part of the next write may be.
    pub(crate) fn crash(&mut self, dice: &mut Dice) {
        let durable = dice.below(self.submitted.len() as u64 + 1);
        for _ in 0..durable {
            self.sync_next();
        }
        let torn = self.submitted.pop_front().filter(|next| !next.is_refused);
        self.log.crash(torn.map(|next| next.write), dice);
        self.submitted.clear();
    }

    /// Writes durably which rounds of the log were durable, as the log does every second.
    pub(crate) fn seal(&mut self) {
        self.log.seal();
    }

    /// The records of the process in memory.
    pub(crate) fn tail(&self) -> &Tail {
        self.log.tail()
    }

    /// Whether the log should be released.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        self.log.wants_release()
    }

    /// Sets whether there is no space for more files of the log.
    pub(crate) fn set_full(&mut self, is_full: bool) {
        self.log.set_full(is_full);
    }

    /// Flips a bit of a durable round of the log, which is so many rounds before the newest one.
    /// The process does not run. Returns whether recovery has to notice it.
    pub(crate) fn flip(&mut self, back: usize, dice: &mut Dice) -> bool {
        self.log.flip(back, dice)
    }

    /// Whether the newest durable round is not sealed.
    pub(crate) fn has_unsealed(&self) -> bool {
        self.log.has_unsealed()
    }

    /// Zeroes the newest rounds of the log. The process does not run. Returns whether recovery has
    /// to notice it.
    pub(crate) fn cut(&mut self, rounds: usize) -> bool {
        self.log.cut(rounds)
    }

    /// Replaces the snapshot by a newer one of this replica, and releases the entries it covers.
    pub(crate) fn checkpoint(&mut self, snapshot: Snapshot) {
        let last = snapshot.last;
        self.snapshot = snapshot;
        if self.mutation == Some(Mutation::SnapshotForgetsProducers) {
            self.snapshot.forget_producers();
        }
        if self.mutation == Some(Mutation::SnapshotForgetsTier) {
            self.snapshot.forget_tier();
        }
        self.log.release(last);
    }

    /// Replaces snapshot and log by a snapshot of another replica. Returns whether the log had
    /// space to record it.
    pub(crate) fn install(&mut self, snapshot: Snapshot) -> bool {
        if self.mutation == Some(Mutation::SnapshotKeepsLog) {
            self.snapshot.state = snapshot.state;
            return true;
        }
        if !self.log.install(snapshot.last) {
            return false;
        }
        self.submitted.clear();
        self.snapshot = snapshot;
        true
    }

    /// Opens the log. What the process starts with.
    pub(crate) fn start(&mut self, seed: u64) -> Result<(Start, State), OpenFailure> {
        let snapshot = &self.snapshot;
        let mut found = self.log.open(snapshot.last)?;
        let end = found.entries.last().map_or(snapshot.last.index, |entry| entry.index);
        let clamps = self.mutation == Some(Mutation::CommitClamped);
        if let Some(damage) = found.damage.take()
            && self.mutation != Some(Mutation::DamageTrusted)
            && !clamps
        {
            return Err(OpenFailure::Damaged(damage));
        }
        if clamps {
            found.hard_state.commit = found.hard_state.commit.min(end);
        }
        let is_old = self.mutation == Some(Mutation::OldMembers);
        let mut members = if is_old { &self.first_members } else { &snapshot.members }.clone();
        if self.mutation == Some(Mutation::LearnerVotes) {
            members.voters.append(&mut members.learners);
        }
        let start = Start {
            replica: self.log.place().replica,
            hard_state: found.hard_state,
            members,
            snapshot: snapshot.last,
            entries: found.entries,
            source: found.source,
            seed,
        };
        Ok((start, snapshot.state.clone()))
    }

    /// Reads entries for a follower; `None` if the log no longer has all of them.
    pub(crate) fn read(&self, first: u64, last: u64) -> Option<Vec<Entry>> {
        self.log.read(first, last)
    }

    /// Loses everything, as a disk does that is replaced by an empty one.
    pub(crate) fn replace(&mut self, seed: u64) {
        let place = Place { seed, ..self.log.place() };
        *self = Self::new(place, Snapshot::empty(), self.mutation);
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The operations of the disk so far, as a hash.
    pub(crate) fn trace(&self) -> u64 {
        self.log.trace()
    }
}

/// The hard state after a snapshot of another replica is installed.
fn after_install(hard_state: HardState, last: EntryId) -> HardState {
    let commit = hard_state.commit.max(last.index);
    if hard_state.term < last.term {
        return HardState { term: last.term, vote: 0, commit };
    }
    HardState { commit, ..hard_state }
}
