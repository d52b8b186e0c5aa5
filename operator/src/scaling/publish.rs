//! Carries what scaling has to say into the status of Queues.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::EventType;
use kube::{Api, Resource as _};
use ropewalk_operator_api::{Queue, QueueStatus};

use super::act::reference;
use super::consumer::Key;
use super::status::{Difference, Pieces};
use super::target::{MANAGER, REQUEST_MAX};
use super::{Autoscaler, wall};
use crate::apply;

/// Figures of one Queue are written no more often than this.
const FIGURES_EVERY: Duration = Duration::from_secs(30);

/// After a write that failed.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// What was last written of a Queue.
#[derive(Debug, Default)]
pub(super) struct Published {
    is_changed: bool,
    /// What was written, until the store shows it.
    pieces: Option<Pieces>,
    at: Option<Instant>,
    not_before: Option<Instant>,
}

/// A status that is to be written.
pub(super) struct Pending {
    queue: ObjectReference,
    uid: String,
    status: QueueStatus,
}

impl Autoscaler {
    /// Something was decided about a consumer of a Queue.
    pub(super) fn changed(&self, key: &Key) {
        self.published.lock().entry(key.queue.clone()).or_default().is_changed = true;
    }

    /// What is to be written at this moment.
    pub(super) fn to_publish(&self, now: Instant) -> Vec<Pending> {
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
            if entries.is_none() && !queue.status.as_ref().is_some_and(Pieces::are_in) {
                return;
            }
            alive.insert(uid.clone());
            let known = published.entry(uid.clone()).or_default();
            let consumers: Vec<_> = entries.into_iter().flatten().collect();
            // Nobody decides about a Queue whose last consumer with a target is gone.
            known.is_changed |= consumers.is_empty();
            if !known.is_changed || known.not_before.is_some_and(|at| now < at) {
                return;
            }
            let consumers: Vec<_> = consumers.iter().map(|(_, entry)| entry.lock()).collect();
            let pieces = match consumers.as_slice() {
                [] => Pieces::none(),
                some => Pieces::of(&some.iter().map(|guard| &**guard).collect::<Vec<_>>(), now),
            };
            drop(consumers);
            if known.pieces.as_ref() == Some(&pieces) {
                known.is_changed = false;
                return;
            }
            let is_late =
                known.at.is_none_or(|at| now.saturating_duration_since(at) >= FIGURES_EVERY);
            match pieces.difference(queue) {
                Difference::None => {
                    known.is_changed = false;
                    return;
                }
                Difference::Figures if !is_late || !self.context.budget.take(now) => return,
                Difference::Figures => {}
                Difference::News if !self.context.budget.admit(now) => return,
                Difference::News => {}
            }
            known.is_changed = false;
            known.at = Some(now);
            known.not_before = Some(now + Duration::from_secs(1));
            let status = pieces.status(queue, &wall());
            known.pieces = Some(pieces);
            pending.push(Pending { queue: queue.object_ref(&()), uid: uid.clone(), status });
        });
        published.retain(|uid, _| alive.contains(uid));
        pending
    }

    /// Writes one status.
    pub(super) async fn publish(&self, pending: Pending) {
        let namespace = pending.queue.namespace.as_deref().unwrap_or_default();
        let name = pending.queue.name.as_deref();
        let api: Api<Queue> = Api::namespaced(self.context.client.clone(), namespace);
        let write = apply::status(&api, MANAGER, &pending.queue, &pending.status);
        let failure = match tokio::time::timeout(REQUEST_MAX, write).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer in time".to_owned()),
        };
        if let Some(failure) = failure {
            tracing::warn!(namespace, queue = name, failure, "a status could not be written");
            if let Some(known) = self.published.lock().get_mut(&pending.uid) {
                known.is_changed = true;
                known.pieces = None;
                known.not_before = Some(Instant::now() + RETRY_AFTER);
            }
            return;
        }
        self.tell_limits(&pending).await;
    }

    /// An Event when something begins to limit a consumer.
    async fn tell_limits(&self, pending: &Pending) {
        let entries: Vec<_> = {
            let consumers = self.consumers.lock();
            let own = consumers.iter().filter(|(key, _)| key.queue == pending.uid);
            own.map(|(key, entry)| (key.clone(), entry.clone())).collect()
        };
        for (key, entry) in entries {
            let told = {
                let mut consumer = entry.lock();
                let decision = consumer.decision.as_ref();
                let limit =
                    decision.and_then(|decision| match (&decision.not_joining, &decision.limit) {
                        (Some(missing), _) => Some(("ConsumersNotJoining", missing.to_string())),
                        (None, Some(limit)) => Some((limit.reason(), limit.to_string())),
                        (None, None) => None,
                    });
                let before =
                    std::mem::replace(&mut consumer.told, limit.as_ref().map(|(why, _)| *why));
                let reference = reference(&consumer, &key);
                let name = consumer.owner.consumer.clone();
                limit.filter(|(why, _)| before != Some(why)).map(|limit| (reference, name, limit))
            };
            if let Some((reference, name, (why, message))) = told {
                let note = format!("consumer {name}: {message}");
                self.context.tell(&reference, EventType::Warning, (why, "Limit"), note).await;
            }
        }
    }
}
