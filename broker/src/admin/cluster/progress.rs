//! What is left of an operation on a broker, and what is in the way of a restart. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ropewalk_shard::state::catalog::{BrokerInfo, PlacedReplica, Role, Standing};
use ropewalk_shard::{BrokerId, ReplicaId, ShardId};

use super::report::BrokerProgress;
use super::standing_name;
use crate::admin::shard_reason::ShardReason;
use crate::cluster::report::{LedShard, Member};

/// What the asked broker knows of the cluster.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// Every broker of the catalog.
    pub(super) brokers: BTreeMap<BrokerId, BrokerInfo>,
    /// The brokers that are heard of.
    pub(super) alive: BTreeSet<BrokerId>,
    /// Every shard of the catalog.
    pub(super) shards: BTreeMap<ShardId, ShardFacts>,
}

/// What the asked broker knows of a shard.
#[derive(Debug, Clone, Default)]
pub(super) struct ShardFacts {
    /// The replicas that the catalog lists.
    pub(super) placed: BTreeMap<ReplicaId, PlacedReplica>,
    /// The broker that leads.
    pub(super) leader: Option<BrokerId>,
    /// The last report of the leader.
    pub(super) led: Option<LedShard>,
    /// Record bytes; `None` if the asked broker does not hold the shard.
    pub(super) bytes: Option<u64>,
}

impl ShardFacts {
    fn on(&self, broker: BrokerId) -> Option<(ReplicaId, Role)> {
        let mut all = self.placed.iter();
        all.find(|(_, placed)| placed.broker == broker).map(|(id, placed)| (*id, placed.role))
    }

    /// Leaves out the replica on a broker that is to go, if the leader reports that it is no member
    /// any more. Of the catalog, the broker itself does not see that its replica was removed: its
    /// copy of the catalog ended with the membership.
    pub(super) fn without_gone(mut self, broker: BrokerId) -> Self {
        if let (Some((replica, Role::Leaving)), Some(led)) = (self.on(broker), &self.led)
            && led.member(replica).is_none()
        {
            self.placed.remove(&replica);
        }
        self
    }

    fn broker_of(&self, replica: ReplicaId) -> Option<BrokerId> {
        self.placed.get(&replica).map(|placed| placed.broker)
    }

    fn voters(&self) -> impl Iterator<Item = &Member> {
        self.led.iter().flat_map(|led| &led.members).filter(|member| member.is_voter)
    }
}

impl Facts {
    /// What is left until a broker is as it was asked to be; `None` if the catalog does not list
    /// it.
    pub(super) fn progress(&self, broker: BrokerId) -> Option<BrokerProgress> {
        let standing = self.brokers.get(&broker)?.standing;
        let shards = match standing {
            Standing::Serving | Standing::NotRestarted { .. } => Vec::new(),
            Standing::Draining | Standing::DrainingToFewer => self.left_of_drain(broker),
            Standing::Restarting { .. } => self.left_of_restart(broker),
        };
        let held = self.shards.values().filter(|shard| shard.on(broker).is_some()).count();
        let deadline_ms = match standing {
            Standing::Restarting { deadline_ms, .. } => Some(deadline_ms),
            Standing::Serving
            | Standing::Draining
            | Standing::DrainingToFewer
            | Standing::NotRestarted { .. } => None,
        };
        let known = shards.iter().filter_map(|shard| shard.bytes);
        let leads = self.shards.values().filter(|shard| shard.leader == Some(broker)).count();
        let mut progress = BrokerProgress {
            id: broker.0,
            alive: self.alive.contains(&broker),
            standing: standing_name(standing).to_owned(),
            accept_fewer_replicas: standing == Standing::DrainingToFewer,
            deadline_ms,
            done: shards.is_empty(),
            message: String::new(),
            leads,
            replicas: held,
            bytes: known.reduce(u64::saturating_add),
            shards,
        };
        progress.message = self.message(broker, standing, &progress);
        Some(progress)
    }

    fn message(&self, broker: BrokerId, standing: Standing, progress: &BrokerProgress) -> String {
        let left = progress.shards.len();
        match standing {
            Standing::Serving => "it serves".to_owned(),
            Standing::NotRestarted { .. } => {
                "it serves: the restart that was prepared did not happen before its deadline"
                    .to_owned()
            }
            Standing::Draining | Standing::DrainingToFewer if progress.done => {
                "it holds no replica: stop it, then remove it with DELETE".to_owned()
            }
            Standing::Draining | Standing::DrainingToFewer => {
                format!("{left} replicas are left on it")
            }
            Standing::Restarting { incarnation, .. } => {
                let is_back =
                    self.brokers.get(&broker).is_some_and(|info| info.incarnation > incarnation);
                let sole = self.sole(broker);
                if is_back {
                    "it was restarted, and leads again when it has caught up".to_owned()
                } else if !progress.done {
                    format!("{left} shards are in the way of the restart")
                } else if sole > 0 {
                    format!(
                        "it can be stopped now; {sole} shards have no other replica and are not served meanwhile"
                    )
                } else {
                    "it can be stopped now: other brokers lead its shards".to_owned()
                }
            }
        }
    }

