//! The commands of brokers and replicas: who is in the cluster, and who holds what.
//!
//! A command that was carried out already has the same answer again, because its proposer may not
//! know the outcome of the first.

use super::{Answer, Catalog, Refusal, answer};
use crate::command::{CatalogCommand, ConfigResource};
use crate::id::{BrokerId, ReplicaId, ShardId};
use crate::limits;
use crate::placement::{BrokerInfo, PlacedReplica, Role, ShardInfo, Standing};

impl Catalog {
    /// The replicas that a broker holds, leaving ones included.
    pub fn held_by(&self, broker: BrokerId) -> impl Iterator<Item = (ShardId, ReplicaId, Role)> {
        let shards = self.shards.iter();
        shards.filter_map(move |(shard, info)| {
            info.on(broker).map(|(replica, role)| (*shard, replica, role))
        })
    }

    /// Whether this replica was placed and then removed. Only a catalog that has applied the
    /// placement knows: one that lags says no.
    #[must_use]
    pub fn is_removed(&self, shard: ShardId, replica: ReplicaId) -> bool {
        let listed = self.shards.get(&shard).map(|info| info.replicas.contains_key(&replica));
        replica.0 < self.next_replica_id && listed == Some(false)
    }

    /// Carries out a command of brokers or replicas.
    pub(super) fn change_placement(&mut self, command: CatalogCommand) -> Answer {
        match command {
            CatalogCommand::RegisterBroker { broker, info } => answer(self.register(broker, info)),
            CatalogCommand::ForgetBroker { broker } => answer(self.forget(broker)),
            CatalogCommand::SetStanding { broker, standing } => {
                answer(self.set_standing(broker, standing))
            }
            CatalogCommand::PlaceReplica { shard, broker } => {
                self.place(shard, broker).map_or_else(Answer::Refused, Answer::Replica)
            }
            CatalogCommand::SetRole { shard, replica, role } => {
                answer(self.set_role(shard, replica, role))
            }
            CatalogCommand::RemoveReplica { shard, replica } => {
                answer(self.remove_replica(shard, replica))
            }
            CatalogCommand::ChangeStanding { broker, from, to } => {
                answer(self.change_standing(broker, from, to))
            }
            CatalogCommand::CreateTopics(_)
            | CatalogCommand::DeleteTopics(_)
            | CatalogCommand::AddPartitions { .. }
            | CatalogCommand::AlterConfigs { .. }
            | CatalogCommand::AllocateProducerIds { .. }
            | CatalogCommand::SetOwner { .. }
            | CatalogCommand::ClaimFence { .. }
            | CatalogCommand::Fenced { .. }
            | CatalogCommand::DeclareTopic { .. }
            | CatalogCommand::ReleaseTopic { .. }
            | CatalogCommand::BindGroup { .. }
            | CatalogCommand::UnbindGroup { .. }
            | CatalogCommand::AbandonTopics(_)
            | CatalogCommand::ReportLevel { .. }
            | CatalogCommand::RecordClaim(_) => unreachable!("not a command of brokers"),
        }
    }

    fn register(&mut self, broker: BrokerId, info: BrokerInfo) -> Result<(), Refusal> {
        if self.removed_brokers.contains(&broker) {
            return Err(Refusal::BrokerForgotten { broker });
        }
        let count = self.brokers.len();
        let Some(known) = self.brokers.get_mut(&broker) else {
            let max = limits::BROKERS_MAX;
            if count >= max {
                return Err(Refusal::TooManyBrokers { max });
            }
            self.brokers.insert(broker, info);
            return Ok(());
        };
        let (incarnation, newest) = (info.incarnation, known.incarnation);
        if incarnation < newest {
            return Err(Refusal::StaleIncarnation { broker, incarnation, newest });
        }
        let standing = match known.standing {
            Standing::NotRestarted { .. } if incarnation > newest => Standing::Serving,
            standing @ (Standing::Serving
            | Standing::Draining
            | Standing::DrainingToFewer
            | Standing::Restarting { .. }
            | Standing::NotRestarted { .. }) => standing,
        };
        *known = BrokerInfo { standing, ..info };
        Ok(())
    }

    fn forget(&mut self, broker: BrokerId) -> Result<(), Refusal> {
        if self.removed_brokers.contains(&broker) {
            return Ok(());
        }
        if !self.brokers.contains_key(&broker) {
            return Err(Refusal::NoSuchBroker { broker });
        }
        let replicas = self.held_by(broker).count();
        if replicas > 0 {
            return Err(Refusal::BrokerHoldsReplicas { broker, replicas });
        }
        let max = limits::FORGOTTEN_BROKERS_MAX;
        if self.removed_brokers.len() >= max {
            return Err(Refusal::TooManyBrokers { max });
        }
        self.brokers.remove(&broker);
        self.levels.remove(&broker);
        self.configs.remove(&ConfigResource::Broker(Some(broker)));
        self.removed_brokers.insert(broker);
        self.raise_level();
        Ok(())
    }

    fn set_standing(&mut self, broker: BrokerId, standing: Standing) -> Result<(), Refusal> {
        let known = self.brokers.get_mut(&broker).ok_or(Refusal::NoSuchBroker { broker })?;
        known.standing = standing;
        Ok(())
    }

