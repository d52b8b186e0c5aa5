//! Decides where replicas are and who leads: on the broker whose replica leads the catalog.
//!
//! Each pass compares the catalog, and what the brokers report, with what should be
//! ([`replicas::next_steps`]), and changes the catalog. The leaders of the shards carry that out
//! ([`super::members`]). Nothing is kept between passes but when leaderships were moved and since
//! when brokers are silent.
//!
//! It also ends the preparation of a restart: when the broker is back and has caught up, or when
//! its deadline has passed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ropewalk_node::Node;
use ropewalk_shard::command::{
    BrokerInfo, CatalogCommand, Command, Role, Standing as ListedStanding,
};
use ropewalk_shard::{BrokerId, ReplicaId, ShardId};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::replicas::{self, Leadership, Member, Shard, Standing, Step};
use super::{Placement, View};
use crate::clock;
use crate::cluster::Cluster;
use crate::cluster::report::{LedShard, Report, newest_leader};

/// Interval of the passes.
const PASS_INTERVAL: Duration = Duration::from_secs(1);

/// How long a broker leads the catalog before it changes anything: longer than a report may be
/// under way, so that it has heard of every broker that is alive.
const LISTENS: Duration = Duration::from_secs(5);

/// A broker that has been silent for so long gives up the learners that it was receiving.
const MISSING_AFTER: Duration = Duration::from_secs(60);

/// How long a transfer of leadership may take before another is begun.
const TRANSFER_TIME_MAX: Duration = Duration::from_secs(10);

/// The loop with its inputs.
#[derive(Debug)]
pub struct Balancer {
    cluster: Arc<Cluster>,
    node: Arc<Node>,
    view: Arc<View>,
}

/// What is known of the past.
#[derive(Debug, Default)]
struct History {
    /// Since when the catalog is led here; `None` while it is not.
    leads_since: Option<Instant>,
    /// Since when each broker that is silent now is silent.
    silent_since: BTreeMap<BrokerId, Instant>,
    /// When the leadership of a shard was moved last.
    moved: BTreeMap<ShardId, Instant>,
    /// The transfer that may be under way.
    transfer: Option<(ShardId, ReplicaId, Instant)>,
}

/// What the catalog and the reports say now.
struct Seen<'a> {
    now: Instant,
    brokers: &'a BTreeMap<BrokerId, BrokerInfo>,
    shards: &'a BTreeMap<ShardId, Arc<Placement>>,
    reports: &'a [Arc<Report>],
}

impl Balancer {
    /// A balancer of the cluster whose catalog is in `view`.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>, node: Arc<Node>, view: Arc<View>) -> Self {
        Self { cluster, node, view }
    }

    /// Runs passes, without end.
    pub async fn run(self: Arc<Self>) {
        let mut history = History::default();
        let mut failed = None;
        loop {
            sleep(PASS_INTERVAL).await;
            let now_failed = self.pass(&mut history).await.err();
            if let Some(error) = now_failed.as_ref().filter(|_| now_failed != failed) {
                warn!(%error, "placing replicas failed, will retry");
            }
            failed = now_failed;
        }
    }

    async fn pass(&self, history: &mut History) -> Result<(), String> {
        let leads = self.node.shard(ShardId::CATALOG).is_some_and(|held| held.leading().is_some());
        let now = Instant::now();
        if !history.may_change(leads, now) {
            return Ok(());
        }
        let (brokers, shards) = (self.view.brokers(), self.view.placements());
        let reports = self.cluster.reports();
        let seen = Seen { now, brokers: &brokers, shards: &shards, reports: &reports };
        history.hear(&seen, |broker| self.cluster.is_alive(broker));
        self.end_restarts(&seen, history).await?;
        if brokers.len() < 2 {
            return Ok(());
        }
        for step in replicas::next_steps(&seen.cluster(history)) {
            self.execute(step, history).await.map_err(|error| format!("{step:?}: {error}"))?;
            info!(?step, "placing replicas");
        }
        Ok(())
    }

    /// Ends the preparations of restarts that are over.
    async fn end_restarts(&self, seen: &Seen<'_>, history: &History) -> Result<(), String> {
        for (broker, from, to) in seen.ended_restarts(history, clock::now_ms()) {
            let command = CatalogCommand::ChangeStanding { broker, from, to };
            let proposed = self.cluster.propose(ShardId::CATALOG, Command::Catalog(command)).await;
            super::placed(proposed).map_err(|error| format!("broker {}: {error}", broker.0))?;
            if to == ListedStanding::Serving {
                info!(broker = broker.0, "the broker was restarted and may lead again");
            } else {
                warn!(
                    broker = broker.0,
                    "the broker was not restarted before the deadline, and may lead again"
                );
            }
        }
        Ok(())
    }

    async fn execute(&self, step: Step, history: &mut History) -> Result<(), String> {
        let command = match step {
            Step::Add { shard, broker } => CatalogCommand::PlaceReplica { shard, broker },
            Step::Promote { shard, replica } => {
                CatalogCommand::SetRole { shard, replica, role: Role::Voter }
            }
            Step::Remove { shard, replica } => {
                CatalogCommand::SetRole { shard, replica, role: Role::Leaving }
            }
            Step::Transfer { shard, to } => {
                history.transfer = Some((shard, to, Instant::now()));
                history.moved.insert(shard, Instant::now());
                let asked = self.cluster.transfer(shard, to).await;
                return asked.map_err(|error| error.to_string());
            }
        };
        super::placed(self.cluster.propose(ShardId::CATALOG, Command::Catalog(command)).await)
    }
}

