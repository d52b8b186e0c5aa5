//! Makes the members of the shards those of the catalog: on every broker, for the shards that it
//! leads and for the replicas that it holds.
//!
//! It is level-triggered: each pass compares what is with what the catalog lists, and takes one
//! step for each shard that is led here.
//!
//! # Order
//!
//! - A learner that is to vote is promoted before any voter is removed, and a voter is removed only
//!   if most of the others have its entries.
//! - A replica that is to go and leads hands the leadership over first; the next leader removes it.
//! - A broker that is to be restarted, or whose disk is full, offers all its leaderships.
//! - A replica that is no member any more is removed from the catalog, and only then does its
//!   broker destroy it.
//!
//! # What proves that a replica is not needed
//!
//! This broker's copy of the catalog may be old. A replica that it does not list is removed only if
//! the copy has seen its id assigned ([`View::is_removed`]): then it was listed and was removed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ropewalk_node::{Node, Progress, ShardHandle};
use ropewalk_shard::command::{CatalogCommand, Command, Role};
use ropewalk_shard::engine::MembersChange;
use ropewalk_shard::{BrokerId, ReplicaId, ShardId};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::{Placement, View};
use crate::cluster::Cluster;

/// Interval of passes without a change of the catalog.
const PASS_INTERVAL: Duration = Duration::from_millis(500);

/// How long one step may take. It may still be carried out afterwards.
const STEP_TIME_MAX: Duration = Duration::from_secs(5);

/// Time before leaderships are offered again. Raft gives a transfer up after an election timeout.
const OFFERED_AGAIN: Duration = Duration::from_secs(1);

/// The loop with its inputs.
#[derive(Debug)]
pub struct MembersLoop {
    cluster: Arc<Cluster>,
    node: Arc<Node>,
    view: Arc<View>,
    /// Why the last step of a shard failed, so that a reason is logged once.
    failed: Mutex<BTreeMap<ShardId, String>>,
    /// When the leaderships were offered to others last, because this broker is to be restarted.
    offered: Mutex<Option<Instant>>,
}

/// A change that the leader of a shard makes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Makes a replica a learner.
    Add(ReplicaId),
    /// Makes a learner a voter.
    Promote(ReplicaId),
    /// Ends the membership of a replica.
    Remove(ReplicaId),
    /// Has another replica lead, because this one is to go.
    Transfer(ReplicaId),
    /// Removes a replica, which is no member, from the catalog.
    Forget(ReplicaId),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, replica) = match self {
            Self::Add(replica) => ("add learner", replica),
            Self::Promote(replica) => ("promote learner", replica),
            Self::Remove(replica) => ("remove member", replica),
            Self::Transfer(replica) => ("hand the leadership to", replica),
            Self::Forget(replica) => ("remove from the catalog", replica),
        };
        write!(f, "{what} {}", replica.0)
    }
}

/// What the leader of a shard knows.
struct Led<'a> {
    /// The replica that leads.
    own: ReplicaId,
    /// The replicas that the catalog lists.
    listed: &'a Placement,
    /// The members of the shard.
    members: &'a [Progress],
}

