//! The faults of a run, and the operator who changes the members and replaces lost replicas.

use ropewalk_shard::State;
use ropewalk_shard::driver::Event;
use ropewalk_shard::engine::{EntryId, Members, MembersChange};

use crate::clients::PARTITIONS;
use crate::disk::Snapshot;
use crate::node::Call;
use crate::world::{Happening, World};

/// How long faults happen, and how long the cluster then has to recover, microseconds.
pub(crate) const FAULTS_US: u64 = 20_000_000;
const RECOVERY_US: u64 = 25_000_000;

/// Members that the operator keeps.
const VOTERS_MAX: usize = 5;

impl World {
    /// A whole run: faults, then quiet, then the check that everything is there.
    pub(crate) fn play(&mut self) {
        self.run(FAULTS_US);
        self.is_quiet = true;
        self.network.heal();
        (self.network.lost_one_in, self.network.doubled_one_in, self.network.late_one_in) =
            (0, 0, 0);
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for id in ids {
            let node = self.nodes.get_mut(&id).expect("a node");
            (node.paused_until, node.is_full, node.sync_us) = (0, false, 300);
            self.start(id);
        }
        self.run(FAULTS_US + RECOVERY_US);
        self.check();
    }

    /// Every member has everything that was acknowledged, and the shard takes new records.
    fn check(&mut self) {
        if self.oracle.violation().is_some() {
            return;
        }
        self.counts.acked = self.oracle.acked_count();
        let leader = self
            .nodes
            .values()
            .filter(|n| n.is_leader())
            .max_by_key(|n| n.replica().map_or(0, |replica| replica.term()));
        let Some(leader) = leader else {
            self.oracle.violate("no replica leads after the faults have ended".to_owned());
            return;
        };
        let replica = leader.replica().expect("it leads");
        let (applied, members) = (replica.applied().index, replica.members().clone());
        let ids: Vec<u64> = members.iter().collect();
        for id in ids {
            let node = self.nodes.get(&id);
            let Some(own) = node.and_then(|node| node.replica()) else {
                if !node.is_some_and(|node| node.is_lost) {
                    self.oracle.violate(format!("member {id} does not run"));
                }
                continue;
            };
            let own = own.applied().index;
            if own + 50 < applied {
                self.oracle.violate(format!("member {id} applied {own}, the leader {applied}"));
            }
            if own == applied {
                for partition in 0..PARTITIONS {
                    let end = self.end_of(id, partition);
                    self.oracle.settled(id, partition, end);
                }
            }
        }
    }

    fn voters(&self) -> Vec<u64> {
        let leader = self.nodes.values().find(|node| node.is_leader());
        let members = leader.and_then(|node| node.replica()).map(|replica| replica.members());
        members.map(|members| members.voters.clone()).unwrap_or_default()
    }

    pub(crate) fn chaos(&mut self) {
        if self.is_quiet {
            return;
        }
        // Some runs have few faults, so that much happens between them.
        let longest = [400_000, 1_200_000, 4_000_000][usize::try_from(self.seed % 3).expect("few")];
        let wait = self.dice.between(20_000, longest);
        self.after(wait, Happening::Chaos);
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        let node = self.dice.pick(&ids).expect("nodes");
        match self.dice.below(16) {
            0..=2 => self.crash_and_restart(node),
            3 => ids.iter().for_each(|id| self.crash_and_restart(*id)),
            4 => {
                let pause = self.dice.between(10_000, 4_000_000);
                self.note(format!("replica {node} is paused"));
                self.nodes.get_mut(&node).expect("a node").paused_until = self.at_us + pause;
            }
            5 | 6 => {
                let (side, others): (Vec<u64>, Vec<u64>) =
                    ids.iter().partition(|id| **id == node || self.dice.one_in(3));
                self.note(format!("{side:?} and {others:?} are separated"));
                self.network.separate(&side, &others, &mut self.dice);
            }
            7 | 8 => {
                self.note("the network is whole".to_owned());
                self.network.heal();
            }
            9 => {
                self.network.lost_one_in = self.dice.between(0, 1) * self.dice.between(3, 60);
                self.network.doubled_one_in = self.dice.between(0, 1) * self.dice.between(3, 60);
                self.network.late_one_in = self.dice.between(0, 1) * self.dice.between(3, 60);
            }
            10 => {
                let slow = self.dice.pick(&[100, 300, 2_000, 50_000, 500_000]).expect("some");
                self.nodes.get_mut(&node).expect("a node").sync_us = slow;
            }
            11 => {
                let full = self.dice.one_in(2);
                self.note(format!("the disk of replica {node} is full: {full}"));
                self.nodes.get_mut(&node).expect("a node").is_full = full;
            }
            12 => {
                let jump = i64::try_from(self.dice.below(7_200_000)).expect("small") - 3_600_000;
                self.nodes.get_mut(&node).expect("a node").clock_skew_ms = jump;
            }
            13 => self.flurry(&ids),
            _ => self.checkpoint(node),
        }
    }

