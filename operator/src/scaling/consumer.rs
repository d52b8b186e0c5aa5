//! State of one consumer of a Queue between two decisions.

use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use ropewalk_operator_api::queue::{Consumer as Wanted, ScalingMode, TargetRef};
use ropewalk_operator_api::{ManagementState, Queue};
use ropewalk_operator_plan::scaling::{Decision, Mode, Policy, Scaler, Target};

use super::metrics::Owner;
use super::vote::Vote;
use crate::cluster_key::ClusterKey;

/// Maximum age of the read of a target whose pods differ from its count.
const UNSETTLED_AGE_MAX: Duration = Duration::from_secs(30);

/// Maximum age when the number of group members has changed since the read: another client may have
/// scaled the target.
const SURPRISE_AGE_MAX: Duration = Duration::from_secs(15);

/// Maximum age when the target is settled. It only guards against missed changes: a thousand quiet
/// queues must cost next to nothing, and every write is preceded by a live read.
const SETTLED_AGE_MAX: Duration = Duration::from_secs(600);

/// Maximum age at zero, where no change can be missed.
const ZERO_AGE_MAX: Duration = Duration::from_secs(1800);

/// Longest wait before a target that could not be read is read again ...
const REFUSED_MAX: Duration = Duration::from_secs(30);

/// ... and the longest wait while messages wait for it.
const REFUSED_URGENT_MAX: Duration = Duration::from_secs(5);

/// Identifies a consumer of a Queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    /// Uid of the Queue.
    pub(super) queue: String,
    /// Name of the consumer.
    pub(super) consumer: String,
}

/// Identifies a target, which several consumers may share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TargetKey {
    pub(super) namespace: String,
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) name: String,
}

/// Whether a consumer is being scaled, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ScalingState {
    /// Not decided yet.
    New,
    /// The consumer is being scaled.
    Active,
    /// Not scaled, because the user disabled it: the reason.
    Off(&'static str),
    /// Not scaled: the reason of the condition, and its message.
    Refused(&'static str, String),
}

/// A line of a signal stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamPosition {
    /// When the stream was opened.
    pub(super) since: Instant,
    /// Number of the line in the stream.
    pub(super) line: u64,
}

/// State of one consumer.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) owner: Owner,
    pub(super) cluster: ClusterKey,
    pub(super) topic: String,
    pub(super) group: String,
    pub(super) target_ref: TargetRef,
    pub(super) policy: Policy,
    pub(super) scaler: Scaler,
    /// The target as last read, and when.
    pub(super) seen: Option<(Target, Instant)>,
    /// The target is not read again before this time, after a failed read.
    pub(super) wait_until: Option<Instant>,
    /// Consecutive failed reads.
    pub(super) refusals: u32,
    /// Time of the next decision.
    pub(super) due: Instant,
    /// A decision is in progress.
    pub(super) is_busy: bool,
    pub(super) state: ScalingState,
    /// Whether its Queue is being deleted.
    pub(super) is_deleted: bool,
    pub(super) decision: Option<Decision>,
    /// Time since when its signal has been unknown.
    pub(super) frozen_since: Option<Instant>,
    pub(super) last_scale: Option<(Time, String)>,
    /// Start of the stream that the last signal came from.
    pub(super) stream: Option<Instant>,
    /// Whether the state of the group was known at the last tick.
    pub(super) is_known: bool,
    /// Consumer lag of the group, as last reported, messages.
    pub(super) length: u64,
    /// Members of the group at the last tick.
    pub(super) members: usize,
    /// Members of the group when the target was last read.
    pub(super) members_then: usize,
    /// Its vote on the replicas of its target.
    pub(super) vote: Option<Vote>,
    /// Maximum of the votes of all consumers of the target.
    pub(super) together: Option<u32>,
    /// Whether other consumers have the same target.
    pub(super) has_peers: bool,
    /// Whether its group also reads another topic, for another target: then some members may belong
    /// to that target.
    pub(super) is_group_shared: bool,
    /// The line that was last sampled.
    pub(super) heard: Option<StreamPosition>,
    /// The limit that was last reported by an Event.
    pub(super) reported_limit: Option<&'static str>,
}

impl Consumer {
    /// Starts with the state that an earlier operator left in the status.
    pub(super) fn new(
        queue: &Queue,
        wanted: &Wanted,
        target_ref: &TargetRef,
        due: Instant,
    ) -> Self {
        let metadata = &queue.metadata;
        let namespace = metadata.namespace.clone().unwrap_or_default();
        let before = queue.status.iter().flat_map(|status| &status.consumers);
        let before = before.clone().find(|consumer| consumer.name == wanted.name);
        #[expect(clippy::cast_precision_loss, reason = "two digits were kept")]
        let measured = before
            .and_then(|before| before.per_replica_per_second_milli)
            .map(|milli| milli as f64 / 1000.0);
        let last_scale = before.and_then(|before| {
            Some((before.last_scale_time.clone()?, before.last_scale_reason.clone()?))
        });
        Self {
            owner: Owner {
                namespace: namespace.clone(),
                queue: metadata.name.clone().unwrap_or_default(),
                consumer: wanted.name.clone(),
            },
            cluster: ClusterKey::new(namespace, queue.cluster()),
            topic: queue.topic().to_owned(),
            group: queue.group(wanted),
            target_ref: target_ref.clone(),
            policy: policy(queue, wanted),
            scaler: Scaler::new(measured),
            seen: None,
            wait_until: None,
            refusals: 0,
            due,
            is_busy: false,
            state: ScalingState::New,
            is_deleted: false,
            decision: None,
            frozen_since: None,
            last_scale,
            stream: None,
            is_known: false,
            length: 0,
            members: 0,
            members_then: 0,
            vote: None,
            together: None,
            has_peers: false,
            is_group_shared: false,
            heard: None,
            reported_limit: None,
        }
    }

