//! One consumer of a Queue while it is being scaled: what is remembered of it between two looks.

use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use ropewalk_operator_api::queue::{Consumer as Wanted, ScalingMode, TargetRef};
use ropewalk_operator_api::{ManagementState, Queue};
use ropewalk_operator_plan::scaling::{Decision, Mode, Policy, Scaler, Target};

use super::metrics::Owner;
use super::vote::Vote;
use crate::cluster_key::ClusterKey;

/// A target whose pods are not what was asked for is looked at this often.
const UNSETTLED_AGE_MAX: Duration = Duration::from_secs(30);

/// When its group has other members than at the last look, somebody may have scaled it: it is looked at again, this often.
const SURPRISE_AGE_MAX: Duration = Duration::from_secs(15);

/// One that is settled is looked at only lest something was missed: a thousand quiet queues must cost next to nothing, and
/// whatever is written is read again right before.
const SETTLED_AGE_MAX: Duration = Duration::from_secs(600);

/// The same at zero, where there is nothing that could go wrong unseen.
const ZERO_AGE_MAX: Duration = Duration::from_secs(1800);

/// A target that cannot be read is looked for again after this long at most ...
const REFUSED_MAX: Duration = Duration::from_secs(30);

/// ... and sooner while messages wait for it.
const REFUSED_URGENT_MAX: Duration = Duration::from_secs(5);

/// Which consumer of which Queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    /// The uid of the Queue.
    pub(super) queue: String,
    /// The consumer's name.
    pub(super) consumer: String,
}

/// What is scaled, whoever asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TargetKey {
    pub(super) namespace: String,
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) name: String,
}

/// How a consumer stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing was decided yet.
    New,
    /// It is scaled.
    Active,
    /// It is not, because the user says so.
    Off(&'static str),
    /// It is not: a reason for programs, and what to do.
    Refused(&'static str, String),
}

/// One consumer while it is being scaled.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) owner: Owner,
    pub(super) cluster: ClusterKey,
    pub(super) topic: String,
    pub(super) group: String,
    pub(super) target_ref: TargetRef,
    pub(super) policy: Policy,
    pub(super) scaler: Scaler,
    /// The target when it was last read, and when that was.
    pub(super) seen: Option<(Target, Instant)>,
    /// When the target is not read again before, after it could not be.
    pub(super) wait_until: Option<Instant>,
    /// How often in a row it could not be.
    pub(super) refusals: u32,
    /// When it is next to be decided.
    pub(super) due: Instant,
    /// Somebody is deciding right now.
    pub(super) is_busy: bool,
    pub(super) standing: Standing,
    /// Its Queue is being deleted.
    pub(super) is_going: bool,
    pub(super) decision: Option<Decision>,
    /// Since when too little is known.
    pub(super) frozen_since: Option<Instant>,
    pub(super) last_scale: Option<(Time, String)>,
    /// The stream that the last signal came from.
    pub(super) stream: Option<Instant>,
    /// Whether the brokers said how it stands at the last look.
    pub(super) is_known: bool,
    /// Messages that wait for the group, as the brokers last said.
    pub(super) length: u64,
    /// Members of the group at the last look.
    pub(super) members: usize,
    /// Members when the target was last read.
    pub(super) members_then: usize,
    /// What it wants of its target.
    pub(super) vote: Option<Vote>,
    /// What all consumers of the target want together.
    pub(super) together: Option<u32>,
    /// Whether other consumers have the same target.
    pub(super) has_peers: bool,
    /// Whether its group also reads another topic, for another target: then not every member is one of its
    /// own.
    pub(super) is_group_shared: bool,
    /// The stream and the line in it that was last heard.
    pub(super) heard: Option<(Instant, u64)>,
    /// What limits it, as it was last told in an Event.
    pub(super) told: Option<&'static str>,
}

impl Consumer {
    /// Begins with what an earlier operator left in the status.
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
            standing: Standing::New,
            is_going: false,
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
            told: None,
        }
    }

    /// Takes over what the user says now.
    pub(super) fn update(&mut self, queue: &Queue, wanted: &Wanted, target_ref: &TargetRef) {
        let is_hibernating = self.policy.is_hibernating;
        self.policy = Policy { is_hibernating, ..policy(queue, wanted) };
        self.is_going = queue.metadata.deletion_timestamp.is_some();
        if self.target_ref != *target_ref {
            self.target_ref = target_ref.clone();
            self.seen = None;
            self.wait_until = None;
            self.standing = Standing::New;
            self.decision = None;
            self.vote = None;
            self.together = None;
        }
        self.standing = match (&self.standing, switched_off(queue, wanted)) {
            (_, Some(off)) => Standing::Off(off),
            (Standing::Off(_), None) => Standing::New,
            (standing, None) => standing.clone(),
        };
    }

    /// Its target, the same for all versions of an API.
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

    /// Whether what was last read of the target is too old to decide by.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        let Some((target, at)) = self.seen else { return true };
        let age_max = if target.current != target.replicas || self.policy.is_hibernating {
            UNSETTLED_AGE_MAX
        } else if self.members != self.members_then {
            SURPRISE_AGE_MAX
        } else if target.replicas == 0 && self.members > 0 {
            // Somebody may have set it back before a single pod had ended.
            UNSETTLED_AGE_MAX
        } else if target.replicas > 0 {
            SETTLED_AGE_MAX
        } else {
            ZERO_AGE_MAX
        };
        now.saturating_duration_since(at) > age_max
    }

    /// Remembers what was read of the target.
    pub(super) fn saw(&mut self, target: Target, now: Instant) {
        self.seen = Some((target, now));
        self.members_then = self.members;
        self.wait_until = None;
        self.refusals = 0;
    }

    /// The target could not be read: for how long it is left alone. A Deployment is often created a moment after its
    /// Queue, so it is looked for soon, and less and less often; but messages that wait make it urgent.
    pub(super) fn put_off(&mut self, now: Instant) {
        self.refusals = (self.refusals + 1).min(10);
        let longest = if self.length > 0 { REFUSED_URGENT_MAX } else { REFUSED_MAX };
        let pause = Duration::from_secs(1 << self.refusals).min(longest);
        self.wait_until = Some(now + pause);
    }

    /// Whether it was read after `since` and has no more than its minimum.
    pub(super) fn is_at_minimum(&self, since: Instant) -> bool {
        match &self.standing {
            // Nobody will take it there.
            Standing::Off(_) | Standing::Refused(..) => true,
            // Others may keep it up; what they want is what it goes to.
            Standing::New | Standing::Active if self.has_peers => {
                self.seen.is_some_and(|(target, at)| {
                    at >= since && self.together.is_none_or(|wanted| target.replicas <= wanted)
                })
            }
            Standing::New | Standing::Active => self.seen.is_some_and(|(target, at)| {
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

/// The user's spec as the scaling policy takes it.
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
