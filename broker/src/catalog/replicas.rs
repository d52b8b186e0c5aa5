//! Where the replicas of the shards have to be, and who has to lead: the next steps towards it.
//! Pure.
//!
//! [`next_steps`] compares what is with what should be, and says what to do now. It keeps nothing
//! between calls: the caller executes the steps and calls it again with the new state, so that an
//! interruption does no harm. Each step leaves the cluster in a state from which the others follow,
//! and the steps end: each brings more replicas, spreads a shard over more racks, or makes the
//! brokers more equal.
//!
//! # Rules
//!
//! - A shard has as many replicas as [`replication_factor`] says, each on another broker, on as
//!   many racks as there are. One that has three keeps three when fewer brokers stay, unless the
//!   drain of a broker with one of them accepts fewer: no change of the brokers lowers the number
//!   in silence.
//! - A replica is added before another is removed, except that a replica on a broker that is gone
//!   for good is removed first: it has no vote to give, and counts against the majority.
//! - A shard with one voter gets its second vote only together with its third: two voters tolerate
//!   no failure, as one does, but twice as many brokers can fail.
//! - A replica moves off a broker that is draining. Otherwise it moves only where that spreads a
//!   shard over more racks, or from a broker that has at least two more replicas than its new one:
//!   one replica at a time, while every broker answers and no other replica is being added or
//!   removed.
//! - Never onto a broker that is draining or away, and for balance only onto one that also takes
//!   leaderships. A broker that is away keeps its replicas, until it is drained; a learner is given
//!   up when its broker is away for long.
//! - Every broker holds the catalog: those whose replicas do not vote have a learner, which becomes
//!   a voter where one is missing. A broker that is draining keeps its replica of the catalog until
//!   it has no other, so that it knows what it has to give up; then that one leaves too. No other
//!   voter of the catalog leaves.
//! - A leader is moved off a broker that is draining or gives up its leaderships, before a leader
//!   is moved for balance; one at a time, and only to a voter that has caught up. A shard whose
//!   leader was moved keeps it for [`LEADER_STAYS`], unless that broker has to be left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ropewalk_shard::{BrokerId, ReplicaId, ShardId};

mod leaders;
mod of_catalog;

/// The shard of which every broker holds a replica.
const CATALOG: ShardId = ShardId::CATALOG;

/// How long a leader stays at least before balance moves it again.
pub const LEADER_STAYS: Duration = Duration::from_secs(300);

/// Most replicas of a shard. The catalog has more of them, which do not vote.
const REPLICAS_MAX: usize = 3;

/// Most learners that one broker receives at a time.
pub const RECEIVING_MAX: usize = 2;

/// What leading a shard without load weighs, bytes per second: leaders are then equal in number.
pub const LEADER_WEIGHT: u64 = 1 << 20;

/// What the catalog and its last report say of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// The rack or zone; brokers without one count as one rack each.
    pub rack: Option<String>,
    /// Whether it takes and keeps replicas.
    pub standing: Standing,
    /// Whether it leads.
    pub leadership: Leadership,
}

/// Whether a broker leads shards, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leadership {
    /// It keeps what it leads and takes more.
    Takes,
    /// It keeps what it leads and takes more only where no other broker can: it is just back.
    Keeps,
    /// It gives up what it leads: its disk is slow or full, or it is to be restarted.
    GivesUp,
}

/// Whether a broker takes and keeps replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It takes replicas and keeps them.
    Serving,
    /// It has to be left: its replicas move elsewhere.
    Draining,
    /// It has to be left, and shards with a replica there may have fewer afterwards.
    DrainingToFewer,
    /// It does not answer now. It keeps its replicas and gets none.
    Away,
    /// It has not answered for so long that it keeps only the replicas that vote.
    Missing,
}

impl Standing {
    /// Whether the broker has to be left.
    #[must_use]
    pub fn is_draining(self) -> bool {
        match self {
            Self::Draining | Self::DrainingToFewer => true,
            Self::Serving | Self::Away | Self::Missing => false,
        }
    }
}

/// One replica of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The id of the replica.
    pub replica: ReplicaId,
    /// The broker that holds it. A broker that the catalog does not list is gone for good.
    pub broker: BrokerId,
    /// Whether it votes; a learner does not.
    pub is_voter: bool,
    /// Whether it has nearly all that the leader has.
    pub is_caught_up: bool,
}