impl Led<'_> {
    /// What to do now; `None` when the members are those of the catalog, or have to wait.
    /// `is_removed` says whether the catalog has removed a replica.
    fn next_step(&self, is_removed: impl Fn(ReplicaId) -> bool) -> Option<Step> {
        let goes = |member: &&Progress| {
            let replica = ReplicaId(member.replica);
            match self.listed.get(&replica) {
                Some(placed) => placed.role == Role::Leaving,
                None => is_removed(replica),
            }
        };
        let is_to_vote = |member: &&Progress| self.role(member.replica) == Some(Role::Voter);
        let learners = || self.members.iter().filter(|member| !member.is_voter);
        let voters = || self.members.iter().filter(|member| member.is_voter);
        if let Some(ready) = learners().filter(is_to_vote).find(|member| member.is_caught_up) {
            return Some(Step::Promote(ReplicaId(ready.replica)));
        }
        if let Some(gone) = learners().find(goes) {
            return Some(Step::Remove(ReplicaId(gone.replica)));
        }
        let staying = self.listed.iter().filter(|(_, placed)| placed.role != Role::Leaving);
        if let Some((new, _)) = staying.clone().find(|(id, _)| self.member(**id).is_none()) {
            return Some(Step::Add(*new));
        }
        let is_other = |member: &&Progress| member.replica != self.own.0;
        let gone = voters().filter(goes).filter(is_other).find(|out| self.can_spare(out));
        if let Some(gone) = gone {
            return Some(Step::Remove(ReplicaId(gone.replica)));
        }
        if voters().filter(goes).any(|member| !is_other(&member)) {
            let next = voters().filter(is_other).filter(is_to_vote);
            let next = next.filter(|member| member.is_caught_up).max_by_key(|m| m.matched);
            if let Some(next) = next {
                return Some(Step::Transfer(ReplicaId(next.replica)));
            }
        }
        let left = self.listed.iter().filter(|(_, placed)| placed.role == Role::Leaving);
        let mut left = left.filter(|(id, _)| self.member(**id).is_none());
        left.next().map(|(id, _)| Step::Forget(*id))
    }

    fn role(&self, replica: u64) -> Option<Role> {
        self.listed.get(&ReplicaId(replica)).map(|placed| placed.role)
    }

    fn member(&self, replica: ReplicaId) -> Option<&Progress> {
        self.members.iter().find(|member| member.replica == replica.0)
    }

    /// Whether most of the voters that are left without this one have all that it has.
    fn can_spare(&self, out: &Progress) -> bool {
        let left = self.members.iter().filter(|m| m.is_voter && m.replica != out.replica);
        let ready = left.clone().filter(|member| member.is_caught_up).count();
        2 * ready > left.count()
    }
}

