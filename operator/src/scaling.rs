//! Scales the consumers of Queues: watches their groups, asks the scaling policy, writes `/scale`.
//!
//! # Place in the walk
//!
//! Once a second [`Autoscaler::look`] gives the signal of every group to its scaler (a pure state machine of
//! `operator/plan`). Whose interval has ended, or who is woken by the broker, is decided in a task of its own
//! ([`Autoscaler::act`]), so that a slow API server keeps nobody from being watched.
//!
//! ```text
//! signals ─▶ look ─▶ act: who else scales it? ─▶ target ─▶ decide ─▶ live read ─▶ write /scale ─▶ Event
//!             └───────────────────────────────────────────────────────────────▶ status, metrics
//! ```
//!
//! # Zero and back
//!
//! The policy lets a group go to zero only when nothing waits. Right after the zero was written the group is looked at again,
//! and comes back at once if something arrived in between. From then on the broker wakes it: when a message comes, and again
//! every second until a member is there, so neither a lost wake-up nor an operator that was away strands a message.
//!
//! # Invariants
//!
//! - **K1** a consumer whose count is right costs a read of its target every ten minutes, at zero every half hour, and no
//!   write.
//! - **K2** a count is written only by the leader, right after a live read, over just the version that was read; never over
//!   one that somebody else changed.
//! - **K3** what is not known changes no count.
//! - An object that something else scales is left alone, and so is one whose count somebody sets back again
//!   and again ([`overwrites`]).
//! - One target has one count, also when several consumers name it ([`shared`]).

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
use crate::signals::{Reading, WakeUp};
use crate::supervision;
use conflicts::ConflictingAutoscalers;
use consumer::{Consumer, Key};
use overwrites::Overwrites;
use publish::Published;
use shared::Index;
use target::Targets;

/// A consumer of which nothing is known is decided, and its status renewed, at least this often.
const DECIDED_EVERY: Duration = Duration::from_secs(6);

/// Consumers that are decided at once. Each costs a few requests.
const DECIDED_AT_ONCE: usize = 16;

/// Scales the consumers of every Queue that is watched, until `stopping` turns true.
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

/// Calls its argument with every Queue that is watched and can be read.
pub type Queues = Arc<dyn Fn(&mut dyn FnMut(&Queue)) + Send + Sync>;

/// Returns the current time.
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
    /// Where the scalers' time begins.
    origin: Instant,
    consumers: Mutex<BTreeMap<Key, Entry>>,
    index: Mutex<Index>,
    overwrites: Overwrites,
    published: Mutex<HashMap<String, Published>>,
}

impl std::fmt::Debug for Autoscaler {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Autoscaler").finish_non_exhaustive()
    }
}

impl Autoscaler {
    /// Of a process that has just begun.
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