    /// Many quick restarts: elections in which voters crash.
    fn flurry(&mut self, ids: &[u64]) {
        self.note("a flurry of restarts".to_owned());
        let mut at = 0;
        for _ in 0..self.dice.between(5, 40) {
            at += self.dice.between(5_000, 150_000);
            let node = self.dice.pick(ids).expect("nodes");
            self.after(at, Happening::Restart { node });
        }
    }

    /// A crash with a restart within milliseconds.
    pub(crate) fn restart(&mut self, node: u64) {
        if !self.is_quiet && self.nodes.get(&node).is_some_and(|n| n.process.is_some()) {
            self.crash(node);
            let down = self.dice.between(1_000, 20_000);
            self.after(down, Happening::Start { node });
        }
    }

    fn crash_and_restart(&mut self, node: u64) {
        if self.nodes[&node].process.is_none() {
            return;
        }
        self.crash(node);
        let voters = self.voters();
        // A majority of those that remain after every removal that was asked for is undamaged.
        let remaining = voters.iter().filter(|id| !self.removals.contains(id)).count();
        let may_lose =
            !self.has_lost && self.open_changes == 0 && remaining >= 3 && voters.contains(&node);
        if may_lose && self.dice.one_in(4) && !self.nodes.values().any(|n| n.is_lost) {
            let count = self.dice.between(1, 200);
            let found = self.nodes.get_mut(&node).expect("a node");
            if found.disk.lose_tail(count) {
                self.has_lost = true;
                self.note(format!("the disk of replica {node} loses entries"));
                // Now and then it is the first that is back, and the leader is not.
                let ids: Vec<u64> = self.nodes.keys().copied().collect();
                for other in ids {
                    if other != node && self.dice.one_in(3) && self.nodes[&other].process.is_some()
                    {
                        self.crash(other);
                        let down = self.dice.between(100_000, 6_000_000);
                        self.after(down, Happening::Start { node: other });
                    }
                }
            }
        }
        let down = self.dice.between(1_000, 3_000_000);
        self.after(down, Happening::Start { node });
    }

    fn checkpoint(&mut self, node: u64) {
        let found = self.nodes.get_mut(&node).expect("a node");
        let Some(snapshot) = found.capture() else { return };
        let index = snapshot.last.index;
        if index <= found.disk.snapshot().last.index {
            return;
        }
        found.disk.checkpoint(snapshot);
        self.note(format!("replica {node} writes a snapshot through {index}"));
        self.event(node, Event::Compacted(index));
    }

    /// One step of the operator: a change of one member, or a transfer of leadership.
    pub(crate) fn operator(&mut self) {
        let wait = self.dice.between(100_000, 1_500_000);
        self.after(wait, Happening::Operator);
        let leader = self.nodes.values().find(|node| node.is_leader()).map(|node| node.id);
        let Some(leader) = leader else { return };
        let members = self.nodes[&leader].replica().expect("it leads").members().clone();
        let lost = members.iter().find(|id| self.nodes.get(id).is_none_or(|node| node.is_lost));
        let change = if let Some(learner) = members.learners.first() {
            MembersChange::Promote(*learner)
        } else if let Some(lost) = lost.filter(|_| members.voters.len() > 3) {
            MembersChange::Remove(lost)
        } else if lost.is_some() {
            self.new_learner()
        } else if self.is_quiet {
            return;
        } else {
            match self.dice.below(4) {
                0 if members.voters.len() < VOTERS_MAX => self.new_learner(),
                1 if members.voters.len() > 1 && !self.has_lost => {
                    let removed = self.dice.pick(&members.voters).expect("voters");
                    self.removals.insert(removed);
                    MembersChange::Remove(removed)
                }
                2 => {
                    let to = self.dice.pick(&members.voters).expect("voters");
                    self.event(leader, Event::Transfer(to));
                    return;
                }
                _ => return,
            }
        };
        self.counts.changes += 1;
        self.note(format!("the operator asks replica {leader} for {change:?}"));
        if let Some(caller) = self.nodes.get_mut(&leader).and_then(|n| n.call(Call::Operator)) {
            self.open_changes += 1;
            self.event(leader, Event::Change { caller, change });
        }
    }

    /// A new node that is to be added as a learner.
    fn new_learner(&mut self) -> MembersChange {
        let empty =
            Snapshot { last: EntryId::default(), members: Members::default(), state: State::new() };
        let id = self.add_node(empty);
        self.start(id);
        MembersChange::AddLearner(id)
    }
}