impl MembersLoop {
    /// A loop for the shards of `node`, which follow the catalog in `view`.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>, node: Arc<Node>, view: Arc<View>) -> Self {
        let (failed, offered) = (Mutex::default(), Mutex::default());
        Self { cluster, node, view, failed, offered }
    }

    /// Runs passes, without end.
    pub async fn run(self: Arc<Self>) {
        let mut changed = self.view.changed();
        loop {
            changed.borrow_and_update();
            self.hold().await;
            self.drive().await;
            self.offer_leaderships();
            let _ = timeout(PASS_INTERVAL, changed.changed()).await;
        }
    }

    fn own(&self) -> BrokerId {
        self.node.identity().broker_id
    }

    /// Destroys the replicas that the catalog has removed, and expects those that it has placed
    /// here.
    async fn hold(&self) {
        let held = self.node.shard_ids_held();
        for (shard, replica) in &held {
            if self.view.is_removed(*shard, ReplicaId(*replica)) {
                let destroyed = self.node.destroy(*shard, *replica).await;
                self.note(*shard, &format!("destroy replica {replica}"), destroyed);
            }
        }
        for (shard, placement) in &*self.view.placements() {
            let Some(replica) = placed_on(placement, self.own()) else { continue };
            // A damaged replica is repaired here: another in its place would not know its votes.
            let is_damaged = self.node.damaged().iter().any(|(damaged, _)| damaged == shard);
            if !held.contains_key(shard) && !is_damaged {
                info!(%shard, replica = replica.0, "expecting a replica");
                self.node.expect(*shard, replica.0);
            }
        }
    }

    /// Offers all leaderships to other brokers while this one is to be restarted, or its disk is
    /// full: a leader refuses records then, and a follower holds up nothing. An election may bring
    /// some back.
    fn offer_leaderships(&self) {
        let brokers = self.view.brokers();
        let restarts = brokers.get(&self.own()).is_some_and(|info| info.standing.is_restarting());
        let is_full = self.node.is_disk_full();
        if !restarts && !is_full {
            return;
        }
        let mut offered = self.offered.lock();
        if offered.is_none_or(|at| at.elapsed() >= OFFERED_AGAIN) {
            *offered = Some(Instant::now());
            // A broker whose disk is full as well is no better.
            let left = self.cluster.offer_leaderships(!restarts);
            if left > 0 {
                info!(left, restarts, is_full, "offering the leaderships to other brokers");
            }
        }
    }

    /// Takes one step for each shard that is led here.
    async fn drive(&self) {
        let steps: Vec<_> = self.node.shards().filter_map(|shard| self.step_of(shard)).collect();
        let steps = steps.iter().map(|(shard, step)| self.take(shard, *step));
        futures_util::future::join_all(steps).await;
    }

    fn step_of(&self, shard: &Arc<ShardHandle>) -> Option<(Arc<ShardHandle>, Step)> {
        shard.leading()?;
        let (own, members) = (ReplicaId(shard.replica()?), shard.progress());
        let listed = self.view.replicas(shard.id());
        // Before the catalog is here, or when this replica no longer leads.
        if listed.is_empty() || members.is_empty() {
            return None;
        }
        let led = Led { own, listed: &listed, members: &members };
        let step = led.next_step(|replica| self.view.is_removed(shard.id(), replica))?;
        Some((Arc::clone(shard), step))
    }

    async fn take(&self, shard: &Arc<ShardHandle>, step: Step) {
        let taken = timeout(STEP_TIME_MAX, self.execute(shard, step)).await;
        let taken = taken.unwrap_or_else(|_| Err(format!("no answer within {STEP_TIME_MAX:?}")));
        self.note(shard.id(), &step.to_string(), taken);
    }

    /// Logs what was done, or why not; the same reason only once.
    fn note<E: fmt::Display>(&self, shard: ShardId, what: &str, done: Result<(), E>) {
        match done {
            Ok(()) => {
                self.failed.lock().remove(&shard);
                info!(%shard, what, "changed the replicas");
            }
            Err(error) => {
                let reason = format!("{what}: {error}");
                let before = self.failed.lock().insert(shard, reason.clone());
                if before.as_ref() != Some(&reason) {
                    warn!(%shard, what, %error, "the replicas were not changed, will retry");
                }
            }
        }
    }

    async fn execute(&self, shard: &Arc<ShardHandle>, step: Step) -> Result<(), String> {
        let change = match step {
            Step::Add(replica) => MembersChange::AddLearner(replica.0),
            Step::Promote(replica) => MembersChange::Promote(replica.0),
            Step::Remove(replica) => MembersChange::Remove(replica.0),
            Step::Transfer(replica) => {
                shard.transfer_leadership(replica.0);
                return Ok(());
            }
            Step::Forget(replica) => return self.forget(shard, replica).await,
        };
        shard.change_members(change).await.map_err(|error| error.to_string())
    }

    /// Removes a replica that is no member from the catalog. A leader that was replaced without
    /// knowing it may not know that the replica is a member, so it asks a majority first.
    async fn forget(&self, shard: &Arc<ShardHandle>, replica: ReplicaId) -> Result<(), String> {
        shard.read_barrier().await.map_err(|error| error.to_string())?;
        let members = shard.progress();
        if members.is_empty() || members.iter().any(|member| member.replica == replica.0) {
            return Err("it is a member, or another replica leads".to_owned());
        }
        let command = CatalogCommand::RemoveReplica { shard: shard.id(), replica };
        let proposed = self.cluster.propose(ShardId::CATALOG, Command::Catalog(command)).await;
        super::placed(proposed)
    }
}

/// The replica that is placed on a broker and stays there.
fn placed_on(placement: &Placement, broker: BrokerId) -> Option<ReplicaId> {
    let mut staying = placement.iter().filter(|(_, placed)| placed.role != Role::Leaving);
    staying.find(|(_, placed)| placed.broker == broker).map(|(replica, _)| *replica)
}

#[cfg(test)]
mod tests;