    /// The number of shards that no other broker could serve.
    fn sole(&self, broker: BrokerId) -> usize {
        let is_sole = |shard: &&ShardFacts| {
            let votes = shard.placed.values().filter(|placed| placed.role == Role::Voter);
            let brokers: Vec<_> = votes.map(|placed| placed.broker).collect();
            brokers == [broker]
        };
        self.shards.values().filter(is_sole).count()
    }

    fn left_of_drain(&self, broker: BrokerId) -> Vec<ShardReason> {
        let held =
            self.shards.iter().filter_map(|(id, shard)| Some((*id, shard, shard.on(broker)?)));
        let held: Vec<_> = held.collect();
        let is_last = held.len() == 1;
        let reason = |(id, shard, (_, role)): &(ShardId, &ShardFacts, (ReplicaId, Role))| {
            let (reason, message) = self.why_held(*id, shard, (broker, *role), is_last);
            ShardReason { bytes: shard.bytes, ..ShardReason::new(*id, reason, message) }
        };
        held.iter().map(reason).collect()
    }

    fn why_held(
        &self,
        id: ShardId,
        shard: &ShardFacts,
        (broker, role): (BrokerId, Role),
        is_last: bool,
    ) -> (&'static str, String) {
        if shard.leader.is_none() {
            return ("NoLeader", "the shard has no leader".to_owned());
        }
        if role == Role::Leaving {
            return ("Leaves", "the replica is being removed".to_owned());
        }
        if id == ShardId::CATALOG && !is_last {
            return ("WaitsForOthers", "the catalog leaves last".to_owned());
        }
        let is_learner = |placed: &&PlacedReplica| placed.role == Role::Learner;
        let learner = shard.placed.values().filter(is_learner).find(|p| p.broker != broker);
        if let Some(learner) = learner.filter(|_| id != ShardId::CATALOG) {
            let message = format!("the replica on broker {} is catching up", learner.broker.0);
            return ("CatchesUp", message);
        }
        let takes = |(other, info): (&BrokerId, &BrokerInfo)| {
            *other != broker && !info.standing.is_draining() && self.alive.contains(other)
        };
        let has_place = |other: &BrokerId| shard.on(*other).is_none() || id == ShardId::CATALOG;
        let mut brokers = self.brokers.iter().filter(|all| takes(*all)).map(|(other, _)| other);
        let accepts_fewer =
            self.brokers.get(&broker).is_some_and(|b| b.standing == Standing::DrainingToFewer);
        if !accepts_fewer && !brokers.any(has_place) {
            let message = "no broker that answers can take the replica".to_owned();
            return ("NoBroker", message);
        }
        ("Waits", "it waits for its turn".to_owned())
    }

    fn left_of_restart(&self, broker: BrokerId) -> Vec<ShardReason> {
        let mut left = self.at_risk(broker);
        let known: BTreeSet<u32> = left.iter().map(|shard| shard.shard).collect();
        for (id, shard) in self.shards.iter().filter(|(id, _)| !known.contains(&id.0)) {
            let has_others = shard.voters().count() > 1;
            if shard.leader == Some(broker) && has_others {
                let message = "its leadership is being handed over".to_owned();
                left.push(ShardReason::new(*id, "Leads", message));
            }
        }
        left.sort_unstable_by_key(|shard| shard.shard);
        left
    }

    /// The shards that would have no majority while a broker is restarted. A shard without another
    /// voter is not among them: nothing but another replica would help it.
    pub(super) fn at_risk(&self, broker: BrokerId) -> Vec<ShardReason> {
        let mut at_risk = Vec::new();
        for (id, shard) in &self.shards {
            let Some((replica, Role::Voter)) = shard.on(broker) else { continue };
            let votes = shard.placed.values().filter(|placed| placed.role == Role::Voter);
            if votes.count() == 1 {
                continue;
            }
            if shard.led.is_none() {
                let message = "the shard has no leader that reports".to_owned();
                at_risk.push(ShardReason::new(*id, "NoLeader", message));
                continue;
            }
            let (mut ready, mut missing) = (0, Vec::new());
            for member in shard.voters().filter(|member| member.replica != replica) {
                let other = shard.broker_of(member.replica);
                let name = other.map_or_else(|| "unknown".to_owned(), |other| other.0.to_string());
                if !other.is_some_and(|other| self.alive.contains(&other)) {
                    missing.push(format!("broker {name} is away"));
                } else if !member.is_caught_up {
                    missing.push(format!("broker {name} lacks entries"));
                } else {
                    ready += 1;
                }
            }
            if 2 * ready <= shard.voters().count() {
                let message = if missing.is_empty() {
                    "too few other replicas vote yet".to_owned()
                } else {
                    missing.join(", ")
                };
                at_risk.push(ShardReason::new(*id, "TooFewReplicas", message));
            }
        }
        at_risk
    }
}

#[cfg(test)]
mod tests;
