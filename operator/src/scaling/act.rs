//! One decision about one consumer, from the check for other autoscalers to the write.

use std::time::{Duration, Instant};

use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::EventType;
use ropewalk_operator_api::queue::TargetRef;
use ropewalk_operator_plan::scaling::{Action, Target};

use super::consumer::{Consumer, Key, ScalingState};
use super::target::{ScaleWrite, TargetError};
use super::{Autoscaler, DECISION_INTERVAL_MAX, Entry, overwrites, wall};
use crate::context::EventReason;

/// Maximum age of the list of other autoscalers: usually, after a conflict was found, and right
/// before a write.
const CONFLICTS_AGE_MAX: Duration = Duration::from_secs(60);
const CONFLICT_FOUND_AGE_MAX: Duration = Duration::from_secs(30);
const CONFLICTS_BEFORE_WRITE_AGE_MAX: Duration = Duration::from_secs(10);

/// Reason of a condition: another client reverts the replicas.
const OVERWRITTEN: &str = "ReplicasOverwritten";

/// Where the target of a consumer is.
struct TargetLocation {
    namespace: String,
    target_ref: TargetRef,
}

/// A decided change of the replicas of a target.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) reason: String,
}

impl Autoscaler {
    /// Decides about one consumer and carries the decision out. A failure is retried at the next
    /// decision.
    ///
    /// Requests take seconds when the API server is slow, so every step reads the clock again.
    pub(super) async fn act(&self, key: &Key, entry: &Entry) {
        if let Some(change) = self.decide(key, entry).await {
            self.carry_out(key, entry, change).await;
            // A message may have arrived between the decision and the write. After a write of zero
            // no other check would notice it before the broker repeats the wake-up.
            self.recheck_at_zero(key, entry).await;
        }
        {
            let mut consumer = entry.lock();
            consumer.due = consumer.wait_until.unwrap_or(self.now() + DECISION_INTERVAL_MAX);
            consumer.is_busy = false;
        }
        self.changed(key);
    }

    async fn recheck_at_zero(&self, key: &Key, entry: &Entry) {
        let is_at_zero = {
            let mut consumer = entry.lock();
            let is_at_zero = consumer.seen.is_some_and(|(target, _)| target.replicas == 0);
            if is_at_zero {
                self.observe(&mut consumer, self.now());
            }
            is_at_zero
        };
        if is_at_zero && let Some(change) = self.decide(key, entry).await {
            self.carry_out(key, entry, change).await;
        }
    }

    /// The change to make, if any.
    async fn decide(&self, key: &Key, entry: &Entry) -> Option<Change> {
        let is_off = matches!(entry.lock().state, ScalingState::Off(_));
        if !is_off {
            return self.decide_active(key, entry).await;
        }
        self.observe_only(entry, self.now()).await;
        None
    }

    /// Scaling is disabled by the user: only the status and metrics are updated.
    async fn observe_only(&self, entry: &Entry, now: Instant) {
        let (namespace, target_ref, is_stale) = {
            let consumer = entry.lock();
            let waits = consumer.wait_until.is_some_and(|until| now < until);
            let is_stale = !waits && consumer.is_stale(now);
            (consumer.owner.namespace.clone(), consumer.target_ref.clone(), is_stale)
        };
        let read = if is_stale {
            Some(self.targets.read(&namespace, &target_ref, now).await)
        } else {
            None
        };
        let mut consumer = entry.lock();
        match read {
            Some(Ok(scale)) => consumer.saw(target(&scale), now),
            Some(Err(_)) => {
                consumer.seen = None;
                consumer.put_off(now);
            }
            None => {}
        }
        if let Some((target, _)) = consumer.seen {
            self.take_decision(&mut consumer, target, now);
        }
    }

    async fn decide_active(&self, key: &Key, entry: &Entry) -> Option<Change> {
        let now = self.now();
        let target_key = entry.lock().target_key();
        if let Some(why) = self.overwrites.back_off_reason(&target_key, now) {
            refuse(&mut entry.lock(), OVERWRITTEN, why);
            return None;
        }
        let (namespace, target_ref, is_stale) = {
            let mut consumer = entry.lock();
            if matches!(consumer.state, ScalingState::Refused(OVERWRITTEN, _)) {
                consumer.state = ScalingState::New;
            }
            if consumer.wait_until.is_some_and(|until| now < until) {
                return None;
            }
            (consumer.owner.namespace.clone(), consumer.target_ref.clone(), consumer.is_stale(now))
        };
        let age_max = match entry.lock().state {
            ScalingState::Refused("ConflictingAutoscaler", _) => CONFLICT_FOUND_AGE_MAX,
            ScalingState::Refused(..)
            | ScalingState::New
            | ScalingState::Active
            | ScalingState::Off(_) => CONFLICTS_AGE_MAX.max(self.conflicts.age_min()),
        };
        if !self.is_alone(key, entry, age_max).await {
            return None;
        }
        if is_stale {
            let read = self.targets.read(&namespace, &target_ref, now).await;
            self.saw(entry, read.as_ref())?;
            self.notice_overwrite(key, entry).await?;
        }
        let target = {
            let mut consumer = entry.lock();
            let (target, _) = consumer.seen?;
            self.take_decision(&mut consumer, target, self.now());
            target
        };
        self.agree(entry, target)
    }

