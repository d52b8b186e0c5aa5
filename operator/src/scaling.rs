//! Scales the consumers of Queues: passes signals of their groups to the scaling policy and writes
//! `/scale`.
//!
//! Once a second `Autoscaler::tick` passes the signal of every group to its scaler (a pure state
//! machine of `operator/plan`). Consumers whose interval has elapsed, or whose group the broker has
//! woken, are decided in tasks of their own (`Autoscaler::act`), so that a slow API server does
//! not stop the sampling of signals.
//!
//! ```text
//! signals ─▶ tick ─▶ act: conflicts? ─▶ target ─▶ decide ─▶ live read ─▶ write ─▶ Event
//!              └──────────────────────────────────────────────────────▶ status, metrics
//! ```
//!
//! # Scaling to zero and back
//!
//! The policy lets a group go to zero only when no message waits. Right after the zero was written
//! the group is checked again, and is scaled up at once if a message arrived in between. From then
//! on the broker wakes it: when a message arrives, and again every second until there is a member,
//! so that neither a lost wake-up nor an operator restart strands a message.
//!
//! # Invariants
//!
//! - **K1** a consumer whose count is right costs a read of its target every ten minutes, at zero
//!   every half hour, and no write.
//! - **K2** a count is written only by the leader, right after a live read, and only over the
//!   version that was read.
//! - **K3** an unknown signal changes no count.
//! - A target that another autoscaler scales is skipped, and so is one whose count another client
//!   reverts repeatedly (`overwrites`).
//! - A target has one count, also when several consumers share it (`shared`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use ropewalk_operator_api::Queue;
use ropewalk_operator_plan::scaling::Signal;
use tokio::sync::{Semaphore, broadcast, watch};
use tokio::task::JoinSet;

mod samples;
mod vote;
mod consumer;
mod metrics;
mod target;
mod conflicts;
mod shared;
mod overwrites;
mod status;
mod act;
mod publish;

pub use metrics::ScalingMetrics;

use crate::cluster_key::ClusterKey;
use crate::context::Context;
use crate::signals::{GroupSignal, WakeUp};
use crate::supervision;
use conflicts::ConflictingAutoscalers;
use consumer::{Consumer, Key, StreamPosition};
use overwrites::Overwrites;
use publish::PublishState;
use shared::Index;
use target::Targets;

/// Maximum time between two decisions, and status updates, of a consumer that no event makes due.
const DECISION_INTERVAL_MAX: Duration = Duration::from_secs(6);

/// Maximum number of concurrent decisions. Each costs a few requests.
const DECISIONS_AT_ONCE_MAX: usize = 16;

/// Scales the consumers of every watched Queue until `stopping` turns true.
pub async fn run(context: Arc<Context>, stopping: watch::Receiver<bool>) {
    let watched = context.clone();
    let queues: Queues = Arc::new(move |see| {
        for queue in watched.queues() {
            if let Ok(queue) = &queue.0 {
                see(queue);
            }
        }
    });
    let autoscaler = Autoscaler::new(context.clone(), queues, Arc::new(Instant::now));
    context.metrics.extend(|registry| autoscaler.metrics.register(registry));
    Arc::new(autoscaler).keep_up(stopping).await;
}

/// Calls its argument with every watched Queue that can be deserialized.
pub type Queues = Arc<dyn Fn(&mut dyn FnMut(&Queue)) + Send + Sync>;

/// Returns the current monotonic time.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

type Entry = Arc<Mutex<Consumer>>;

/// Scales the consumers of all Queues.
pub struct Autoscaler {
    context: Arc<Context>,
    queues: Queues,
    clock: Clock,
    metrics: ScalingMetrics,
    targets: Targets,
    conflicts: ConflictingAutoscalers,
    /// The zero of the scalers' time.
    origin: Instant,
    consumers: Mutex<BTreeMap<Key, Entry>>,
    index: Mutex<Index>,
    overwrites: Overwrites,
    published: Mutex<HashMap<String, PublishState>>,
}

