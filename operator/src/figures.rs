//! The figures in the status of Queues: asked of the brokers every ten seconds, written on change, at
//! most every 30 s for each Queue, and five a second over all of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::ResourceExt as _;
use kube::api::Api;
use ropewalk_operator_api::{Queue, QueueStatus};
use ropewalk_operator_plan::figures::{self, Report};
use ropewalk_operator_plan::intent;
use tokio::sync::watch;

use crate::admin::Target;
use crate::apply;
use crate::context::Context;
use crate::queue::key;
use crate::signals::ClusterKey;
use crate::watch::Guarded;

/// The field manager of the figures.
const MANAGER: &str = "ropewalk-operator/figures";
/// How often brokers are asked.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// How often what waits is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What waits to be written, and when each Queue was written last, by uid.
#[derive(Debug, Default)]
struct Desk {
    waiting: HashMap<String, (Queue, QueueStatus)>,
    written: HashMap<String, Instant>,
}

/// Runs until `stopping` turns true.
pub async fn run(context: Arc<Context>, mut stopping: watch::Receiver<bool>) {
    let mut desk = Desk::default();
    let mut asked: Option<Instant> = None;
    loop {
        if asked.is_none_or(|asked| asked.elapsed() >= ASK_EVERY) {
            asked = Some(Instant::now());
            ask(&context, &mut desk).await;
        }
        write(&context, &mut desk).await;
        context.metrics.status_waiting(desk.waiting.len());
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// Asks every cluster, and puts on the desk what has changed.
async fn ask(context: &Context, desk: &mut Desk) {
    let mut by_cluster: BTreeMap<ClusterKey, Vec<Arc<Guarded<Queue>>>> = BTreeMap::new();
    for queue in context.queues() {
        if let Ok(readable) = &queue.0 {
            by_cluster.entry(key(readable)).or_default().push(queue.clone());
        }
    }
    let alive: Vec<String> =
        by_cluster.values().flatten().filter_map(|queue| queue.uid()).collect();
    let alive: std::collections::HashSet<&String> = alive.iter().collect();
    desk.written.retain(|uid, _| alive.contains(uid));
    desk.waiting.retain(|uid, _| alive.contains(uid));
    for (key, queues) in by_cluster {
        let Some(cluster) = context.cluster(&key) else { continue };
        if cluster.status.as_ref().is_none_or(|status| status.ready_replicas == 0) {
            continue;
        }
        match context.brokers.ask::<Report>(&Target::of(&cluster), "/v1/queues").await {
            Ok(report) => lay_out(desk, &queues, &report),
            Err(error) => tracing::debug!(%error, cluster = %key, "no figures"),
        }
    }
}

fn lay_out(desk: &mut Desk, queues: &[Arc<Guarded<Queue>>], report: &Report) {
    let by_name: HashMap<&str, _> =
        report.queues.iter().map(|measured| (measured.name.as_str(), measured)).collect();
    for queue in queues {
        let Ok(queue) = &queue.0 else { continue };
        let Some(measured) = by_name.get(queue.topic()) else { continue };
        // Only what this Queue declared: a topic of that name may be somebody else's.
        let status = queue.status.as_ref();
        if status.and_then(|status| status.topic_id.as_deref()) != Some(measured.id.as_str()) {
            continue;
        }
        let Some(uid) = queue.uid() else { continue };
        let figures = figures::status(queue, measured);
        if shows(status, &figures) {
            desk.waiting.remove(&uid);
        } else {
            desk.waiting.insert(uid, (queue.clone(), figures));
        }
    }
}

/// Whether a status shows these figures already.
fn shows(status: Option<&QueueStatus>, figures: &QueueStatus) -> bool {
    let Some(status) = status else { return false };
    let consumers = figures.consumers.iter().all(|wanted| {
        let there = status.consumers.iter().find(|there| there.name == wanted.name);
        there.is_some_and(|there| {
            let there = serde_json::to_value(there).unwrap_or_default();
            intent::holds(&there, &serde_json::to_value(wanted).unwrap_or_default())
                && there.get("timeToDrainSeconds").is_some()
                    == wanted.time_to_drain_seconds.is_some()
        })
    });
    consumers
        && status.length == figures.length
        && status.delay_p50_ms == figures.delay_p50_ms
        && status.delay == figures.delay
        && status.oldest_age_seconds == figures.oldest_age_seconds
        && status.arrivals_per_second_milli == figures.arrivals_per_second_milli
        && status.throughput == figures.throughput
        && status.time_to_drain_seconds == figures.time_to_drain_seconds
}

/// Writes what is due, the longest waiting first, as far as the budget goes.
async fn write(context: &Context, desk: &mut Desk) {
    let now = Instant::now();
    let since = |uid: &String| desk.written.get(uid).map(|at| now.saturating_duration_since(*at));
    let mut due: Vec<String> =
        desk.waiting.keys().filter(|uid| figures::is_due(since(uid))).cloned().collect();
    due.sort_by_key(|uid| desk.written.get(uid).copied());
    for uid in due {
        if !context.leadership.holds() || !context.budget.take(Instant::now()) {
            return;
        }
        let Some((queue, figures)) = desk.waiting.remove(&uid) else { continue };
        desk.written.insert(uid, Instant::now());
        let api: Api<Queue> =
            Api::namespaced(context.client.clone(), &queue.namespace().unwrap_or_default());
        match apply::status(&api, MANAGER, &queue, &figures).await {
            Ok(()) => context.metrics.wrote("queue figures"),
            Err(error) => tracing::debug!(%error, queue = queue.name_any(), "figures not written"),
        }
    }
}