    /// Backs off if the count that was just read shows that another client reverts counts; `None`
    /// then.
    async fn notice_overwrite(&self, key: &Key, entry: &Entry) -> Option<()> {
        let (target_key, target_ref, seen) = {
            let consumer = entry.lock();
            (consumer.target_key(), consumer.target_ref.clone(), consumer.seen)
        };
        let (target, _) = seen?;
        if !self.overwrites.saw(&target_key, target.replicas, self.now()) {
            return Some(());
        }
        let namespace = &target_key.namespace;
        let manager = self.targets.manager_of_replicas(namespace, &target_ref, self.now()).await;
        let (kind, name) = (&target_ref.kind, &target_ref.name);
        let message = overwrites::message(kind, name, manager.as_deref());
        tracing::warn!(
            namespace,
            target = name,
            manager,
            "replicas reverted by another client, scaling paused"
        );
        self.overwrites.begin_back_off(&target_key, message.clone(), self.now());
        let queue = {
            let mut consumer = entry.lock();
            refuse(&mut consumer, OVERWRITTEN, message.clone());
            reference(&consumer, key)
        };
        let reason = EventReason { reason: OVERWRITTEN, action: "Scale" };
        self.context.publish_event(&queue, EventType::Warning, reason, message).await;
        None
    }

    pub(super) fn take_decision(&self, consumer: &mut Consumer, target: Target, now: Instant) {
        let at = now.saturating_duration_since(self.origin);
        let policy = consumer.policy.clone();
        let decision = consumer.scaler.propose(at, &policy, target);
        self.metrics.decided(&consumer.owner, &decision);
        match decision.action {
            Action::Frozen { .. } => {
                consumer.frozen_since.get_or_insert(now);
            }
            Action::Keep { .. } | Action::Set { .. } => consumer.frozen_since = None,
        }
        if !matches!(consumer.state, ScalingState::Off(_)) {
            consumer.state = ScalingState::Active;
        }
        consumer.cast(&decision);
        consumer.decision = Some(decision);
    }

    /// Writes a change if the target still has the count that it was decided for.
    async fn carry_out(&self, key: &Key, entry: &Entry, change: Change) {
        let location = {
            let consumer = entry.lock();
            let namespace = consumer.owner.namespace.clone();
            TargetLocation { namespace, target_ref: consumer.target_ref.clone() }
        };
        let outcome = self.write(key, entry, &location, &change).await;
        match outcome {
            Some(Ok(scale)) => {
                self.wrote(entry, &change, &scale);
                let (queue, event) = scaled(&entry.lock(), key, &change);
                let reason = EventReason { reason: "Scaled", action: event.action.as_str() };
                self.context.publish_event(&queue, EventType::Normal, reason, event.note).await;
            }
            Some(Err(error)) => {
                let (namespace, target) = (location.namespace, location.target_ref.name);
                tracing::info!(namespace, target, %error, "target not scaled");
                let mut consumer = entry.lock();
                consumer.seen = None;
                failed(&mut consumer, &error, self.now());
            }
            // The target must not be written, or it has changed.
            None => {}
        }
    }

    /// Informs every consumer of the target about the written count.
    fn wrote(&self, entry: &Entry, change: &Change, scale: &Scale) {
        let now = self.now();
        let at = now.saturating_duration_since(self.origin);
        let target = Target { replicas: change.to, current: target(scale).current };
        self.overwrites.wrote(&entry.lock().target_key(), change.to, now);
        for (key, peer) in self.peers(entry) {
            let mut peer = peer.lock();
            peer.saw(target, now);
            peer.scaler.wrote(at, change.from, change.to);
            peer.vote = None;
            peer.last_scale = Some((wall(), change.reason.clone()));
            drop(peer);
            self.changed(&key);
        }
    }

    /// Writes the count; `None` if it must not be written.
    async fn write(
        &self,
        key: &Key,
        entry: &Entry,
        location: &TargetLocation,
        change: &Change,
    ) -> Option<Result<Scale, TargetError>> {
        if !self.is_alone(key, entry, CONFLICTS_BEFORE_WRITE_AGE_MAX).await {
            return None;
        }
        let TargetLocation { namespace, target_ref } = location;
        let read = self.targets.read(namespace, target_ref, self.now()).await;
        self.saw(entry, read.as_ref())?;
        self.notice_overwrite(key, entry).await?;
        let Ok(scale) = read else { return None };
        if target(&scale).replicas != change.from || self.context.leadership.check().is_err() {
            return None;
        }
        let write = ScaleWrite { read: scale, replicas: change.to };
        Some(self.targets.write(namespace, target_ref, write, self.now()).await)
    }