/// What the leader of a shard says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Voters and learners that stay.
    pub members: Vec<Member>,
    /// The brokers of replicas that are being removed.
    pub leaving: Vec<BrokerId>,
    /// The replica that leads; `None` when no replica leads, and then nothing can be changed.
    pub leader: Option<ReplicaId>,
    /// Bytes per second that clients write and read.
    pub load: u64,
    /// How long ago the leadership was moved for balance; `None` if never.
    pub moved_ago: Option<Duration>,
}

/// The actual state of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The brokers that the catalog lists.
    pub brokers: BTreeMap<BrokerId, Broker>,
    /// Every shard, the catalog included.
    pub shards: BTreeMap<ShardId, Shard>,
    /// Whether a leadership is being moved now.
    pub is_transferring: bool,
}

/// One change of the placement or of a leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Creates a learner.
    Add {
        /// The shard that gets it.
        shard: ShardId,
        /// The broker that holds it.
        broker: BrokerId,
    },
    /// Makes a learner a voter.
    Promote {
        /// The shard of the learner.
        shard: ShardId,
        /// The learner that becomes a voter.
        replica: ReplicaId,
    },
    /// Removes a voter or a learner.
    Remove {
        /// The shard that loses it.
        shard: ShardId,
        /// The replica to remove.
        replica: ReplicaId,
    },
    /// Moves the leadership.
    Transfer {
        /// The shard whose leader moves.
        shard: ShardId,
        /// The voter that leads then.
        to: ReplicaId,
    },
}

/// How many replicas a shard has in a cluster of so many brokers: 1 with one or two, 3 from three
/// on.
#[must_use]
pub fn replication_factor(brokers: usize) -> usize {
    if brokers < REPLICAS_MAX { 1 } else { REPLICAS_MAX }
}

/// What to do now: at most one change of the members of each shard, and at most one transfer of
/// leadership in the whole cluster. Empty when everything is as it should be, or has to wait.
#[must_use]
pub fn next_steps(cluster: &Cluster) -> Vec<Step> {
    let mut plan = Plan::new(cluster);
    let mut steps = Vec::new();
    for (id, shard) in &cluster.shards {
        // Only a leader can change the members.
        if let Some(leader) = shard.leader
            && let Some(step) = plan.change(*id, shard, leader)
        {
            plan.count(&step);
            steps.push(step);
        }
    }
    let transfers = steps.iter().any(|step| matches!(step, Step::Transfer { .. }));
    if !transfers && !cluster.is_transferring {
        let changing = steps.iter().map(Step::shard).collect();
        steps.extend(plan.better_leader(&changing));
    }
    steps
}

impl Step {
    /// The shard that the step changes.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        match *self {
            Self::Add { shard, .. }
            | Self::Promote { shard, .. }
            | Self::Remove { shard, .. }
            | Self::Transfer { shard, .. } => shard,
        }
    }
}

/// A cluster and what the steps so far change in it.
struct Plan<'a> {
    cluster: &'a Cluster,
    /// Replicas of a shard in a cluster of the brokers that stay.
    factor: usize,
    /// Replicas of each listed broker, learners included, without those that are being removed.
    held: BTreeMap<BrokerId, usize>,
    /// Replicas of each broker that are being removed.
    leaving: BTreeMap<BrokerId, usize>,
    /// Learners that each broker receives.
    receiving: BTreeMap<BrokerId, usize>,
    /// Whether a replica may move for balance.
    may_balance: bool,
    is_transferring: bool,
}

