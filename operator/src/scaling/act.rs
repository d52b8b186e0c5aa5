//! One decision about one consumer, from the question who else scales it to the write.

use std::time::{Duration, Instant};

use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType};
use ropewalk_operator_api::queue::TargetRef;
use ropewalk_operator_plan::scaling::{Action, Decision, Target};

use super::consumer::{Consumer, Key, Standing};
use super::target::TargetError;
use super::{Autoscaler, DECIDED_EVERY, Entry, event, wall};

/// Other autoscalers are looked for this often; more often once one was found, and right before a write.
const RIVALS_AGE_MAX: Duration = Duration::from_secs(60);
const RIVAL_FOUND_AGE_MAX: Duration = Duration::from_secs(30);
const RIVALS_BEFORE_WRITE_AGE_MAX: Duration = Duration::from_secs(10);

/// A change of a count that was decided.
struct Change {
    from: u32,
    to: u32,
    reason: String,
}

impl Autoscaler {
    /// Decides about one consumer and carries it out. Whatever fails is tried again at the next look.
    pub(super) async fn act(&self, key: &Key, entry: &Entry, now: Instant) {
        if let Some(change) = self.decide(key, entry, now).await {
            self.carry_out(key, entry, change, now).await;
            // Something may have come between the decision and the write; after a zero nobody else would notice
            // before the broker repeats it.
            self.look_again(key, entry, now).await;
        }
        let again = {
            let mut consumer = entry.lock();
            consumer.due = consumer.wait_until.unwrap_or(now + DECIDED_EVERY);
            std::mem::take(&mut consumer.is_woken)
        };
        if again {
            self.look_again(key, entry, now).await;
        }
        entry.lock().is_busy = false;
        self.changed(key);
    }

    async fn look_again(&self, key: &Key, entry: &Entry, now: Instant) {
        let is_at_zero = {
            let mut consumer = entry.lock();
            let is_at_zero = consumer.seen.is_some_and(|(target, _)| target.replicas == 0);
            if is_at_zero {
                self.observe(&mut consumer, now);
            }
            is_at_zero
        };
        if is_at_zero && let Some(change) = self.decide(key, entry, now).await {
            self.carry_out(key, entry, change, now).await;
        }
    }

