//! Short outages of a cluster do not change the conditions of its Queues.
//!
//! A restart of a cluster's only broker passes through several states within seconds. Without this
//! every Queue of the cluster would be written for each of them, and all would be declared to the
//! broker the moment it is back.
//!
//! # Invariants
//!
//! - The conditions of a ready Queue change because of its cluster only after `HOLD`.
//! - Settled Queues are declared again within `SPREAD` after their cluster became ready, each at
//!   a different time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use parking_lot::Mutex;
use ropewalk_operator_api::{BrokerCluster, Queue, condition};
use ropewalk_operator_plan::queue::{ClusterState, Facts, Refusal};

/// Shorter outages are not shown. Longer than a broker takes to restart.
pub(crate) const HOLD: Duration = Duration::from_secs(30);
/// Time over which the Queues of a cluster that became ready are declared again.
pub(crate) const SPREAD: Duration = Duration::from_secs(20);
/// Bound of the number of remembered outages. Beyond it outages older than [`HOLD`] are discarded.
const QUEUES_MAX: usize = 50_000;

/// Start of the current outage of each Queue's cluster, by the uid of the Queue.
#[derive(Debug, Default)]
pub struct Outages(Mutex<HashMap<String, Instant>>);

impl Outages {
    /// How long the conditions of a Queue stay unchanged; `None` unless `facts` show an outage of
    /// less than [`HOLD`] and nothing else.
    pub(crate) fn hold(&self, facts: &Facts<'_>, now: Instant) -> Option<Duration> {
        let uid = facts.queue.uid().unwrap_or_default();
        let mut since = self.0.lock();
        if !is_outage(facts) {
            since.remove(&uid);
            return None;
        }
        if since.len() >= QUEUES_MAX {
            since.retain(|_, at| now.saturating_duration_since(*at) < HOLD);
        }
        let begun = *since.entry(uid).or_insert(now);
        let lasts = now.saturating_duration_since(begun);
        let left = HOLD.checked_sub(lasts).filter(|left| !left.is_zero())?;
        is_settled(facts.queue).then_some(left)
    }
}

/// Whether the cluster exists but is not usable, and nothing else is wrong.
fn is_outage(facts: &Facts<'_>) -> bool {
    let ClusterState::Present { ready } = &facts.cluster else { return false };
    let passes = |refused: &Refusal| ["BrokerUnreachable", "NotReady"].contains(&refused.reason);
    let declared_is_out = match &facts.declared {
        None => true,
        Some(Ok(_)) => false,
        Some(Err(refused)) if passes(refused) => true,
        Some(Err(_)) => return false,
    };
    let consumers = || facts.unbound.iter().chain(&facts.still_bound).map(|(_, refused)| refused);
    if !consumers().all(passes) {
        return false;
    }
    !ready || declared_is_out || consumers().next().is_some()
}

/// Whether the status reports the current spec as ready.
fn is_settled(queue: &Queue) -> bool {
    let Some(status) = &queue.status else { return false };
    status.observed_generation == queue.metadata.generation
        && condition::is_true(&status.conditions, condition::READY)
}

/// How long a settled Queue waits before it is declared to a cluster that has just become ready.
pub(crate) fn spread(queue: &Queue, cluster: &BrokerCluster, now: Timestamp) -> Option<Duration> {
    let conditions = cluster.status.as_ref().map(|status| status.conditions.as_slice());
    let ready = condition::find(conditions.unwrap_or_default(), condition::READY)?;
    if ready.status != "True" || !is_settled(queue) {
        return None;
    }
    let since = now.as_millisecond().saturating_sub(ready.last_transition_time.0.as_millisecond());
    let since = Duration::from_millis(u64::try_from(since).ok()?);
    turn(queue, SPREAD).checked_sub(since).filter(|left| !left.is_zero())
}

/// A delay below `within` that is constant for a Queue and differs between Queues.
pub(crate) fn turn(queue: &Queue, within: Duration) -> Duration {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    queue.uid().hash(&mut hasher);
    let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(hasher.finish() % within_ms)
}