impl History {
    /// Whether the catalog has been led here for long enough.
    fn may_change(&mut self, leads: bool, now: Instant) -> bool {
        if !leads {
            *self = Self::default();
            return false;
        }
        if self.leads_since.is_none() {
            // The leader before this one may have moved it here, and that is not known here.
            self.moved.insert(ShardId::CATALOG, now);
        }
        let since = *self.leads_since.get_or_insert(now);
        now.saturating_duration_since(since) >= LISTENS
    }

    /// Notes who is silent, and whether a transfer has ended.
    fn hear(&mut self, seen: &Seen<'_>, is_alive: impl Fn(BrokerId) -> bool) {
        self.silent_since
            .retain(|broker, _| seen.brokers.contains_key(broker) && !is_alive(*broker));
        for broker in seen.brokers.keys().filter(|broker| !is_alive(**broker)) {
            self.silent_since.entry(*broker).or_insert(seen.now);
        }
        self.transfer = self.transfer.filter(|(shard, to, at)| {
            let is_done = seen.led(*shard).is_some_and(|led| led.replica == *to);
            !is_done && seen.now.saturating_duration_since(*at) < TRANSFER_TIME_MAX
        });
        self.moved.retain(|_, at| seen.now.saturating_duration_since(*at) < replicas::LEADER_STAYS);
    }
}