    fn change_standing(
        &mut self,
        broker: BrokerId,
        from: Standing,
        to: Standing,
    ) -> Result<(), Refusal> {
        let known = self.brokers.get(&broker).ok_or(Refusal::NoSuchBroker { broker })?;
        let now = known.standing;
        if now == to {
            return Ok(());
        }
        if now != from {
            return Err(Refusal::StandingChanged { broker });
        }
        match to {
            Standing::Draining | Standing::DrainingToFewer => self.check_drain(broker, to)?,
            Standing::Restarting { .. } => self.check_restart(broker)?,
            Standing::Serving | Standing::NotRestarted { .. } => {}
        }
        self.set_standing(broker, to)
    }

    /// Whether the brokers that stay when this one is drained can hold the replicas of the shards
    /// that move: one of each if a broker with a replica accepts fewer, else as many as there are.
    /// Some of the brokers may be away now: the replicas move when they are back.
    fn check_drain(&self, broker: BrokerId, to: Standing) -> Result<(), Refusal> {
        let standing = |id: BrokerId| {
            let info = self.brokers.get(&id).filter(|_| id != broker);
            info.map_or(to, |info| info.standing)
        };
        let staying = self.brokers.keys().filter(|id| !standing(**id).is_draining()).count();
        let needed = |info: &ShardInfo| {
            let votes = info.replicas.values().filter(|placed| placed.role == Role::Voter);
            let is_on = |wanted| votes.clone().any(|placed| standing(placed.broker) == wanted);
            if is_on(Standing::Draining) {
                voters(info)
            } else {
                usize::from(is_on(Standing::DrainingToFewer))
            }
        };
        let short = self.shards.iter().filter(|(_, info)| needed(info) > staying);
        let shards: Vec<_> = short.map(|(shard, info)| (*shard, voters(info))).collect();
        if shards.is_empty() {
            Ok(())
        } else {
            Err(Refusal::TooFewBrokers { broker, staying, shards })
        }
    }

    /// Whether the shards of a broker keep a majority while it and all others that are to be
    /// restarted are away. Whether the others are there is for the proposer to find out.
    fn check_restart(&self, broker: BrokerId) -> Result<(), Refusal> {
        let restarts = |placed: &&PlacedReplica| {
            let info = self.brokers.get(&placed.broker);
            placed.broker != broker && info.is_some_and(|info| info.standing.is_restarting())
        };
        let mut at_risk = Vec::new();
        for (shard, info) in &self.shards {
            let votes = || info.replicas.values().filter(|placed| placed.role == Role::Voter);
            let all = votes().count();
            let others = votes().filter(restarts).count();
            let votes_here = votes().any(|placed| placed.broker == broker);
            if votes_here && others > 0 && 2 * all.saturating_sub(others + 1) <= all {
                at_risk.push(*shard);
            }
        }
        if at_risk.is_empty() {
            Ok(())
        } else {
            Err(Refusal::OtherRestarts { broker, shards: at_risk })
        }
    }

    fn place(&mut self, shard: ShardId, broker: BrokerId) -> Result<ReplicaId, Refusal> {
        if !self.brokers.contains_key(&broker) {
            return Err(Refusal::NoSuchBroker { broker });
        }
        let info = self.shards.get_mut(&shard).ok_or(Refusal::NoSuchShard { shard })?;
        match info.on(broker) {
            Some((replica, Role::Leaving)) => Err(Refusal::ReplicaLeaves { shard, replica }),
            Some((replica, Role::Learner | Role::Voter)) => Ok(replica),
            None => {
                let replica = ReplicaId(self.next_replica_id);
                self.next_replica_id += 1;
                info.replicas.insert(replica, PlacedReplica { broker, role: Role::Learner });
                Ok(replica)
            }
        }
    }

    fn set_role(&mut self, shard: ShardId, replica: ReplicaId, role: Role) -> Result<(), Refusal> {
        let info = self.shards.get_mut(&shard).ok_or(Refusal::NoSuchShard { shard })?;
        let voters = voters(info);
        let no_such = Refusal::NoSuchReplica { shard, replica };
        let placed = info.replicas.get_mut(&replica).ok_or(no_such)?;
        match (placed.role, role) {
            (Role::Leaving, Role::Learner | Role::Voter) => {
                return Err(Refusal::ReplicaLeaves { shard, replica });
            }
            (Role::Voter, Role::Learner) => return Err(Refusal::ReplicaVotes { shard, replica }),
            (Role::Voter, Role::Leaving) if voters == 1 => {
                return Err(Refusal::LastVoter { shard, replica });
            }
            (Role::Learner, _) | (Role::Voter, Role::Voter | Role::Leaving) => {}
            (Role::Leaving, Role::Leaving) => {}
        }
        placed.role = role;
        Ok(())
    }

    fn remove_replica(&mut self, shard: ShardId, replica: ReplicaId) -> Result<(), Refusal> {
        if self.is_removed(shard, replica) {
            return Ok(());
        }
        let info = self.shards.get_mut(&shard).ok_or(Refusal::NoSuchShard { shard })?;
        match info.replicas.get(&replica).map(|placed| placed.role) {
            None => Err(Refusal::NoSuchReplica { shard, replica }),
            Some(Role::Learner | Role::Voter) => Err(Refusal::ReplicaStays { shard, replica }),
            Some(Role::Leaving) => {
                info.replicas.remove(&replica);
                Ok(())
            }
        }
    }
}

fn voters(info: &ShardInfo) -> usize {
    info.replicas.values().filter(|placed| placed.role == Role::Voter).count()
}

#[cfg(test)]
mod tests;
