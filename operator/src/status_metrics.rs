//! Metrics in the status of Queues: length, delay and throughput.
//!
//! The operator queries the brokers every ten seconds and writes changes, at most every 30 s for
//! each Queue and five a second in all.
//!
//! # Invariants
//!
//! - Metrics that no broker has confirmed for `CONFIRMED_WITHIN` are removed from the status: a
//!   number in it is at most that old.
//! - A cluster that does not answer delays neither the other clusters nor the writes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use kube::{Resource as _, ResourceExt as _};
use ropewalk_operator_api::queue::ConsumerStatus;
use ropewalk_operator_api::{Queue, QueueStatus};
use ropewalk_operator_plan::intent;
use ropewalk_operator_plan::metrics::{self, Report};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::admin::Target;
use crate::apply;
use crate::cluster_key::ClusterKey;
use crate::context::Context;
use crate::queue::{key, may_answer};
use crate::supervision;
use crate::watch::Guarded;

/// Field manager of the metrics. Existing objects name it in `managedFields`, so it must not
/// change.
const MANAGER: &str = concat!("ropewalk-operator/", stringify!(figures));
/// Value of the label `what` of the metric of writes, which dashboards may use.
const WRITE_LABEL: &str = concat!("queue ", stringify!(figures));
/// Interval of queries to a cluster.
const QUERY_INTERVAL: Duration = Duration::from_secs(10);
/// Interval of checking for answers and pending writes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Metrics that were not confirmed for this long are removed. Longer than a broker takes to
/// restart.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(60);
/// Maximum number of concurrent queries.
const QUERIES_AT_ONCE_MAX: usize = 16;

/// Statuses that wait to be written, and when the metrics of each Queue were last written and
/// confirmed, by uid.
#[derive(Debug)]
struct PendingWrites {
    began: Instant,
    waiting: HashMap<String, (Queue, QueueStatus)>,
    written: HashMap<String, Instant>,
    confirmed: HashMap<String, Instant>,
}

/// Queries the brokers, each cluster in a task of its own.
#[derive(Debug)]
struct BrokerQueries {
    running: JoinSet<(ClusterKey, Option<Report>)>,
    clusters: HashSet<ClusterKey>,
    slots: Arc<Semaphore>,
    asked: Option<Instant>,
}