impl std::fmt::Debug for Autoscaler {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Autoscaler").finish_non_exhaustive()
    }
}

impl Autoscaler {
    /// The state of a process that has just started.
    #[must_use]
    pub fn new(context: Arc<Context>, queues: Queues, clock: Clock) -> Self {
        Self {
            targets: Targets::new(context.client.clone()),
            conflicts: ConflictingAutoscalers::new(context.client.clone()),
            context,
            queues,
            origin: clock(),
            clock,
            metrics: ScalingMetrics::default(),
            consumers: Mutex::default(),
            index: Mutex::default(),
            overwrites: Overwrites::default(),
            published: Mutex::default(),
        }
    }

    /// Runs ticks, decisions and status writes until `stopping` turns true.
    pub async fn keep_up(self: Arc<Self>, mut stopping: watch::Receiver<bool>) {
        let mut wakes = self.context.signals.wakes();
        let slots = Arc::new(Semaphore::new(DECISIONS_AT_ONCE_MAX));
        let mut tasks = JoinSet::new();
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            let due = tokio::select! {
                _ = second.tick() => self.tick(Instant::now()),
                woken = wakes.recv() => match woken {
                    Ok(wake) => self.on_wake_up(&wake, Instant::now()),
                    // Missed wake-ups are repeated within a second.
                    Err(broadcast::error::RecvError::Lagged(_)) => Vec::new(),
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                Some(ended) = tasks.join_next() => {
                    supervision::finished(ended);
                    continue;
                }
                _ = stopping.wait_for(|stopping| *stopping) => break,
            };
            for (key, entry) in due {
                let (all, slots) = (self.clone(), slots.clone());
                tasks.spawn(async move {
                    // The semaphore is closed when the operator stops: pending decisions are
                    // skipped.
                    let Ok(_slot) = slots.acquire().await else { return };
                    all.act(&key, &entry).await;
                });
            }
            for pending in self.to_publish(Instant::now()) {
                let all = self.clone();
                tasks.spawn(async move { all.publish(pending).await });
            }
        }
        // Running decisions complete: each of their requests has a time-out.
        slots.close();
        while let Some(ended) = tasks.join_next().await {
            supervision::finished(ended);
        }
    }

    /// Passes every scaler its signal, and returns the consumers that are due.
    fn tick(&self, now: Instant) -> Vec<(Key, Entry)> {
        self.refresh(now);
        let consumers = self.consumers.lock().clone();
        let mut due = Vec::new();
        for (key, entry) in consumers {
            let is_due = {
                let mut consumer = entry.lock();
                self.observe(&mut consumer, now);
                let is_due = consumer.scaler.has_news() || now >= consumer.due;
                let is_free = !consumer.is_busy;
                consumer.is_busy |= is_due;
                is_due && is_free
            };
            if is_due {
                due.push((key, entry));
            }
        }
        due
    }

    /// Handles a wake-up: the consumers of the group that are at zero are due at once.
    fn on_wake_up(&self, wake: &WakeUp, now: Instant) -> Vec<(Key, Entry)> {
        let keys = self.index.lock().of_group(&wake.cluster, &wake.topic, &wake.group);
        let entries: Vec<(Key, Entry)> = {
            let consumers = self.consumers.lock();
            let found = |key: Key| consumers.get(&key).map(|entry| (key.clone(), entry.clone()));
            keys.into_iter().filter_map(found).collect()
        };
        let mut due = Vec::new();
        for (key, entry) in entries {
            let mut consumer = entry.lock();
            // A consumer with replicas is already starting.
            if consumer.seen.is_some_and(|(target, _)| target.replicas > 0) {
                continue;
            }
            // A decision in progress may still use this signal. If it is past that point, the
            // broker repeats the wake-up within a second.
            self.observe(&mut consumer, now);
            if !std::mem::replace(&mut consumer.is_busy, true) {
                drop(consumer);
                due.push((key, entry));
            }
        }
        due
    }

