//! The end of a run: everything is repaired, and every member has what was acknowledged.

use crate::chaos::FAULTS_US;
use crate::clients::PARTITIONS;
use crate::world::World;

/// How long the cluster has to recover after the faults, microseconds.
const RECOVERY_US: u64 = 25_000_000;

impl World {
    /// A whole run: faults, then quiet, then the check that everything is there.
    pub(crate) fn play(&mut self) {
        self.run(FAULTS_US);
        self.repair();
        self.run(FAULTS_US + RECOVERY_US);
        self.check();
    }

    /// Ends all faults and starts every replica.
    pub(crate) fn repair(&mut self) {
        self.is_quiet = true;
        self.contest = None;
        self.network.heal();
        (self.network.lost_one_in, self.network.doubled_one_in, self.network.late_one_in) =
            (0, 0, 0);
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for id in ids {
            let node = self.node(id);
            (node.paused_until, node.is_full, node.sync_us) = (0, false, 300);
            node.flushed_per_tick = u64::MAX;
            node.disk.fails_sync = false;
            self.start(id);
        }
    }

    /// The replica that leads in the newest term.
    pub(crate) fn leader(&self) -> Option<u64> {
        let leaders = self.nodes.values().filter(|node| node.is_leader());
        leaders.max_by_key(|node| node.replica().map_or(0, |r| r.term())).map(|node| node.id)
    }

    /// Every member has everything that was acknowledged, and the shard takes new records.
    pub(crate) fn check(&mut self) {
        if self.oracle.violation().is_some() {
            return;
        }
        self.counts.acked = self.oracle.acked_count();
        let Some(leader) = self.leader() else {
            self.oracle.violate("no replica leads after the faults have ended".to_owned());
            return;
        };
        let replica = self.nodes[&leader].replica().expect("it leads");
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
                    if self.tier.is_some() {
                        self.check_tier(id, partition);
                    }
                }
            }
        }
    }
}
