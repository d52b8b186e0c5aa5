//! When a replica campaigns: after ticks without a leader, or at once if it is the only voter.

use raft::StateRole;

use super::Engine;
use crate::limits;

impl Engine {
    /// Advances the engine's clock by [`limits::TICK_MS`].
    pub fn tick(&mut self) {
        self.heard.tick();
        if self.is_lone() {
            return self.campaign_alone();
        }
        let timeout = election_timeout(self.seed, self.id(), self.term());
        self.node.raft.set_randomized_election_timeout(timeout);
        self.node.tick();
    }

    /// The only voter needs no votes of others. The crate makes it the leader within the call and
    /// panics if an entry of its log is not durable.
    pub(super) fn campaign_alone(&mut self) {
        let raft = &self.node.raft;
        let log = &raft.raft_log;
        let is_durable = log.persisted == log.last_index();
        let is_replayed = log.applied >= self.committed_at_start && log.applied == log.committed;
        let may = raft.state == StateRole::Follower && self.is_lone();
        if may && is_durable && is_replayed {
            // An error means that the engine is in no state to campaign: the next tick tries again.
            let _ = self.node.campaign();
        }
    }
}

/// The number of ticks without a leader before the replica campaigns in this term: from
/// [`limits::ELECTION_TICKS`] to twice that. The crate would draw a random number instead.
fn election_timeout(seed: u64, replica: u64, term: u64) -> usize {
    // splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
    let mut mixed = seed ^ replica.rotate_left(32) ^ term;
    for _ in 0..2 {
        mixed = mixed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
    }
    let spread = mixed % limits::ELECTION_TICKS as u64;
    limits::ELECTION_TICKS + usize::try_from(spread).expect("less than an election timeout")
}
