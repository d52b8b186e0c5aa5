//! When a replica campaigns: after ticks without a leader, sooner when the process of its leader has
//! ended, or at once if it is the only voter. And when a leader gives up.
//!
//! The voters that are left take turns in an order that all of them know, so that it is rare that
//! two campaign at the same time and neither is elected. The order changes with the term. It is for
//! speed only: whatever the order, a replica votes once in a term.

use raft::StateRole;

use super::Engine;
use crate::limits;
use crate::message::{Body, Message};

/// A leader whose process has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    leader: u64,
    /// Since then.
    ticks: usize,
}

impl Engine {
    /// Advances the engine's clock by [`limits::TICK_MS`].
    pub fn tick(&mut self) {
        self.heard.tick();
        if self.is_lone() {
            return self.campaign_alone();
        }
        if self.is_leader() && self.lacks_majority() {
            self.give_up();
        }
        let turn = self.turn(self.leader());
        let timeout = election_timeout(self.seed, self.id(), self.term(), turn);
        self.node.raft.set_randomized_election_timeout(timeout);
        self.node.tick();
        self.campaign_early();
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

    /// Reports that the process of another replica has ended. If that one leads, as far as this
    /// replica knows, this one gives its vote to others from now on, and soon campaigns itself. A
    /// wrong report costs an election at most, and nothing while a majority hears the leader.
    pub fn ended(&mut self, replica: u64) {
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Follower && raft.leader_id == replica {
            raft.become_follower(raft.term, raft::INVALID_ID);
            self.ended = Some(Ended { leader: replica, ticks: 0 });
        }
    }

    /// Campaigns in this replica's turns, for an election timeout after the leader has ended.
    fn campaign_early(&mut self) {
        let Some(Ended { leader, ticks }) = self.ended else { return };
        let raft = &self.node.raft;
        if raft.leader_id != raft::INVALID_ID || ticks >= limits::ELECTION_TICKS {
            self.ended = None;
            return;
        }
        self.ended = Some(Ended { leader, ticks: ticks + 1 });
        let candidates = self.members.voters.iter().filter(|voter| **voter != leader).count();
        let round = limits::TURN_TICKS * candidates.max(1);
        if raft.promotable() && ticks % round == limits::TURN_TICKS * self.turn(Some(leader)) {
            // It asks whether others would vote before it raises the term.
            let _ = self.node.campaign();
        }
    }

    /// The place of this replica in the order in which the voters other than the leader campaign.
    fn turn(&self, leader: Option<u64>) -> usize {
        let (own, term) = (self.id(), self.term());
        let place = |voter: u64| (mix(voter.rotate_left(32) ^ term), voter);
        let voters = self.members.voters.iter().copied();
        let others = voters.filter(|voter| *voter != own && Some(*voter) != leader);
        others.filter(|voter| place(*voter) < place(own)).count()
    }

    /// Whether this leader has not heard of a majority of the voters for an election timeout.
    fn lacks_majority(&self) -> bool {
        let (own, voters) = (self.id(), &self.members.voters);
        let is_heard = |voter: &&u64| **voter == own || !self.heard.is_silent(**voter);
        2 * voters.iter().filter(is_heard).count() <= voters.len()
    }

    /// Stops leading. Others may hear this replica although it does not hear them: the follower
    /// that has most of the log is asked to lead, instead of waiting for an election timeout.
    fn give_up(&mut self) {
        let (from, term) = (self.id(), self.term());
        let raft = &mut self.node.raft;
        let matched = |voter: &u64| raft.prs().get(*voter).map(|progress| progress.matched);
        let others = self.members.voters.iter().copied().filter(|voter| *voter != from);
        if let Some(to) = others.max_by_key(matched) {
            self.messages.push(Message { from, to, term, body: Body::TimeoutNow });
        }
        raft.become_follower(term, raft::INVALID_ID);
    }
}

/// The number of ticks without a leader before the replica campaigns in this term, if it has this
/// turn. The crate would draw a random number instead.
fn election_timeout(seed: u64, replica: u64, term: u64, turn: usize) -> usize {
    let half_a_turn = limits::TURN_TICKS as u64 / 2 + 1;
    let spread = mix(seed ^ replica.rotate_left(32) ^ term) % half_a_turn;
    let spread = usize::try_from(spread).expect("less than a turn");
    limits::ELECTION_TICKS + limits::TURN_TICKS * turn + spread
}

/// A number that looks random and depends on all bits of another one.
fn mix(mut mixed: u64) -> u64 {
    // splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
    for _ in 0..2 {
        mixed = mixed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
    }
    mixed
}