impl<'a> Plan<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        let staying = cluster.brokers.values().filter(|b| !b.standing.is_draining());
        let mut plan = Self {
            cluster,
            factor: replication_factor(staying.count()),
            held: cluster.brokers.keys().map(|id| (*id, 0)).collect(),
            leaving: BTreeMap::new(),
            receiving: BTreeMap::new(),
            may_balance: true,
            is_transferring: cluster.is_transferring,
        };
        for member in cluster.shards.values().flat_map(|shard| &shard.members) {
            if let Some(held) = plan.held.get_mut(&member.broker) {
                *held += 1;
                if !member.is_voter && !member.is_caught_up {
                    *plan.receiving.entry(member.broker).or_default() += 1;
                }
            }
        }
        for broker in cluster.shards.values().flat_map(|shard| &shard.leaving) {
            *plan.leaving.entry(*broker).or_default() += 1;
        }
        plan.may_balance = plan.is_at_rest();
        plan
    }

    /// Whether no replica is being added or removed, and every broker answers: only then is it
    /// known how many replicas each broker has in the end.
    fn is_at_rest(&self) -> bool {
        let is_silent =
            |broker: &Broker| matches!(broker.standing, Standing::Away | Standing::Missing);
        let is_whole = |(id, shard): (&ShardId, &Shard)| {
            let voters = shard.members.iter().filter(|member| member.is_voter).count();
            let is_as_large = voters == self.target(shard) && shard.members.len() == voters;
            shard.leaving.is_empty() && (*id == CATALOG || is_as_large)
        };
        !self.cluster.brokers.values().any(is_silent) && self.cluster.shards.iter().all(is_whole)
    }

    /// How many voters a shard is to have.
    fn target(&self, shard: &Shard) -> usize {
        let voters = || shard.members.iter().filter(|member| member.is_voter);
        let accepts_fewer =
            |member: &Member| self.standing(member.broker) == Standing::DrainingToFewer;
        // Two are on the way from three to one, or back.
        let may_shrink = voters().count() < REPLICAS_MAX || voters().any(accepts_fewer);
        if may_shrink { self.factor } else { REPLICAS_MAX }
    }

    fn count(&mut self, step: &Step) {
        match step {
            Step::Add { broker, .. } => {
                self.may_balance = false;
                *self.held.entry(*broker).or_default() += 1;
                *self.receiving.entry(*broker).or_default() += 1;
            }
            Step::Remove { shard, replica } => {
                let members = &self.cluster.shards[shard].members;
                let removed = members.iter().find(|member| member.replica == *replica);
                if let Some(removed) = removed
                    && let Some(held) = self.held.get_mut(&removed.broker)
                {
                    *held -= 1;
                    *self.leaving.entry(removed.broker).or_default() += 1;
                }
            }
            Step::Transfer { .. } => self.is_transferring = true,
            Step::Promote { .. } => {}
        }
    }

    /// The next change of the members of one shard.
    fn change(&self, id: ShardId, shard: &Shard, leader: ReplicaId) -> Option<Step> {
        let (voters, learners): (Vec<_>, Vec<_>) =
            shard.members.iter().copied().partition(|member| member.is_voter);
        if let Some(gone) = shard.members.iter().find(|m| !self.is_listed(m.broker)) {
            return Some(Step::Remove { shard: id, replica: gone.replica });
        }
        if id == CATALOG {
            return self.change_catalog(shard, &voters, &learners, leader);
        }
        let is_useless = |learner: &&Member| match self.standing(learner.broker) {
            Standing::Draining | Standing::DrainingToFewer | Standing::Missing => true,
            Standing::Serving | Standing::Away => false,
        };
        if let Some(useless) = learners.iter().find(is_useless) {
            return Some(Step::Remove { shard: id, replica: useless.replica });
        }
        let is_sound = |voter: &Member| self.standing(voter.broker) == Standing::Serving;
        let target = self.target(shard);
        // The last replica has to be on a broker that stays.
        let lacks_last = target == 1 && !voters.iter().any(is_sound);
        if voters.len() > target && !lacks_last {
            return self.remove_one(id, shard, &voters, leader);
        }
        if let Some(step) = self.promote_one(id, &voters, &learners) {
            return Some(step);
        }
        let missing = target.saturating_sub(voters.len());
        if learners.len() < missing {
            return self.add_one(id, shard);
        }
        if !learners.is_empty() {
            return None;
        }
        self.move_one(id, shard, &voters)
    }

    fn is_listed(&self, broker: BrokerId) -> bool {
        self.cluster.brokers.contains_key(&broker)
    }

    fn standing(&self, broker: BrokerId) -> Standing {
        self.cluster.brokers.get(&broker).map_or(Standing::Away, |broker| broker.standing)
    }

    fn promote_one(&self, id: ShardId, voters: &[Member], learners: &[Member]) -> Option<Step> {
        let ready: Vec<_> = learners.iter().filter(|learner| learner.is_caught_up).collect();
        // Never stay with two voters.
        let waits = voters.len() == 1 && self.factor == REPLICAS_MAX && ready.len() < 2;
        let first = ready.first().filter(|_| !waits)?;
        Some(Step::Promote { shard: id, replica: first.replica })
    }

    /// The removal of the voter among `candidates` that is missed least, or the transfer of its
    /// leadership that has to precede it.
    fn remove_one(
        &self,
        id: ShardId,
        shard: &Shard,
        candidates: &[Member],
        leader: ReplicaId,
    ) -> Option<Step> {
        let out = candidates.iter().max_by_key(|voter| self.dispensable(shard, voter))?;
        if out.replica != leader {
            return Some(Step::Remove { shard: id, replica: out.replica });
        }
        let others = shard.members.iter().filter(|member| member.replica != leader);
        let able = others.filter_map(|member| Some((self.leadership(member)?, member)));
        let (_, to) = able.min_by_key(|(how, v)| (*how, self.held[&v.broker]))?;
        let may_move = !self.is_transferring;
        may_move.then_some(Step::Transfer { shard: id, to: to.replica })
    }

    /// How well a shard can do without a member: the larger, the better.
    fn dispensable(&self, shard: &Shard, member: &Member) -> (u8, usize, usize, ReplicaId) {
        let without = shard.members.iter().filter(|other| other.replica != member.replica);
        let racks = self.racks(without.map(|other| other.broker)).len();
        let first = match self.standing(member.broker) {
            Standing::Draining => 3,
            // It is what lets the shard have fewer.
            Standing::DrainingToFewer => 2,
            // The last replica has to be on a broker that answers.
            Standing::Away | Standing::Missing if self.target(shard) == 1 => 1,
            Standing::Serving | Standing::Away | Standing::Missing => 0,
        };
        (first, racks, self.held[&member.broker], member.replica)
    }

    fn add_one(&self, id: ShardId, shard: &Shard) -> Option<Step> {
        let holders = shard.members.iter().map(|member| member.broker);
        let broker = self.best_beside(holders, &taken(shard), false)?;
        Some(Step::Add { shard: id, broker })
    }

    /// A new replica that takes the place of a voter whose broker has to be left, is in a rack with
    /// another, or has too many.
    fn move_one(&self, id: ShardId, shard: &Shard, voters: &[Member]) -> Option<Step> {
        let out = voters.iter().max_by_key(|voter| self.dispensable(shard, voter))?;
        let staying = || shard.members.iter().filter(|m| m.replica != out.replica);
        let is_left = self.standing(out.broker).is_draining();
        let beside = staying().map(|member| member.broker);
        let broker = self.best_beside(beside, &taken(shard), !is_left)?;
        let now = self.racks(shard.members.iter().map(|member| member.broker)).len();
        let then = self.racks(staying().map(|member| member.broker).chain([broker])).len();
        let is_fuller = self.held[&out.broker] >= self.held[&broker] + 2;
        let is_better = then > now || then == now && is_fuller;
        (is_left || self.may_balance && is_better).then_some(Step::Add { shard: id, broker })
    }

    /// The broker for one more replica beside those that stay, which is none of `taken`: in a rack
    /// of its own if possible, and then the one with the fewest replicas.
    fn best_beside(
        &self,
        staying: impl Iterator<Item = BrokerId> + Clone,
        taken: &BTreeSet<BrokerId>,
        is_for_balance: bool,
    ) -> Option<BrokerId> {
        let takes = |id: &BrokerId| self.cluster.brokers[id].leadership == Leadership::Takes;
        let can_take = |id: &&BrokerId| {
            !taken.contains(*id) && self.can_receive(**id) && (!is_for_balance || takes(id))
        };
        let worth = |id: &BrokerId| {
            let racks = self.racks(staying.clone().chain([*id])).len();
            (std::cmp::Reverse(racks), self.held[id], *id)
        };
        self.cluster.brokers.keys().filter(can_take).min_by_key(|id| worth(id)).copied()
    }

    /// Whether a broker takes one more learner.
    fn can_receive(&self, broker: BrokerId) -> bool {
        let receives = self.receiving.get(&broker).copied().unwrap_or(0);
        self.standing(broker) == Standing::Serving && receives < RECEIVING_MAX
    }

    fn racks(&self, brokers: impl Iterator<Item = BrokerId>) -> BTreeSet<Rack<'a>> {
        let rack = |id: BrokerId| {
            let named = self.cluster.brokers.get(&id).and_then(|broker| broker.rack.as_deref());
            named.map_or(Rack::Own(id), Rack::Named)
        };
        brokers.map(rack).collect()
    }
}

/// The brokers that hold a replica of a shard, leaving ones included.
fn taken(shard: &Shard) -> BTreeSet<BrokerId> {
    let members = shard.members.iter().map(|member| member.broker);
    members.chain(shard.leaving.iter().copied()).collect()
}

/// A rack, or a broker that names none.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rack<'a> {
    Named(&'a str),
    Own(BrokerId),
}

#[cfg(test)]
mod tests;
