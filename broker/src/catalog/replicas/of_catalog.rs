//! The replicas of the catalog, of which every broker has one.

use std::collections::BTreeMap;

use ropewalk_shard::{BrokerId, ReplicaId};

use super::{CATALOG, Member, Plan, REPLICAS_MAX, Shard, Standing, Step, taken};

impl Plan<'_> {
    /// The next change of the members of the catalog.
    pub(super) fn change_catalog(
        &self,
        shard: &Shard,
        voters: &[Member],
        learners: &[Member],
        leader: ReplicaId,
    ) -> Option<Step> {
        if let Some(last) = learners.iter().find(|learner| self.leaves_catalog(learner)) {
            return Some(Step::Remove { shard: CATALOG, replica: last.replica });
        }
        let (leaving, staying): (Vec<_>, Vec<_>) =
            voters.iter().copied().partition(|voter| self.leaves_catalog(voter));
        let target = self.target(shard);
        if let Some(step) = self.promote_of_catalog((voters.len(), target), &staying, learners) {
            return Some(step);
        }
        if staying.len() >= target && !leaving.is_empty() {
            return self.remove_one(CATALOG, shard, &leaving, leader);
        }
        let taken = taken(shard);
        let can_take = |id: &&BrokerId| !taken.contains(*id) && self.can_receive(**id);
        let broker = *self.cluster.brokers.keys().find(can_take)?;
        Some(Step::Add { shard: CATALOG, broker })
    }

    /// Whether the broker is to be left and has only this replica, of the catalog.
    fn leaves_catalog(&self, member: &Member) -> bool {
        let count = |of: &BTreeMap<BrokerId, usize>| of.get(&member.broker).copied().unwrap_or(0);
        let is_last = count(&self.held) + count(&self.leaving) <= 1;
        self.standing(member.broker).is_draining() && is_last
    }

    /// The learner of the catalog that becomes a voter, if one is missing. `voters` vote now, as
    /// many as `target` are to vote, and those that stay are `staying`.
    fn promote_of_catalog(
        &self,
        (voters, target): (usize, usize),
        staying: &[Member],
        learners: &[Member],
    ) -> Option<Step> {
        let is_able = |learner: &&Member| {
            learner.is_caught_up && self.standing(learner.broker) == Standing::Serving
        };
        let able: Vec<_> = learners.iter().filter(is_able).collect();
        let missing = target.saturating_sub(staying.len());
        // Never stay with two voters.
        let waits = voters == 1 && self.factor == REPLICAS_MAX && able.len() < 2;
        if missing == 0 || waits {
            return None;
        }
        let racks_with = |learner: &Member| {
            self.racks(staying.iter().map(|voter| voter.broker).chain([learner.broker])).len()
        };
        let best = able.iter().max_by_key(|m| (racks_with(m), std::cmp::Reverse(m.broker)))?;
        Some(Step::Promote { shard: CATALOG, replica: best.replica })
    }
}
