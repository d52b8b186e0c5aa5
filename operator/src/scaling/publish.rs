//! Writes the results of scaling into the status of Queues.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::EventType;
use kube::{Api, Resource as _};
use ropewalk_operator_api::{Queue, QueueStatus};

use super::act::reference;
use super::consumer::Key;
use super::status::{Difference, ScalingStatus};
use super::target::{MANAGER, REQUEST_MAX};
use super::{Autoscaler, wall};
use crate::apply;
use crate::context::EventReason;

/// Minimum interval between writes of metrics of one Queue.
const METRICS_INTERVAL: Duration = Duration::from_secs(30);

/// Wait after a failed write.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// The last status write of a Queue.
#[derive(Debug, Default)]
pub(super) struct PublishState {
    is_changed: bool,
    /// The written status, until the store shows it.
    scaling: Option<ScalingStatus>,
    at: Option<Instant>,
    not_before: Option<Instant>,
}

/// A status write that is to be sent.
pub(super) struct StatusUpdate {
    queue: ObjectReference,
    uid: String,
    status: QueueStatus,
}

impl Autoscaler {
    /// Marks the status of a consumer's Queue as possibly changed.
    pub(super) fn changed(&self, key: &Key) {
        self.published.lock().entry(key.queue.clone()).or_default().is_changed = true;
    }

    /// The statuses that are to be written at `now`, within the budget.
    pub(super) fn to_publish(&self, now: Instant) -> Vec<StatusUpdate> {
        let entries = self.consumers.lock().clone();
        let mut by_queue: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for (key, entry) in entries {
            by_queue.entry(key.queue.clone()).or_default().push((key, entry));
        }
        let mut published = self.published.lock();
        let mut alive = HashSet::new();
        let mut pending = Vec::new();
        (self.queues)(&mut |queue| {
            let Some(uid) = &queue.metadata.uid else { return };
            let entries = by_queue.get(uid);
            if entries.is_none() && !queue.status.as_ref().is_some_and(ScalingStatus::are_in) {
                return;
            }
            alive.insert(uid.clone());
            let known = published.entry(uid.clone()).or_default();
            let consumers: Vec<_> = entries.into_iter().flatten().collect();
            // A Queue whose last consumer with a target is gone has no decisions any more.
            known.is_changed |= consumers.is_empty();
            if !known.is_changed || known.not_before.is_some_and(|at| now < at) {
                return;
            }
            let consumers: Vec<_> = consumers.iter().map(|(_, entry)| entry.lock()).collect();
            let scaling = match consumers.as_slice() {
                [] => ScalingStatus::none(),
                some => {
                    ScalingStatus::of(&some.iter().map(|guard| &**guard).collect::<Vec<_>>(), now)
                }
            };
            drop(consumers);
            if known.scaling.as_ref() == Some(&scaling) {
                known.is_changed = false;
                return;
            }
            let is_late =
                known.at.is_none_or(|at| now.saturating_duration_since(at) >= METRICS_INTERVAL);
            match scaling.difference(queue) {
                Difference::None => {
                    known.is_changed = false;
                    return;
                }
                Difference::Metrics if !is_late || !self.context.budget.take(now) => return,
                Difference::Metrics => {}
                Difference::Significant if !self.context.budget.admit(now) => return,
                Difference::Significant => {}
            }
            known.is_changed = false;
            known.at = Some(now);
            known.not_before = Some(now + Duration::from_secs(1));
            let status = scaling.status(queue, &wall());
            known.scaling = Some(scaling);
            pending.push(StatusUpdate { queue: queue.object_ref(&()), uid: uid.clone(), status });
        });
        published.retain(|uid, _| alive.contains(uid));
        pending
    }

    /// Writes one status, and Events for new limits.
    pub(super) async fn publish(&self, pending: StatusUpdate) {
        let namespace = pending.queue.namespace.as_deref().unwrap_or_default();
        let name = pending.queue.name.as_deref();
        let api: Api<Queue> = Api::namespaced(self.context.client.clone(), namespace);
        let write = apply::status(&api, MANAGER, &pending.queue, &pending.status);
        let failure = match tokio::time::timeout(REQUEST_MAX, write).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer within 5 s".to_owned()),
        };
        if let Some(failure) = failure {
            tracing::warn!(namespace, queue = name, failure, "status not written, will retry");
            if let Some(known) = self.published.lock().get_mut(&pending.uid) {
                known.is_changed = true;
                known.scaling = None;
                known.not_before = Some(Instant::now() + RETRY_AFTER);
            }
            return;
        }
        self.report_limits(&pending).await;
    }

    /// Writes an Event when a limit of a consumer begins.
    async fn report_limits(&self, pending: &StatusUpdate) {
        let entries: Vec<_> = {
            let consumers = self.consumers.lock();
            let own = consumers.iter().filter(|(key, _)| key.queue == pending.uid);
            own.map(|(key, entry)| (key.clone(), entry.clone())).collect()
        };
        for (key, entry) in entries {
            let report = {
                let mut consumer = entry.lock();
                let decision = consumer.decision.as_ref();
                let limit = decision.and_then(|decision| {
                    match (&decision.missing_members, &decision.limit) {
                        (Some(missing), _) => Some(("ConsumersNotJoining", missing.to_string())),
                        (None, Some(limit)) => Some((limit.reason(), limit.to_string())),
                        (None, None) => None,
                    }
                });
                let before = std::mem::replace(
                    &mut consumer.reported_limit,
                    limit.as_ref().map(|(why, _)| *why),
                );
                let reference = reference(&consumer, &key);
                let name = consumer.owner.consumer.clone();
                limit.filter(|(why, _)| before != Some(why)).map(|limit| (reference, name, limit))
            };
            if let Some((reference, name, (why, message))) = report {
                let note = format!("consumer {name}: {message}");
                self.context
                    .publish_event(
                        &reference,
                        EventType::Warning,
                        EventReason { reason: why, action: "Limit" },
                        note,
                    )
                    .await;
            }
        }
    }
}
