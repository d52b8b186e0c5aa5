//! One decision about one consumer, from the question who else scales it to the write.

use std::time::{Duration, Instant};

use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::EventType;
use ropewalk_operator_api::queue::TargetRef;
use ropewalk_operator_plan::scaling::{Action, Target};

use super::consumer::{Consumer, Key, Standing};
use super::target::TargetError;
use super::{Autoscaler, DECIDED_EVERY, Entry, overwrites, wall};

/// Other autoscalers are looked for this often; more often once one was found, and right before a write.
const CONFLICTS_AGE_MAX: Duration = Duration::from_secs(60);
const CONFLICT_FOUND_AGE_MAX: Duration = Duration::from_secs(30);
const CONFLICTS_BEFORE_WRITE_AGE_MAX: Duration = Duration::from_secs(10);

/// The reason of a condition: somebody sets counts back.
const OVERWRITTEN: &str = "ReplicasOverwritten";

/// A change of a count that was decided.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) reason: String,
}

impl Autoscaler {
    /// Decides about one consumer and carries it out. Whatever fails is tried again at the next look.
    ///
    /// Requests take seconds when the API server is slow, so every step asks what time it is.
    pub(super) async fn act(&self, key: &Key, entry: &Entry) {
        if let Some(change) = self.decide(key, entry).await {
            self.carry_out(key, entry, change).await;
            // Something may have come between the decision and the write; after a zero nobody else would notice
            // before the broker repeats it.
            self.look_again(key, entry).await;
        }
        {
            let mut consumer = entry.lock();
            consumer.due = consumer.wait_until.unwrap_or(self.now() + DECIDED_EVERY);
            consumer.is_busy = false;
        }
        self.changed(key);
    }

