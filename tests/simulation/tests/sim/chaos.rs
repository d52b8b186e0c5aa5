//! The random faults of a run.

use ropewalk_shard::driver::Event;

use crate::dice::Dice;
use crate::world::{Happening, World};

/// Memory for the records of a replica that writes them slowly, bytes.
const WILD_TAIL_BYTES: u64 = 8 << 10;

/// How long faults happen, microseconds.
pub(crate) const FAULTS_US: u64 = 20_000_000;

impl World {
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
        match self.dice.below(25) {
            0..=2 => self.crash_and_restart(node),
            3 => ids.iter().for_each(|id| self.crash_and_restart(*id)),
            4 => {
                let pause = self.dice.between(10_000, 4_000_000);
                self.note(format!("replica {node} is paused"));
                self.node(node).paused_until = self.at_us + pause;
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
                self.node(node).sync_us = slow;
            }
            11 => {
                let full = self.dice.one_in(2);
                self.note(format!("the disk of replica {node} is full: {full}"));
                self.node(node).is_full = full;
            }
            12 => {
                let jump = i64::try_from(self.dice.below(7_200_000)).expect("small") - 3_600_000;
                self.node(node).clock_skew_ms = jump;
            }
            13 => self.flurry(&ids),
            14 | 15 | 21 | 22 => self.begin_damage(),
            16 => {
                self.node(node).disk.fails_sync = true;
                let down = self.dice.between(1_000, 2_000_000);
                self.after(down, Happening::Start { node });
            }
            17 => self.cut_off_leader(),
            18 => {
                let wait = self.dice.between(100_000, 3_000_000);
                self.note(format!("replica {node} sends forged messages"));
                self.node(node).forges_until = self.at_us + wait;
            }
            19 => {
                let slow = self.dice.between(500, 5_000);
                self.note(format!("replica {node} writes {slow} bytes of records in a tick"));
                let found = self.node(node);
                found.flushed_per_tick = slow;
                found.disk.tail().set_budget(WILD_TAIL_BYTES);
            }
            20 => {
                self.note(format!("replica {node} is taken for ended"));
                self.report_end(node);
            }
            _ => self.checkpoint(node),
        }
    }

    /// The leader is cut off and its process stops, so that it takes itself for the leader when
    /// another one leads already.
    fn cut_off_leader(&mut self) {
        let Some(leader) = self.leader() else { return };
        let others: Vec<u64> = self.nodes.keys().copied().filter(|id| *id != leader).collect();
        self.note(format!("leader {leader} is cut off and paused"));
        self.network.isolate(&[leader], &others);
        let pause = self.dice.between(1_500_000, 4_000_000);
        self.node(leader).paused_until = self.at_us + pause;
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

    fn crash_and_restart(&mut self, node: u64) {
        if self.nodes[&node].process.is_none() {
            return;
        }
        self.crash(node);
        // A loss of power is not noticed.
        if !self.dice.one_in(3) {
            self.report_end(node);
        }
        let down = self.dice.between(1_000, 3_000_000);
        self.after(down, Happening::Start { node });
    }

    /// The voters of which one may lose its disk; empty if none may.
    fn may_lose(&self) -> Vec<u64> {
        let voters = self.voters();
        // A majority of those that remain after every removal that was asked for is undamaged.
        let remaining = voters.iter().filter(|id| !self.removals.contains(id)).count();
        let is_settled = self.open_changes == 0 && !self.nodes.values().any(|n| n.is_lost);
        if is_settled && remaining >= 3 && !self.has_lost { voters } else { Vec::new() }
    }

    /// A minority of the voters is cut off, and lags. Then a disk of the majority loses what was
    /// durable.
    fn begin_damage(&mut self) {
        let mut voters = self.may_lose();
        let minority = voters.len() / 2;
        while voters.len() > minority {
            let at = usize::try_from(self.dice.below(voters.len() as u64)).expect("few");
            voters.swap_remove(at);
        }
        let others: Vec<u64> =
            self.nodes.keys().filter(|id| !voters.contains(id)).copied().collect();
        self.note(format!("{voters:?} are cut off"));
        self.network.isolate(&voters, &others);
        let wait = self.dice.between(100_000, 4_000_000);
        self.after(wait, Happening::Damage { lagging: voters });
    }

    /// A disk loses what was durable. Its replica is back together with those that lag, and before
    /// the others.
    pub(crate) fn damage(&mut self, lagging: &[u64]) {
        self.network.heal();
        let mut others = self.may_lose();
        others.retain(|id| !lagging.contains(id));
        let Some(node) = self.dice.pick(&others).filter(|_| !self.is_quiet) else { return };
        if self.dice.one_in(2) {
            self.node(node).disk.seal();
        }
        others.iter().for_each(|id| self.crash(*id));
        for other in others {
            let down = self.dice.between(2_000_000, 8_000_000);
            let down = if other == node { self.dice.between(1_000, 100_000) } else { down };
            self.after(down, Happening::Start { node: other });
        }
        if self.dice.one_in(3) {
            return self.replace_disk(node);
        }
        let back = self.dice.pick(&[0, 0, 1, 3]).expect("some");
        // Nothing shows that the newest round was durable before the log is sealed.
        let back = back.max(usize::from(self.node(node).disk.has_unsealed()));
        let mut dice = Dice::new(self.dice.draw());
        self.node(node).disk.flip(back, &mut dice);
        self.has_lost = true;
        self.note(format!(
            "a bit flips in the log of replica {node}, {back} rounds before its end"
        ));
    }

    /// A replica writes a snapshot of what it has applied, and releases the log before it.
    pub(crate) fn checkpoint(&mut self, node: u64) {
        let found = self.node(node);
        let Some(snapshot) = found.capture() else { return };
        let index = snapshot.last.index;
        if index <= found.disk.snapshot().last.index {
            return;
        }
        found.disk.checkpoint(snapshot);
        self.note(format!("replica {node} writes a snapshot through {index}"));
        self.event(node, Event::Compacted(index));
    }
}
