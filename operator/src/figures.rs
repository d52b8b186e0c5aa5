//! The figures in the status of Queues: the operator asks the brokers every ten seconds and writes what
//! changed, at most every 30 s for each Queue, and five a second over all of them.
//!
//! # Invariants
//!
//! - Figures that no broker has confirmed for [`CONFIRMED_WITHIN`] are removed from the status: a number
//!   that stands there is at most that old.
//! - A cluster that does not answer delays neither the other clusters nor the writing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use kube::{Resource as _, ResourceExt as _};
use ropewalk_operator_api::queue::ConsumerStatus;
use ropewalk_operator_api::{Queue, QueueStatus};
use ropewalk_operator_plan::figures::{self, Report};
use ropewalk_operator_plan::intent;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::admin::Target;
use crate::apply;
use crate::cluster_key::ClusterKey;
use crate::context::Context;
use crate::queue::{key, may_answer};
use crate::supervision;
use crate::watch::Guarded;

/// The field manager of the figures.
const MANAGER: &str = "ropewalk-operator/figures";
/// How often brokers are asked.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// How often what waits is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Figures that were not confirmed for so long are removed. Longer than a broker takes to restart.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(60);
/// Clusters that are asked at once.
const ASKED_AT_ONCE: usize = 16;

/// What waits to be written, and when the figures of each Queue were last written and confirmed, by uid.
#[derive(Debug)]
struct Desk {
    began: Instant,
    waiting: HashMap<String, (Queue, QueueStatus)>,
    written: HashMap<String, Instant>,
    confirmed: HashMap<String, Instant>,
}

/// Asks the brokers, each cluster in a task of its own.
#[derive(Debug)]
struct Questions {
    running: JoinSet<(ClusterKey, Option<Report>)>,
    clusters: HashSet<ClusterKey>,
    slots: Arc<Semaphore>,
    asked: Option<Instant>,
}

/// Runs until `stopping` turns true.
pub async fn run(context: Arc<Context>, mut stopping: watch::Receiver<bool>) {
    let mut desk = Desk::new(Instant::now());
    let mut questions = Questions {
        running: JoinSet::new(),
        clusters: HashSet::new(),
        slots: Arc::new(Semaphore::new(ASKED_AT_ONCE)),
        asked: None,
    };
    loop {
        let queues = context.queues();
        desk.keep_only(&queues);
        questions.ask(&context, &queues);
        for (key, report) in questions.answers() {
            let lives_there = |queue: &&Arc<Guarded<Queue>>| {
                queue.0.as_ref().is_ok_and(|readable| self::key(readable) == key)
            };
            let own: Vec<_> = queues.iter().filter(lives_there).cloned().collect();
            desk.lay_out(&own, &report, Instant::now());
        }
        desk.clear_unconfirmed(&queues, Instant::now());
        write(&context, &mut desk).await;
        context.metrics.status_waiting(desk.waiting.len());
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

impl Questions {
    /// Asks every cluster that has Queues, if the time has come; but not one that still owes an answer.
    fn ask(&mut self, context: &Arc<Context>, queues: &[Arc<Guarded<Queue>>]) {
        if self.asked.is_some_and(|asked| asked.elapsed() < ASK_EVERY) {
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
                        tracing::debug!(%error, cluster = %key, "no figures");
                        (key, None)
                    }
                }
            });
        }
    }

    /// What has been answered since.
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

impl Desk {
    fn new(now: Instant) -> Self {
        let (waiting, written, confirmed) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { began: now, waiting, written, confirmed }
    }

    /// Drops what is kept of Queues that are gone.
    fn keep_only(&mut self, queues: &[Arc<Guarded<Queue>>]) {
        let alive: HashSet<String> = queues.iter().filter_map(|queue| queue.uid()).collect();
        self.written.retain(|uid, _| alive.contains(uid));
        self.waiting.retain(|uid, _| alive.contains(uid));
        self.confirmed.retain(|uid, _| alive.contains(uid));
    }