/// Queries brokers and writes statuses until `stopping` turns true.
pub async fn run(context: Arc<Context>, mut stopping: watch::Receiver<bool>) {
    let mut writes = PendingWrites::new(Instant::now());
    let mut queries = BrokerQueries {
        running: JoinSet::new(),
        clusters: HashSet::new(),
        slots: Arc::new(Semaphore::new(QUERIES_AT_ONCE_MAX)),
        asked: None,
    };
    loop {
        let queues = context.queues();
        writes.keep_only(&queues);
        queries.ask(&context, &queues);
        for (key, report) in queries.answers() {
            let lives_there = |queue: &&Arc<Guarded<Queue>>| {
                queue.0.as_ref().is_ok_and(|readable| self::key(readable) == key)
            };
            let own: Vec<_> = queues.iter().filter(lives_there).cloned().collect();
            writes.add_report(&own, &report, Instant::now());
        }
        writes.remove_unconfirmed(&queues, Instant::now());
        write(&context, &mut writes).await;
        context.metrics.status_waiting(writes.waiting.len());
        tokio::select! {
            () = tokio::time::sleep(CHECK_INTERVAL) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

impl BrokerQueries {
    /// Queries every cluster that has Queues, if the interval has elapsed. Skips clusters whose
    /// last query is still running.
    fn ask(&mut self, context: &Arc<Context>, queues: &[Arc<Guarded<Queue>>]) {
        if self.asked.is_some_and(|asked| asked.elapsed() < QUERY_INTERVAL) {
            return;
        }
        self.asked = Some(Instant::now());
        let keys: HashSet<ClusterKey> =
            queues.iter().filter_map(|queue| queue.0.as_ref().ok().map(key)).collect();
        for key in keys {
            let Some(cluster) = context.cluster(&key) else { continue };
            if !may_answer(&cluster) || !self.clusters.insert(key.clone()) {
                continue;
            }
            let (context, slots) = (context.clone(), self.slots.clone());
            self.running.spawn(async move {
                let _slot = slots.acquire().await;
                let target = Target::of(&cluster);
                match context.brokers.ask::<Report>(&target, "/v1/queues").await {
                    Ok(report) => (key, Some(report)),
                    Err(error) => {
                        tracing::debug!(%error, cluster = %key, "metrics query failed");
                        (key, None)
                    }
                }
            });
        }
    }

    /// The answers that arrived since the last call.
    fn answers(&mut self) -> BTreeMap<ClusterKey, Report> {
        let mut answers = BTreeMap::new();
        while let Some(ended) = self.running.try_join_next() {
            let Some((key, report)) = supervision::finished(ended) else { continue };
            self.clusters.remove(&key);
            answers.extend(report.map(|report| (key, report)));
        }
        answers
    }
}

impl PendingWrites {
    fn new(now: Instant) -> Self {
        let (waiting, written, confirmed) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { began: now, waiting, written, confirmed }
    }

    /// Discards the state of Queues that are gone.
    fn keep_only(&mut self, queues: &[Arc<Guarded<Queue>>]) {
        let alive: HashSet<String> = queues.iter().filter_map(|queue| queue.uid()).collect();
        self.written.retain(|uid, _| alive.contains(uid));
        self.waiting.retain(|uid, _| alive.contains(uid));
        self.confirmed.retain(|uid, _| alive.contains(uid));
    }

    /// Compares the report of a cluster with the statuses of its Queues, and schedules writes of
    /// those that differ.
    fn add_report(&mut self, queues: &[Arc<Guarded<Queue>>], report: &Report, now: Instant) {
        let by_name: HashMap<&str, _> =
            report.queues.iter().map(|measured| (measured.name.as_str(), measured)).collect();
        for queue in queues {
            let Ok(queue) = &queue.0 else { continue };
            let Some(measured) = by_name.get(queue.topic()) else { continue };
            // Only the topic that this Queue declared: a topic of the same name may belong to
            // another owner.
            let status = queue.status.as_ref();
            if status.and_then(|status| status.topic_id.as_deref()) != Some(measured.id.as_str()) {
                continue;
            }
            let Some(uid) = queue.uid() else { continue };
            self.confirmed.insert(uid.clone(), now);
            let metrics = metrics::status(queue, measured);
            if shows(status, &metrics) {
                self.waiting.remove(&uid);
            } else {
                self.waiting.insert(uid, (queue.clone(), metrics));
            }
        }
    }

    /// Schedules the removal of metrics that no broker has confirmed for [`CONFIRMED_WITHIN`].
    fn remove_unconfirmed(&mut self, queues: &[Arc<Guarded<Queue>>], now: Instant) {
        for queue in queues {
            let Ok(queue) = &queue.0 else { continue };
            let Some(uid) = queue.uid() else { continue };
            let confirmed = *self.confirmed.get(&uid).unwrap_or(&self.began);
            if now.saturating_duration_since(confirmed) < CONFIRMED_WITHIN {
                continue;
            }
            let nothing = QueueStatus::default();
            if shows(queue.status.as_ref(), &nothing) {
                self.waiting.remove(&uid);
            } else {
                self.waiting.insert(uid, (queue.clone(), nothing));
            }
        }
    }
}

/// Whether a status shows exactly these metrics, and none of a consumer that has none.
fn shows(status: Option<&QueueStatus>, metrics: &QueueStatus) -> bool {
    let nothing = QueueStatus::default();
    let status = status.unwrap_or(&nothing);
    let consumers = metrics.consumers.iter().all(|wanted| {
        let there = status.consumers.iter().find(|there| there.name == wanted.name);
        there.is_some_and(|there| {
            let there = serde_json::to_value(there).unwrap_or_default();
            intent::holds(&there, &serde_json::to_value(wanted).unwrap_or_default())
                && there.get("timeToDrainSeconds").is_some()
                    == wanted.time_to_drain_seconds.is_some()
        })
    });
    let is_wanted = |name: &str| metrics.consumers.iter().any(|wanted| wanted.name == name);
    let left_over = |there: &ConsumerStatus| there.length.is_some() && !is_wanted(&there.name);
    consumers
        && !status.consumers.iter().any(left_over)
        && status.length == metrics.length
        && status.delay_p50_ms == metrics.delay_p50_ms
        && status.delay == metrics.delay
        && status.oldest_age_seconds == metrics.oldest_age_seconds
        && status.arrivals_per_second_milli == metrics.arrivals_per_second_milli
        && status.throughput == metrics.throughput
        && status.time_to_drain_seconds == metrics.time_to_drain_seconds
}

/// Writes the statuses that are due, longest waiting first, within the budget.
async fn write(context: &Context, writes: &mut PendingWrites) {
    let now = Instant::now();
    let since = |uid: &String| writes.written.get(uid).map(|at| now.saturating_duration_since(*at));
    let mut due: Vec<String> =
        writes.waiting.keys().filter(|uid| metrics::is_due(since(uid))).cloned().collect();
    due.sort_by_key(|uid| writes.written.get(uid).copied());
    for uid in due {
        if !context.leadership.holds() || !context.budget.take(Instant::now()) {
            return;
        }
        let Some((queue, mut metrics)) = writes.waiting.remove(&uid) else { continue };
        writes.written.insert(uid, Instant::now());
        metrics.figures_time = metrics.length.map(|_| Time(Timestamp::now()));
        let api: Api<Queue> =
            Api::namespaced(context.client.clone(), &queue.namespace().unwrap_or_default());
        match apply::status(&api, MANAGER, &queue.object_ref(&()), &metrics).await {
            Ok(()) => context.metrics.wrote(WRITE_LABEL),
            Err(error) => tracing::debug!(%error, queue = queue.name_any(), "metrics not written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use ropewalk_operator_plan::metrics::QueueMetrics;

    use super::*;

    fn queue(consumers: &str, status: &str) -> Arc<Guarded<Queue>> {
        let text = format!(
            "{{apiVersion: ropewalk.dev/v1alpha1, kind: Queue, metadata: {{name: orders, namespace: shop, uid: u}}, spec: {{consumers: {consumers}}}, status: {status}}}"
        );
        let queue: Queue = serde_yaml_ng::from_str(&text).expect("a Queue");
        Arc::new(kube::core::DeserializeGuard(Ok(queue)))
    }

    /// The Queue after its pending status was written.
    fn written(writes: &mut PendingWrites, queue: &Arc<Guarded<Queue>>) -> Arc<Guarded<Queue>> {
        let Some((_, metrics)) = writes.waiting.remove("u") else { return queue.clone() };
        let mut queue = queue.0.as_ref().expect("readable").clone();
        queue.status = Some(QueueStatus { topic_id: Some("t".to_owned()), ..metrics });
        Arc::new(kube::core::DeserializeGuard(Ok(queue)))
    }

    fn report() -> Report {
        let groups = vec![QueueMetrics {
            name: "shop.orders.a".into(),
            length: 3,
            ..QueueMetrics::default()
        }];
        let orders = QueueMetrics {
            name: "orders".into(),
            id: "t".into(),
            length: 5,
            groups,
            ..QueueMetrics::default()
        };
        Report { queues: vec![orders] }
    }

    #[test]
    fn metrics_that_no_broker_confirms_are_removed() {
        let start = Instant::now();
        let mut writes = PendingWrites::new(start);
        let mut all = vec![queue("[{name: a}]", "{topicId: t}")];
        writes.add_report(&all, &report(), start);
        all[0] = written(&mut writes, &all[0]);
        let length = |queue: &Arc<Guarded<Queue>>| {
            queue.0.as_ref().expect("readable").status.as_ref().expect("a status").length
        };
        assert_eq!(length(&all[0]), Some(5));
        writes.remove_unconfirmed(&all, start + CONFIRMED_WITHIN - Duration::from_secs(1));
        assert!(writes.waiting.is_empty(), "a broker may restart meanwhile");
        writes.remove_unconfirmed(&all, start + CONFIRMED_WITHIN);
        all[0] = written(&mut writes, &all[0]);
        assert_eq!(length(&all[0]), None);
        writes.remove_unconfirmed(&all, start + CONFIRMED_WITHIN * 2);
        assert!(writes.waiting.is_empty(), "once");
        writes.add_report(&all, &report(), start + CONFIRMED_WITHIN * 2);
        assert_eq!(length(&written(&mut writes, &all[0])), Some(5), "and they are written again");
    }

    #[test]
    fn metrics_of_another_topic_of_that_name_confirm_nothing() {
        let start = Instant::now();
        let mut writes = PendingWrites::new(start);
        let all = vec![queue("[]", "{topicId: another, length: 7}")];
        writes.add_report(&all, &report(), start + CONFIRMED_WITHIN);
        writes.remove_unconfirmed(&all, start + CONFIRMED_WITHIN);
        assert_eq!(writes.waiting["u"].1.length, None);
    }

    #[test]
    fn metrics_of_a_removed_consumer_are_removed() {
        let start = Instant::now();
        let mut writes = PendingWrites::new(start);
        let mut all = vec![queue("[{name: a}]", "{topicId: t}")];
        writes.add_report(&all, &report(), start);
        let status = written(&mut writes, &all[0]);
        let status = serde_json::to_value(&status.0.as_ref().expect("readable").status);
        let status = status.expect("a status").to_string();
        all[0] = queue("[]", &status);
        writes.add_report(&all, &report(), start);
        let (_, metrics) = writes.waiting.get("u").expect("it is written though no number changed");
        assert!(metrics.consumers.is_empty());
        all[0] = written(&mut writes, &all[0]);
        writes.add_report(&all, &report(), start);
        assert!(writes.waiting.is_empty(), "once");
    }
}