    async fn look_again(&self, key: &Key, entry: &Entry) {
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

    /// What is to be changed, if anything is.
    async fn decide(&self, key: &Key, entry: &Entry) -> Option<Change> {
        let is_off = matches!(entry.lock().standing, Standing::Off(_));
        if !is_off {
            return self.decide_active(key, entry).await;
        }
        self.look_on(entry, self.now()).await;
        None
    }

    /// The user wants no scaling: only the figures are kept.
    async fn look_on(&self, entry: &Entry, now: Instant) {
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
        if let Some(why) = self.overwrites.stands_back(&target_key, now) {
            refuse(&mut entry.lock(), OVERWRITTEN, why);
            return None;
        }
        let (namespace, target_ref, is_stale) = {
            let mut consumer = entry.lock();
            if matches!(consumer.standing, Standing::Refused(OVERWRITTEN, _)) {
                consumer.standing = Standing::New;
            }
            if consumer.wait_until.is_some_and(|until| now < until) {
                return None;
            }
            (consumer.owner.namespace.clone(), consumer.target_ref.clone(), consumer.is_stale(now))
        };
        let age_max = match entry.lock().standing {
            Standing::Refused("ConflictingAutoscaler", _) => CONFLICT_FOUND_AGE_MAX,
            Standing::Refused(..) | Standing::New | Standing::Active | Standing::Off(_) => {
                CONFLICTS_AGE_MAX.max(self.conflicts.a_second_each())
            }
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

    /// Stands back if what was just read says that somebody sets counts back; `None` then.
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
        tracing::warn!(namespace, target = name, manager, "replicas are set back, scaling pauses");
        self.overwrites.stand_back(&target_key, message.clone(), self.now());
        let queue = {
            let mut consumer = entry.lock();
            refuse(&mut consumer, OVERWRITTEN, message.clone());
            reference(&consumer, key)
        };
        let words = (OVERWRITTEN, "Scale");
        self.context.tell(&queue, EventType::Warning, words, message).await;
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
        if !matches!(consumer.standing, Standing::Off(_)) {
            consumer.standing = Standing::Active;
        }
        consumer.cast(&decision);
        consumer.decision = Some(decision);
    }

    /// Writes what was decided, if the target is still what it was decided for.
    async fn carry_out(&self, key: &Key, entry: &Entry, change: Change) {
        let (namespace, target_ref) = {
            let consumer = entry.lock();
            (consumer.owner.namespace.clone(), consumer.target_ref.clone())
        };
        let outcome = self.write(key, entry, (&namespace, &target_ref, &change)).await;
        match outcome {
            Some(Ok(scale)) => {
                self.wrote(entry, &change, &scale);
                let (queue, event) = scaled(&entry.lock(), key, &change);
                let words = ("Scaled", event.action.as_str());
                self.context.tell(&queue, EventType::Normal, words, event.note).await;
            }
            Some(Err(error)) => {
                tracing::info!(namespace, target = target_ref.name, %error, "not scaled");
                let mut consumer = entry.lock();
                consumer.seen = None;
                failed(&mut consumer, &error, self.now());
            }
            // Not ours to write, or no longer what it was.
            None => {}
        }
    }

    /// Every consumer of the target learns that its count was changed.
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

    /// `None` if it must not be written.
    async fn write(
        &self,
        key: &Key,
        entry: &Entry,
        (namespace, target_ref, change): (&str, &TargetRef, &Change),
    ) -> Option<Result<Scale, TargetError>> {
        if !self.is_alone(key, entry, CONFLICTS_BEFORE_WRITE_AGE_MAX).await {
            return None;
        }
        let read = self.targets.read(namespace, target_ref, self.now()).await;
        self.saw(entry, read.as_ref())?;
        self.notice_overwrite(key, entry).await?;
        let Ok(scale) = read else { return None };
        if target(&scale).replicas != change.from || self.context.leadership.check().is_err() {
            return None;
        }
        Some(self.targets.write(namespace, target_ref, (scale, change.to), self.now()).await)
    }

    /// Whether nothing else scales the target.
    async fn is_alone(&self, key: &Key, entry: &Entry, age_max: Duration) -> bool {
        let (namespace, target_ref) = {
            let consumer = entry.lock();
            (consumer.owner.namespace.clone(), consumer.target_ref.clone())
        };
        let found = self.conflicts.of(&namespace, &target_ref, self.now(), age_max).await;
        let (reason, message) = match found {
            Ok(None) => {
                let mut consumer = entry.lock();
                if matches!(consumer.standing, Standing::Refused("ConflictingAutoscaler", _)) {
                    consumer.standing = Standing::New;
                }
                return true;
            }
            Ok(Some(conflict)) => (
                "ConflictingAutoscaler",
                format!(
                    "{conflict} scales {} {}: delete it, or take `targetRef` out of this consumer",
                    target_ref.kind, target_ref.name
                ),
            ),
            Err(kube::Error::Api(status)) if status.code == 403 => (
                "Forbidden",
                format!(
                    "the operator may not see whether something else scales it: {}",
                    status.message
                ),
            ),
            Err(error) => {
                tracing::debug!(%error, namespace, "autoscalers cannot be listed");
                return false;
            }
        };
        let (is_news, queue) = {
            let mut consumer = entry.lock();
            let is_news = !matches!(consumer.standing, Standing::Refused(..));
            refuse(&mut consumer, reason, message.clone());
            (is_news, reference(&consumer, key))
        };
        if is_news {
            self.context.tell(&queue, EventType::Warning, (reason, "Scale"), message).await;
        }
        false
    }

    /// Remembers what was read of the target; `None` if it could not be.
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

/// The Event of a write that succeeded. Events of the same action within minutes become one Event with a
/// count, so the action names the consumer and both counts.
struct ScaleEvent {
    action: String,
    note: String,
}

/// The Event about a write that succeeded, and its Queue.
fn scaled(consumer: &Consumer, key: &Key, change: &Change) -> (ObjectReference, ScaleEvent) {
    let (owner, name) = (&consumer.owner, &consumer.target_ref.name);
    tracing::info!(
        namespace = owner.namespace,
        queue = owner.queue,
        consumer = owner.consumer,
        target = name,
        reason = change.reason,
        "scaled"
    );
    let action = format!("Scale.{}.{}.{}", owner.consumer, change.from, change.to);
    let note =
        format!("{} ({} {name}) {}", owner.consumer, consumer.target_ref.kind, change.reason);
    (reference(consumer, key), ScaleEvent { action, note })
}

/// The target cannot be scaled now.
fn failed(consumer: &mut Consumer, error: &TargetError, now: Instant) {
    tracing::debug!(%error, queue = consumer.owner.queue, "the target cannot be scaled");
    if let Some(reason) = error.reason() {
        refuse(consumer, reason, error.to_string());
        consumer.seen = None;
        consumer.put_off(now);
    }
}

fn refuse(consumer: &mut Consumer, reason: &'static str, message: String) {
    consumer.standing = Standing::Refused(reason, message);
    consumer.decision = None;
    consumer.vote = None;
    consumer.frozen_since = None;
}

fn target(scale: &Scale) -> Target {
    let count = |number: Option<i32>| number.and_then(|number| u32::try_from(number).ok());
    Target {
        // The API server leaves a zero out.
        replicas: count(scale.spec.as_ref().and_then(|spec| spec.replicas)).unwrap_or(0),
        current: count(scale.status.as_ref().map(|status| status.replicas)).unwrap_or(0),
    }
}

/// The Queue of a consumer, for an Event.
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
