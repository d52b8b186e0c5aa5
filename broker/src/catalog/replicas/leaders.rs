//! Which replica of a shard leads.

use std::collections::{BTreeMap, BTreeSet};

use ropewalk_shard::{BrokerId, ShardId};

use super::{LEADER_STAYS, LEADER_WEIGHT, Leadership, Member, Plan, Shard, Standing, Step};

impl Plan<'_> {
    /// How well a member could lead now; `None` if it cannot.
    pub(super) fn leadership(&self, member: &Member) -> Option<Leadership> {
        let broker = self.cluster.brokers.get(&member.broker)?;
        let is_able = broker.standing == Standing::Serving && member.is_voter;
        (is_able && member.is_caught_up).then_some(broker.leadership)
    }

    /// The one transfer of leadership that helps most: off a broker that should not lead, else for
    /// balance.
    pub(super) fn better_leader(&self, changing: &BTreeSet<ShardId>) -> Option<Step> {
        let led = self.led();
        let weight_of = |broker: BrokerId| led.get(&broker).copied().unwrap_or(0);
        let mut best: Option<(bool, u64, Step)> = None;
        for (id, shard) in &self.cluster.shards {
            let leader = shard.members.iter().find(|m| Some(m.replica) == shard.leader);
            let Some(leader) = leader.filter(|_| !changing.contains(id)) else { continue };
            // A broker that is to be left is worse than any other.
            let now = self.leadership(&Member { is_caught_up: true, ..*leader });
            let must = now.is_none_or(|now| now == Leadership::GivesUp);
            let is_better = |then: Leadership| match now {
                _ if !must => then == Leadership::Takes,
                Some(now) => then < now,
                None => true,
            };
            let others = shard.members.iter().filter(|m| m.replica != leader.replica);
            let able = others.filter_map(|member| Some((self.leadership(member)?, member)));
            let able = able.filter(|(then, _)| is_better(*then));
            let to = able.min_by_key(|(then, m)| (*then, weight_of(m.broker), m.replica));
            let Some((_, to)) = to else { continue };
            let rests = shard.moved_ago.is_some_and(|ago| ago < LEADER_STAYS);
            let (from, then) = (weight_of(leader.broker), weight_of(to.broker) + weight(shard));
            if !must && (rests || from <= then) {
                continue;
            }
            let gain = from.saturating_sub(then);
            if best
                .as_ref()
                .is_none_or(|(best_must, best_gain, _)| (must, gain) > (*best_must, *best_gain))
            {
                best = Some((must, gain, Step::Transfer { shard: *id, to: to.replica }));
            }
        }
        best.map(|(_, _, step)| step)
    }

    /// The weight of what each broker leads.
    fn led(&self) -> BTreeMap<BrokerId, u64> {
        let mut led = BTreeMap::new();
        for shard in self.cluster.shards.values() {
            let leader = shard.members.iter().find(|m| Some(m.replica) == shard.leader);
            if let Some(leader) = leader {
                *led.entry(leader.broker).or_default() += weight(shard);
            }
        }
        led
    }
}

fn weight(shard: &Shard) -> u64 {
    LEADER_WEIGHT.saturating_add(shard.load)
}
