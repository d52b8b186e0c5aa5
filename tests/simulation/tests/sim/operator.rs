//! The operator, who changes the members and replaces lost replicas.

use ropewalk_shard::driver::Event;
use ropewalk_shard::engine::MembersChange;

use crate::disk::Snapshot;
use crate::node::Call;
use crate::world::{Happening, World};

/// Members that the operator keeps.
const VOTERS_MAX: usize = 5;

impl World {
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
        self.change(leader, change);
    }

    /// Asks the leader for a change of the members.
    pub(crate) fn change(&mut self, leader: u64, change: MembersChange) {
        self.counts.changes += 1;
        self.note(format!("the operator asks replica {leader} for {change:?}"));
        if let Some(caller) = self.node(leader).call(Call::Change) {
            self.open_changes += 1;
            self.event(leader, Event::Change { caller, change });
        }
    }

    /// A new node that is to be added as a learner.
    pub(crate) fn new_learner(&mut self) -> MembersChange {
        let id = self.add_node(Snapshot::empty());
        self.start(id);
        MembersChange::AddLearner(id)
    }
}