    /// Updates the policy and target from the spec.
    pub(super) fn update(&mut self, queue: &Queue, wanted: &Wanted, target_ref: &TargetRef) {
        let is_hibernating = self.policy.is_hibernating;
        self.policy = Policy { is_hibernating, ..policy(queue, wanted) };
        self.is_deleted = queue.metadata.deletion_timestamp.is_some();
        if self.target_ref != *target_ref {
            self.target_ref = target_ref.clone();
            self.seen = None;
            self.wait_until = None;
            self.state = ScalingState::New;
            self.decision = None;
            self.vote = None;
            self.together = None;
        }
        self.state = match (&self.state, switched_off(queue, wanted)) {
            (_, Some(off)) => ScalingState::Off(off),
            (ScalingState::Off(_), None) => ScalingState::New,
            (state, None) => state.clone(),
        };
    }

    /// The key of its target, without the version of the API.
    pub(super) fn target_key(&self) -> TargetKey {
        let TargetRef { api_version, kind, name } = &self.target_ref;
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        TargetKey {
            namespace: self.owner.namespace.clone(),
            group: group.to_owned(),
            kind: kind.clone(),
            name: name.clone(),
        }
    }

    /// Whether the last read of the target is too old to decide by.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        let Some((target, at)) = self.seen else { return true };
        let age_max = if target.current != target.replicas || self.policy.is_hibernating {
            UNSETTLED_AGE_MAX
        } else if self.members != self.members_then {
            SURPRISE_AGE_MAX
        } else if target.replicas == 0 && self.members > 0 {
            // Another client may have reverted a zero before a single pod had ended.
            UNSETTLED_AGE_MAX
        } else if target.replicas > 0 {
            SETTLED_AGE_MAX
        } else {
            ZERO_AGE_MAX
        };
        now.saturating_duration_since(at) > age_max
    }

    /// Stores the target as read at `now`.
    pub(super) fn saw(&mut self, target: Target, now: Instant) {
        self.seen = Some((target, now));
        self.members_then = self.members;
        self.wait_until = None;
        self.refusals = 0;
    }

    /// Sets the wait after a failed read. A Deployment is often created a moment after its Queue,
    /// so it is retried soon, and then less often; waiting messages keep the wait short.
    pub(super) fn put_off(&mut self, now: Instant) {
        self.refusals = (self.refusals + 1).min(10);
        let longest = if self.length > 0 { REFUSED_URGENT_MAX } else { REFUSED_MAX };
        let pause = Duration::from_secs(1 << self.refusals).min(longest);
        self.wait_until = Some(now + pause);
    }

    /// Whether the target was read after `since` and has no more than its minimum.
    pub(super) fn is_at_minimum(&self, since: Instant) -> bool {
        match &self.state {
            // Scaling will not change it.
            ScalingState::Off(_) | ScalingState::Refused(..) => true,
            // Other consumers may need more; the count of all together decides.
            ScalingState::New | ScalingState::Active if self.has_peers => {
                self.seen.is_some_and(|(target, at)| {
                    at >= since && self.together.is_none_or(|wanted| target.replicas <= wanted)
                })
            }
            ScalingState::New | ScalingState::Active => self.seen.is_some_and(|(target, at)| {
                at >= since && target.replicas <= self.policy.replicas_min
            }),
        }
    }
}

fn switched_off(queue: &Queue, wanted: &Wanted) -> Option<&'static str> {
    if queue.metadata.deletion_timestamp.is_some() {
        Some("the Queue is being deleted")
    } else if queue.spec.management_state == ManagementState::Paused {
        Some("`managementState` is Paused")
    } else if wanted.scaling.mode == ScalingMode::Disabled {
        Some("`mode` is Disabled")
    } else {
        None
    }
}

/// The scaling policy of the user's spec.
fn policy(queue: &Queue, wanted: &Wanted) -> Policy {
    let scaling = &wanted.scaling;
    let count = |number: i32| u32::try_from(number).unwrap_or(0);
    let seconds = |number: i32| Duration::from_secs(u64::from(count(number)));
    let off = switched_off(queue, wanted).is_some();
    let mode = match (scaling.mode, &scaling.lag) {
        _ if off => Mode::Disabled,
        (ScalingMode::Lag, Some(lag)) => Mode::Lag {
            messages_per_replica: u64::try_from(lag.messages_per_replica).unwrap_or(1).max(1),
        },
        (ScalingMode::Rate | ScalingMode::Lag, _) => Mode::Rate,
        (ScalingMode::Disabled, _) => Mode::Disabled,
    };
    Policy {
        mode,
        replicas_min: count(scaling.min_replicas),
        replicas_max: scaling.max_replicas.map(count),
        drain: seconds(scaling.target_drain_seconds),
        utilization: f64::from(scaling.target_utilization_percent) / 100.0,
        expected_per_replica_per_second: scaling.expected_per_replica_per_second.map(f64::from),
        idle: seconds(scaling.idle_seconds),
        stabilization: seconds(scaling.scale_down_stabilization_seconds),
        is_hibernating: false,
    }
}