    /// What is to be changed, if anything is.
    async fn decide(&self, key: &Key, entry: &Entry, now: Instant) -> Option<Change> {
        let is_off = matches!(entry.lock().standing, Standing::Off(_));
        if !is_off {
            return self.decide_active(key, entry, now).await;
        }
        self.look_on(entry, now).await;
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

    async fn decide_active(&self, key: &Key, entry: &Entry, now: Instant) -> Option<Change> {
        let (namespace, target_ref, is_stale) = {
            let mut consumer = entry.lock();
            if let Some(rival) = consumer.rival_here.clone() {
                refuse(
                    &mut consumer,
                    "ConflictingAutoscaler",
                    format!("{rival} scales it already: leave it to one of them"),
                );
                return None;
            }
            if consumer.wait_until.is_some_and(|until| now < until) {
                return None;
            }
            (consumer.owner.namespace.clone(), consumer.target_ref.clone(), consumer.is_stale(now))
        };
        let age_max = match entry.lock().standing {
            Standing::Refused("ConflictingAutoscaler", _) => RIVAL_FOUND_AGE_MAX,
            Standing::Refused(..) | Standing::New | Standing::Active | Standing::Off(_) => {
                RIVALS_AGE_MAX.max(self.rivals.a_second_each())
            }
        };
        if !self.is_alone(key, entry, now, age_max).await {
            return None;
        }
        if is_stale {
            let read = self.targets.read(&namespace, &target_ref, now).await;
            self.saw(entry, read.as_ref(), now)?;
        }
        let mut consumer = entry.lock();
        let (target, _) = consumer.seen?;
        match self.take_decision(&mut consumer, target, now).action {
            Action::Set { from, to, reason } => Some(Change { from, to, reason }),
            Action::Keep { .. } | Action::Frozen { .. } => None,
        }
    }

    fn take_decision(&self, consumer: &mut Consumer, target: Target, now: Instant) -> Decision {
        let at = now.saturating_duration_since(self.origin);
        let policy = consumer.policy.clone();
        let decision = consumer.scaler.decide(at, &policy, target);
        self.around.meters.decided(&consumer.owner, &decision);
        match decision.action {
            Action::Frozen { .. } => {
                consumer.frozen_since.get_or_insert(now);
            }
            Action::Keep { .. } | Action::Set { .. } => consumer.frozen_since = None,
        }
        if !matches!(consumer.standing, Standing::Off(_)) {
            consumer.standing = Standing::Active;
        }
        consumer.decision = Some(decision.clone());
        decision
    }

    /// Writes what was decided, if the target is still what it was decided for.
    async fn carry_out(&self, key: &Key, entry: &Entry, change: Change, now: Instant) {
        let (namespace, target_ref) = {
            let consumer = entry.lock();
            (consumer.owner.namespace.clone(), consumer.target_ref.clone())
        };
        let outcome = self.write(key, entry, (&namespace, &target_ref, &change), now).await;
        match outcome {
            Some(Ok(scale)) => {
                let (queue, told) = scaled(&mut entry.lock(), key, &change, (&scale, now));
                self.tell(&queue, told).await;
            }
            Some(Err(error)) => {
                tracing::info!(namespace, target = target_ref.name, %error, "not scaled");
                let mut consumer = entry.lock();
                consumer.seen = None;
                failed(&mut consumer, &error, now);
            }
            // Not ours to write, or no longer what it was.
            None => {}
        }
    }

    /// `None` if it must not be written.
    async fn write(
        &self,
        key: &Key,
        entry: &Entry,
        (namespace, target_ref, change): (&str, &TargetRef, &Change),
        now: Instant,
    ) -> Option<Result<Scale, TargetError>> {
        if !self.is_alone(key, entry, now, RIVALS_BEFORE_WRITE_AGE_MAX).await {
            return None;
        }
        let read = self.targets.read(namespace, target_ref, now).await;
        self.saw(entry, read.as_ref(), now)?;
        let Ok(scale) = read else { return None };
        if target(&scale).replicas != change.from || self.around.leadership.check().is_err() {
            return None;
        }
        Some(self.targets.write(namespace, target_ref, (scale, change.to), now).await)
    }

    /// Whether nothing else scales the target.
    async fn is_alone(&self, key: &Key, entry: &Entry, now: Instant, age_max: Duration) -> bool {
        let (namespace, target_ref) = {
            let consumer = entry.lock();
            (consumer.owner.namespace.clone(), consumer.target_ref.clone())
        };
        let found = self.rivals.of(&namespace, &target_ref, now, age_max).await;
        let (reason, message) = match found {
            Ok(None) => {
                let mut consumer = entry.lock();
                if matches!(consumer.standing, Standing::Refused("ConflictingAutoscaler", _)) {
                    consumer.standing = Standing::New;
                }
                return true;
            }
            Ok(Some(rival)) => (
                "ConflictingAutoscaler",
                format!(
                    "{rival} scales {} {}: delete it, or take `targetRef` out of this consumer",
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
            let told = event(EventType::Warning, (reason, "Scale".to_owned()), message);
            self.tell(&queue, told).await;
        }
        false
    }

    /// Remembers what was read of the target; `None` if it could not be.
    fn saw(&self, entry: &Entry, read: Result<&Scale, &TargetError>, now: Instant) -> Option<()> {
        let mut consumer = entry.lock();
        match read {
            Ok(scale) => {
                consumer.saw(target(scale), now);
                Some(())
            }
            Err(error) => {
                failed(&mut consumer, error, now);
                None
            }
        }
    }
}

/// Remembers a write that succeeded; what is told about it, and of which Queue.
fn scaled(
    consumer: &mut Consumer,
    key: &Key,
    change: &Change,
    (scale, now): (&Scale, Instant),
) -> (ObjectReference, Event) {
    let target = Target { replicas: change.to, current: target(scale).current };
    consumer.saw(target, now);
    consumer.last_scale = Some((wall(), change.reason.clone()));
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
    (reference(consumer, key), event(EventType::Normal, ("Scaled", action), note))
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