    /// Scales until `stopping` turns true.
    pub async fn keep_up(self: Arc<Self>, mut stopping: watch::Receiver<bool>) {
        let mut wakes = self.context.signals.wakes();
        let slots = Arc::new(Semaphore::new(DECIDED_AT_ONCE));
        let mut tasks = JoinSet::new();
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            let due = tokio::select! {
                _ = second.tick() => self.look(Instant::now()),
                woken = wakes.recv() => match woken {
                    Ok(wake) => self.woken(&wake, Instant::now()),
                    // Those that were missed are repeated within a second.
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
                    // Closed when the operator stops: what has not begun need not.
                    let Ok(_slot) = slots.acquire().await else { return };
                    all.act(&key, &entry).await;
                });
            }
            for pending in self.to_publish(Instant::now()) {
                let all = self.clone();
                tasks.spawn(async move { all.publish(pending).await });
            }
        }
        // What has begun ends: each of its requests has a time-out.
        slots.close();
        while let Some(ended) = tasks.join_next().await {
            supervision::finished(ended);
        }
    }

    /// Gives every scaler its signal; who is to be decided now.
    fn look(&self, now: Instant) -> Vec<(Key, Entry)> {
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

    /// A group without members has something to do: its consumers are decided at once.
    fn woken(&self, wake: &WakeUp, now: Instant) -> Vec<(Key, Entry)> {
        let keys = self.index.lock().of_group(&wake.cluster, &wake.topic, &wake.group);
        let entries: Vec<(Key, Entry)> = {
            let consumers = self.consumers.lock();
            let found = |key: Key| consumers.get(&key).map(|entry| (key.clone(), entry.clone()));
            keys.into_iter().filter_map(found).collect()
        };
        let mut due = Vec::new();
        for (key, entry) in entries {
            let mut consumer = entry.lock();
            // One that has replicas is on its way.
            if consumer.seen.is_some_and(|(target, _)| target.replicas > 0) {
                continue;
            }
            // A decision that is under way takes this into account. One that has already weighed what it
            // knew does not: the broker repeats the wake-up within a second.
            self.observe(&mut consumer, now);
            if !std::mem::replace(&mut consumer.is_busy, true) {
                drop(consumer);
                due.push((key, entry));
            }
        }
        due
    }

    /// The signal of this moment.
    fn observe(&self, consumer: &mut Consumer, now: Instant) {
        let reading =
            self.context.signals.read(&consumer.cluster, &consumer.topic, &consumer.group, now);
        consumer.is_known = matches!(reading, Reading::Known(_));
        let mut at = now.saturating_duration_since(self.origin);
        if let Reading::Known(known) = &reading {
            let line = Some((known.since, known.line));
            if consumer.heard == line {
                // The broker has said nothing since: no news is no sample.
                return;
            }
            consumer.heard = line;
            at = known.heard_at.saturating_duration_since(self.origin);
            consumer.members = known.state.members.len();
            consumer.length = known.state.length;
            let before = consumer.stream.replace(known.since);
            if before.is_some_and(|before| before != known.since) {
                // A stream ended and another began between two looks: there is a gap in what is known.
                let gap = "the stream of signals has begun anew".to_owned();
                consumer.scaler.observe(at, Signal::Unknown(gap));
            }
        }
        let signal = samples::signal(&reading, consumer.is_group_shared);
        consumer.scaler.observe(at, signal);
    }

    /// Takes over what users want now.
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
                let sleeps = self.context.hibernations.since(&consumer.cluster).is_some();
                if sleeps && !consumer.policy.is_hibernating {
                    // Whoever waits for it wants to know what is, not what was.
                    consumer.seen = None;
                    consumer.due = now;
                }
                consumer.policy.is_hibernating = sleeps;
                present.insert(key);
            }
        });
        consumers.retain(|key, entry| {
            let stays = present.contains(key);
            if !stays {
                self.metrics.forget(&entry.lock().owner);
            }
            stays
        });
        drop(consumers);
        self.arrange();
    }

    /// Looks at all consumers together: who shares a group or a target with whom.
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

    /// What time it is.
    fn now(&self) -> Instant {
        (self.clock)()
    }

    /// Consumers of clusters that are to sleep that have not yet gone to their minimum, as `queue/consumer`.
    fn report_hibernation(&self, consumers: &[(Key, parking_lot::MutexGuard<'_, Consumer>)]) {
        let mut still_up: HashMap<ClusterKey, Vec<String>> = HashMap::new();
        for (_, consumer) in consumers {
            let Some(since) = self.context.hibernations.since(&consumer.cluster) else { continue };
            if !consumer.is_at_minimum(since) {
                let name = format!("{}/{}", consumer.owner.queue, consumer.owner.consumer);
                still_up.entry(consumer.cluster.clone()).or_default().push(name);
            }
        }
        self.context.hibernations.looked(&still_up);
    }
}

/// The time for people.
fn wall() -> Time {
    Time(Timestamp::now())
}

#[cfg(test)]
mod tests;