    /// Takes what a cluster measured of its queues, and keeps what differs from their statuses.
    fn lay_out(&mut self, queues: &[Arc<Guarded<Queue>>], report: &Report, now: Instant) {
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
            self.confirmed.insert(uid.clone(), now);
            let figures = figures::status(queue, measured);
            if shows(status, &figures) {
                self.waiting.remove(&uid);
            } else {
                self.waiting.insert(uid, (queue.clone(), figures));
            }
        }
    }

    /// Figures that nobody has confirmed for long are to be removed.
    fn clear_unconfirmed(&mut self, queues: &[Arc<Guarded<Queue>>], now: Instant) {
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

/// Whether a status shows these figures already, and none of a consumer that has none.
fn shows(status: Option<&QueueStatus>, figures: &QueueStatus) -> bool {
    let nothing = QueueStatus::default();
    let status = status.unwrap_or(&nothing);
    let consumers = figures.consumers.iter().all(|wanted| {
        let there = status.consumers.iter().find(|there| there.name == wanted.name);
        there.is_some_and(|there| {
            let there = serde_json::to_value(there).unwrap_or_default();
            intent::holds(&there, &serde_json::to_value(wanted).unwrap_or_default())
                && there.get("timeToDrainSeconds").is_some()
                    == wanted.time_to_drain_seconds.is_some()
        })
    });
    let is_wanted = |name: &str| figures.consumers.iter().any(|wanted| wanted.name == name);
    let left_over = |there: &ConsumerStatus| there.length.is_some() && !is_wanted(&there.name);
    consumers
        && !status.consumers.iter().any(left_over)
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
        let Some((queue, mut figures)) = desk.waiting.remove(&uid) else { continue };
        desk.written.insert(uid, Instant::now());
        figures.figures_time = figures.length.map(|_| Time(Timestamp::now()));
        let api: Api<Queue> =
            Api::namespaced(context.client.clone(), &queue.namespace().unwrap_or_default());
        match apply::status(&api, MANAGER, &queue.object_ref(&()), &figures).await {
            Ok(()) => context.metrics.wrote("queue figures"),
            Err(error) => tracing::debug!(%error, queue = queue.name_any(), "figures not written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use ropewalk_operator_plan::figures::Measured;

    use super::*;

    fn queue(consumers: &str, status: &str) -> Arc<Guarded<Queue>> {
        let text = format!(
            "{{apiVersion: ropewalk.dev/v1alpha1, kind: Queue, metadata: {{name: orders, namespace: shop, uid: u}}, spec: {{consumers: {consumers}}}, status: {status}}}"
        );
        let queue: Queue = serde_yaml_ng::from_str(&text).expect("a Queue");
        Arc::new(kube::core::DeserializeGuard(Ok(queue)))
    }

    /// The Queue once what waits has been written.
    fn written(desk: &mut Desk, queue: &Arc<Guarded<Queue>>) -> Arc<Guarded<Queue>> {
        let Some((_, figures)) = desk.waiting.remove("u") else { return queue.clone() };
        let mut queue = queue.0.as_ref().expect("readable").clone();
        queue.status = Some(QueueStatus { topic_id: Some("t".to_owned()), ..figures });
        Arc::new(kube::core::DeserializeGuard(Ok(queue)))
    }

    fn report() -> Report {
        let groups =
            vec![Measured { name: "shop.orders.a".into(), length: 3, ..Measured::default() }];
        let orders = Measured {
            name: "orders".into(),
            id: "t".into(),
            length: 5,
            groups,
            ..Measured::default()
        };
        Report { queues: vec![orders] }
    }

    #[test]
    fn figures_that_no_broker_confirms_are_removed() {
        let start = Instant::now();
        let mut desk = Desk::new(start);
        let mut all = vec![queue("[{name: a}]", "{topicId: t}")];
        desk.lay_out(&all, &report(), start);
        all[0] = written(&mut desk, &all[0]);
        let length = |queue: &Arc<Guarded<Queue>>| {
            queue.0.as_ref().expect("readable").status.as_ref().expect("a status").length
        };
        assert_eq!(length(&all[0]), Some(5));
        desk.clear_unconfirmed(&all, start + CONFIRMED_WITHIN - Duration::from_secs(1));
        assert!(desk.waiting.is_empty(), "a broker may restart meanwhile");
        desk.clear_unconfirmed(&all, start + CONFIRMED_WITHIN);
        all[0] = written(&mut desk, &all[0]);
        assert_eq!(length(&all[0]), None);
        desk.clear_unconfirmed(&all, start + CONFIRMED_WITHIN * 2);
        assert!(desk.waiting.is_empty(), "once");
        desk.lay_out(&all, &report(), start + CONFIRMED_WITHIN * 2);
        assert_eq!(length(&written(&mut desk, &all[0])), Some(5), "and they come again");
    }

    #[test]
    fn figures_of_another_topic_of_that_name_confirm_nothing() {
        let start = Instant::now();
        let mut desk = Desk::new(start);
        let all = vec![queue("[]", "{topicId: another, length: 7}")];
        desk.lay_out(&all, &report(), start + CONFIRMED_WITHIN);
        desk.clear_unconfirmed(&all, start + CONFIRMED_WITHIN);
        assert_eq!(desk.waiting["u"].1.length, None);
    }

    #[test]
    fn figures_of_a_consumer_that_was_taken_away_go() {
        let start = Instant::now();
        let mut desk = Desk::new(start);
        let mut all = vec![queue("[{name: a}]", "{topicId: t}")];
        desk.lay_out(&all, &report(), start);
        let status = written(&mut desk, &all[0]);
        let status = serde_json::to_value(&status.0.as_ref().expect("readable").status);
        let status = status.expect("a status").to_string();
        all[0] = queue("[]", &status);
        desk.lay_out(&all, &report(), start);
        let (_, figures) = desk.waiting.get("u").expect("it is written though no number changed");
        assert!(figures.consumers.is_empty());
        all[0] = written(&mut desk, &all[0]);
        desk.lay_out(&all, &report(), start);
        assert!(desk.waiting.is_empty(), "once");
    }
}