impl Seen<'_> {
    fn cluster(&self, history: &History) -> replicas::Cluster {
        let brokers = self.brokers.iter();
        let brokers = brokers.map(|(id, info)| (*id, self.broker(*id, info, history)));
        let shards = self.shards.iter();
        replicas::Cluster {
            brokers: brokers.collect(),
            shards: shards.map(|(id, listed)| (*id, self.shard(*id, listed, history))).collect(),
            is_transferring: history.transfer.is_some(),
        }
    }

    fn broker(&self, id: BrokerId, info: &BrokerInfo, history: &History) -> replicas::Broker {
        let silent = history.silent_since.get(&id);
        let silent = silent.map(|since| self.now.saturating_duration_since(*since));
        let standing = match (info.standing, silent) {
            (ListedStanding::Draining, _) => Standing::Draining,
            (ListedStanding::DrainingToFewer, _) => Standing::DrainingToFewer,
            (_, Some(silent)) if silent >= MISSING_AFTER => Standing::Missing,
            (_, Some(_)) => Standing::Away,
            (
                ListedStanding::Serving
                | ListedStanding::Restarting { .. }
                | ListedStanding::NotRestarted { .. },
                None,
            ) => Standing::Serving,
        };
        let report = self.reports.iter().find(|report| report.broker == id);
        let leadership = match report.map(|report| report.flags) {
            Some(flags) if flags.has_slow_disk || flags.is_draining => Leadership::GivesUp,
            _ if info.standing.is_restarting() => Leadership::GivesUp,
            Some(flags) if flags.is_just_started => Leadership::Keeps,
            Some(_) => Leadership::Takes,
            None => Leadership::Keeps,
        };
        replicas::Broker { rack: info.rack.clone(), standing, leadership }
    }

    /// The brokers whose preparation of a restart is over, with their standing now and then.
    fn ended_restarts(
        &self,
        history: &History,
        now_ms: i64,
    ) -> Vec<(BrokerId, ListedStanding, ListedStanding)> {
        let mut ended = Vec::new();
        for (id, info) in self.brokers {
            let ListedStanding::Restarting { incarnation, deadline_ms } = info.standing else {
                continue;
            };
            let is_back = info.incarnation > incarnation
                && !history.silent_since.contains_key(id)
                && self.has_caught_up(*id, info.incarnation);
            if is_back {
                ended.push((*id, info.standing, ListedStanding::Serving));
            } else if now_ms >= deadline_ms {
                let to = ListedStanding::NotRestarted { deadline_ms };
                ended.push((*id, info.standing, to));
            }
        }
        ended
    }

    /// Whether this start of a broker has reported, and the leader of each shard in which it votes
    /// says that it has nearly all entries.
    fn has_caught_up(&self, broker: BrokerId, incarnation: u64) -> bool {
        let reports =
            |report: &Arc<Report>| report.broker == broker && report.incarnation >= incarnation;
        let votes = |placement: &Placement| {
            let here = placement.iter().find(|(_, placed)| placed.broker == broker);
            here.filter(|(_, placed)| placed.role == Role::Voter).map(|(replica, _)| *replica)
        };
        let mut shards =
            self.shards.iter().filter_map(|(id, placement)| Some((*id, votes(placement)?)));
        self.reports.iter().any(reports)
            && shards.all(|(id, replica)| {
                let member = self.led(id).and_then(|led| led.member(replica));
                member.is_some_and(|member| member.is_caught_up)
            })
    }

    /// The newest leader of a shard that has reported.
    fn led(&self, shard: ShardId) -> Option<&LedShard> {
        newest_leader(self.reports, shard).map(|(_, led)| led)
    }

    /// A shard as the catalog wants it to be. It has no leader, so that it is skipped, while its
    /// members are not yet as the catalog wants.
    fn shard(&self, id: ShardId, listed: &Placement, history: &History) -> Shard {
        let led = self.led(id);
        let known = |replica: ReplicaId| led.and_then(|led| led.member(replica));
        let staying = listed.iter().filter(|(_, placed)| placed.role != Role::Leaving);
        let members = staying.map(|(replica, placed)| {
            let is_voter = placed.role == Role::Voter;
            let is_caught_up = known(*replica)
                .is_some_and(|known| known.is_caught_up && known.is_voter == is_voter);
            Member { replica: *replica, broker: placed.broker, is_voter, is_caught_up }
        });
        let members: Vec<Member> = members.collect();
        let is_settled = listed.iter().all(|(replica, placed)| {
            let votes = known(*replica).is_some_and(|known| known.is_voter);
            match placed.role {
                Role::Learner => true,
                Role::Leaving => !votes,
                // One on a broker that is to be left may never become a voter.
                Role::Voter => votes || self.is_draining(placed.broker),
            }
        });
        let leader = led
            .map(|led| led.replica)
            .filter(|leader| is_settled && members.iter().any(|member| member.replica == *leader));
        let moved = history.moved.get(&id);
        Shard {
            members,
            leaving: brokers_leaving(listed),
            leader,
            load: led.map_or(0, |led| led.bytes_per_second),
            moved_ago: moved.map(|at| self.now.saturating_duration_since(*at)),
        }
    }

    fn is_draining(&self, broker: BrokerId) -> bool {
        let info = self.brokers.get(&broker);
        info.is_none_or(|info| info.standing.is_draining())
    }
}

fn brokers_leaving(listed: &Placement) -> Vec<BrokerId> {
    let leaving = listed.values().filter(|placed| placed.role == Role::Leaving);
    leaving.map(|placed| placed.broker).collect()
}

#[cfg(test)]
mod tests;