    /// Passes the current signal of a consumer's group to its scaler, if it is new.
    fn observe(&self, consumer: &mut Consumer, now: Instant) {
        let reading =
            self.context.signals.read(&consumer.cluster, &consumer.topic, &consumer.group, now);
        consumer.is_known = matches!(reading, GroupSignal::Known(_));
        let mut at = now.saturating_duration_since(self.origin);
        if let GroupSignal::Known(known) = &reading {
            let line = Some(StreamPosition { since: known.since, line: known.line });
            if consumer.heard == line {
                // The broker has sent nothing since, and an old signal is not sampled twice.
                return;
            }
            consumer.heard = line;
            at = known.heard_at.saturating_duration_since(self.origin);
            consumer.members = known.state.members.len();
            consumer.length = known.state.length;
            let before = consumer.stream.replace(known.since);
            if before.is_some_and(|before| before != known.since) {
                // The stream was reopened between two ticks: there is a gap in the signals.
                let gap = "the signal stream was reopened".to_owned();
                consumer.scaler.observe(at, Signal::Unknown(gap));
            }
        }
        let signal = samples::signal(&reading, consumer.is_group_shared);
        consumer.scaler.observe(at, signal);
    }

    /// Updates the consumers from the specs of the Queues.
    fn refresh(&self, now: Instant) {
        let mut consumers = self.consumers.lock();
        let mut present = HashSet::new();
        (self.queues)(&mut |queue| {
            let Some(uid) = &queue.metadata.uid else { return };
            for wanted in &queue.spec.consumers {
                let Some(target_ref) = &wanted.target_ref else { continue };
                let key = Key { queue: uid.clone(), consumer: wanted.name.clone() };
                let entry = consumers.entry(key.clone()).or_insert_with(|| {
                    Arc::new(Mutex::new(Consumer::new(queue, wanted, target_ref, now)))
                });
                let mut consumer = entry.lock();
                consumer.update(queue, wanted, target_ref);
                let is_hibernating = self.context.hibernations.since(&consumer.cluster).is_some();
                if is_hibernating && !consumer.policy.is_hibernating {
                    // The hibernation waits for a fresh read of the target.
                    consumer.seen = None;
                    consumer.due = now;
                }
                consumer.policy.is_hibernating = is_hibernating;
                present.insert(key);
            }
        });
        consumers.retain(|key, entry| {
            let stays = present.contains(key);
            if !stays {
                self.metrics.discard(&entry.lock().owner);
            }
            stays
        });
        drop(consumers);
        self.arrange();
    }

    /// Updates the index of groups and targets that consumers share.
    fn arrange(&self) {
        let consumers = self.consumers.lock();
        let mut all: Vec<_> =
            consumers.iter().map(|(key, entry)| (key.clone(), entry.lock())).collect();
        self.report_hibernation(&all);
        let index = Index::of(&mut all);
        drop(all);
        drop(consumers);
        *self.index.lock() = index;
    }

    /// The current time of the injected clock.
    fn now(&self) -> Instant {
        (self.clock)()
    }

    /// Reports the consumers of clusters that are to hibernate and that are above their minimum, as
    /// `queue/consumer`.
    fn report_hibernation(&self, consumers: &[(Key, parking_lot::MutexGuard<'_, Consumer>)]) {
        let mut still_up: HashMap<ClusterKey, Vec<String>> = HashMap::new();
        for (_, consumer) in consumers {
            let Some(since) = self.context.hibernations.since(&consumer.cluster) else { continue };
            if !consumer.is_at_minimum(since) {
                let name = format!("{}/{}", consumer.owner.queue, consumer.owner.consumer);
                still_up.entry(consumer.cluster.clone()).or_default().push(name);
            }
        }
        self.context.hibernations.report_consumers(&still_up);
    }
}

/// The wall-clock time, for statuses.
fn wall() -> Time {
    Time(Timestamp::now())
}

#[cfg(test)]
mod tests;