    /// Whether no other autoscaler scales the target. Otherwise the consumer is refused with a
    /// condition.
    async fn is_alone(&self, key: &Key, entry: &Entry, age_max: Duration) -> bool {
        let (namespace, target_ref) = {
            let consumer = entry.lock();
            (consumer.owner.namespace.clone(), consumer.target_ref.clone())
        };
        let found = self.conflicts.of(&namespace, &target_ref, self.now(), age_max).await;
        let (reason, message) = match found {
            Ok(None) => {
                let mut consumer = entry.lock();
                if matches!(consumer.state, ScalingState::Refused("ConflictingAutoscaler", _)) {
                    consumer.state = ScalingState::New;
                }
                return true;
            }
            Ok(Some(conflict)) => (
                "ConflictingAutoscaler",
                format!(
                    "{conflict} scales {} {}: delete it, or remove `targetRef` from this consumer",
                    target_ref.kind, target_ref.name
                ),
            ),
            Err(kube::Error::Api(status)) if status.code == 403 => (
                "Forbidden",
                format!(
                    "the operator is not allowed to list other autoscalers: {}",
                    status.message
                ),
            ),
            Err(error) => {
                tracing::debug!(%error, namespace, "listing autoscalers failed");
                return false;
            }
        };
        let (is_news, queue) = {
            let mut consumer = entry.lock();
            let is_news = !matches!(consumer.state, ScalingState::Refused(..));
            refuse(&mut consumer, reason, message.clone());
            (is_news, reference(&consumer, key))
        };
        if is_news {
            self.context
                .publish_event(
                    &queue,
                    EventType::Warning,
                    EventReason { reason, action: "Scale" },
                    message,
                )
                .await;
        }
        false
    }

    /// Stores the scale that was read; `None` if the read failed.
    fn saw(&self, entry: &Entry, read: Result<&Scale, &TargetError>) -> Option<()> {
        match read {
            Ok(scale) => {
                self.saw_target(entry, target(scale), self.now());
                Some(())
            }
            Err(error) => {
                failed(&mut entry.lock(), error, self.now());
                None
            }
        }
    }
}

/// The Event of a successful write. Events of the same action within minutes are merged into one
/// with a count, so the action names the consumer and both counts.
struct ScaleEvent {
    action: String,
    note: String,
}

/// The Event of a successful write, and its Queue.
fn scaled(consumer: &Consumer, key: &Key, change: &Change) -> (ObjectReference, ScaleEvent) {
    let (owner, name) = (&consumer.owner, &consumer.target_ref.name);
    tracing::info!(
        namespace = owner.namespace,
        queue = owner.queue,
        consumer = owner.consumer,
        target = name,
        reason = change.reason,
        "target scaled"
    );
    let action = format!("Scale.{}.{}.{}", owner.consumer, change.from, change.to);
    let note =
        format!("{} ({} {name}) {}", owner.consumer, consumer.target_ref.kind, change.reason);
    (reference(consumer, key), ScaleEvent { action, note })
}

/// Records that the target cannot be scaled now.
fn failed(consumer: &mut Consumer, error: &TargetError, now: Instant) {
    tracing::debug!(%error, queue = consumer.owner.queue, "target cannot be scaled");
    if let Some(reason) = error.reason() {
        refuse(consumer, reason, error.to_string());
        consumer.seen = None;
        consumer.put_off(now);
    }
}

fn refuse(consumer: &mut Consumer, reason: &'static str, message: String) {
    consumer.state = ScalingState::Refused(reason, message);
    consumer.decision = None;
    consumer.vote = None;
    consumer.frozen_since = None;
}

fn target(scale: &Scale) -> Target {
    let count = |number: Option<i32>| number.and_then(|number| u32::try_from(number).ok());
    Target {
        // The API server omits a zero.
        replicas: count(scale.spec.as_ref().and_then(|spec| spec.replicas)).unwrap_or(0),
        current: count(scale.status.as_ref().map(|status| status.replicas)).unwrap_or(0),
    }
}

/// Reference to the Queue of a consumer, for an Event.
pub(super) fn reference(consumer: &Consumer, key: &Key) -> ObjectReference {
    ObjectReference {
        api_version: Some("ropewalk.dev/v1alpha1".to_owned()),
        kind: Some("Queue".to_owned()),
        name: Some(consumer.owner.queue.clone()),
        namespace: Some(consumer.owner.namespace.clone()),
        uid: Some(key.queue.clone()),
        ..ObjectReference::default()
    }
}
