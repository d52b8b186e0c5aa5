//! The autoscaler against a made-up API server that counts every request, and brokers made of lines.

mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;
use ropewalk_operator_api::Queue;
use serde_json::json;

use super::slumber::Slumber;
use super::{Autoscaler, Meters, Queues, Surroundings};
use crate::budget::Budget;
use crate::lease::Leadership;
use crate::signals::line::{self, Line};
use crate::signals::{ClusterKey, Table, WakeUp};
use server::Server;

/// A Queue with one consumer, a Deployment behind it, and a broker that says what we want.
struct Stage {
    server: Arc<Server>,
    table: Arc<Table>,
    autoscaler: Arc<Autoscaler>,
    meters: Meters,
    slumber: Arc<Slumber>,
    queues: Arc<RwLock<Vec<Arc<Queue>>>>,
    origin: Instant,
    second: u64,
    end: i64,
    committed: i64,
    members: u32,
    /// Of a second queue, if there is one: where the next message goes, and where the group stands.
    bills: Option<(i64, i64)>,
    clock: Arc<Mutex<Instant>>,
}

/// A second queue, whose consumer has the same target.
fn bills(scaling: &serde_json::Value) -> Arc<Queue> {
    let mut bills = (*queue(worker(scaling.clone()))).clone();
    bills.metadata.name = Some("bills".to_owned());
    bills.metadata.uid = Some("u2".to_owned());
    Arc::new(bills)
}

fn queue(consumers: serde_json::Value) -> Arc<Queue> {
    let queue = json!({
        "apiVersion": "ropewalk.dev/v1alpha1",
        "kind": "Queue",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "u1", "generation": 1},
        "spec": {"consumers": consumers},
    });
    Arc::new(serde_json::from_value(queue).expect("a Queue"))
}

fn worker(scaling: serde_json::Value) -> serde_json::Value {
    json!([{
        "name": "worker",
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "order-worker"},
        "scaling": scaling,
    }])
}

fn cluster() -> ClusterKey {
    ClusterKey::new("shop", "default")
}

impl Stage {
    fn new(replicas: u32, scaling: serde_json::Value) -> Self {
        Self::led(replicas, scaling, Some(Duration::from_secs(100_000)))
    }

    fn led(replicas: u32, scaling: serde_json::Value, leads: Option<Duration>) -> Self {
        let server = Server::new(replicas);
        let table = Arc::new(Table::default());
        let queues = Arc::new(RwLock::new(vec![queue(worker(scaling))]));
        let origin = Instant::now();
        let visited = queues.clone();
        let visit: Queues = Arc::new(move |see| visited.read().iter().for_each(|queue| see(queue)));
        let leadership = match leads {
            Some(leads) => Leadership::assumed("me", origin + leads),
            None => Leadership::none("me"),
        };
        let meters = Meters::default();
        let slumber = Arc::new(Slumber::default());
        let clock = Arc::new(Mutex::new(origin));
        let ticking = clock.clone();
        let around = Surroundings {
            client: server.client(),
            leadership,
            signals: table.clone(),
            queues: visit,
            budget: Arc::new(Budget::default()),
            slumber: slumber.clone(),
            meters: meters.clone(),
            clock: Arc::new(move || *ticking.lock()),
        };
        let autoscaler = Arc::new(Autoscaler::new(around, origin));
        let (second, end, committed, members) = (0, 0, 0, 0);
        Self {
            server,
            table,
            autoscaler,
            meters,
            slumber,
            queues,
            origin,
            second,
            end,
            committed,
            members,
            bills: None,
            clock,
        }
    }

    fn now(&self) -> Instant {
        self.origin + Duration::from_secs(self.second)
    }

    fn say(&self, line: &serde_json::Value) {
        let line: Line = line::parse(line.to_string().as_bytes()).expect("a line");
        self.table.take(&cluster(), line, self.now());
    }

    fn connect(&self) {
        self.say(&json!({"kind": "hello", "brokerId": 0, "clusterId": "c", "version": "1", "startedAtMs": 1}));
    }

    /// What the broker says in one second.
    fn state(&self) {
        let length = self.end - self.committed;
        let members: Vec<_> = (0..self.members)
            .map(|n| json!({"memberId": format!("m{n}"), "partitions": if n == 0 { vec![0] } else { vec![] }}))
            .collect();
        self.say(&json!({
            "kind": "state", "topic": "orders", "topicId": "t", "group": "shop.orders.worker",
            "length": length, "members": members,
            "partitions": [{"partition": 0, "length": length, "end": self.end, "committed": self.committed}],
        }));
        if let Some((end, committed)) = self.bills {
            let (length, count) = (end - committed, self.members);
            let members: Vec<_> = (0..count)
                .map(|n| json!({"memberId": format!("b{n}"), "partitions": if n == 0 { vec![0] } else { vec![] }}))
                .collect();
            self.say(&json!({
                "kind": "state", "topic": "bills", "topicId": "b", "group": "shop.bills.worker",
                "length": length, "members": members,
                "partitions": [{"partition": 0, "length": length, "end": end, "committed": committed}],
            }));
        }
        self.say(&json!({"kind": "tick", "timeMs": 1}));
    }

    /// One second of the loop.
    async fn second(&mut self) {
        self.second += 1;
        *self.clock.lock() = self.now();
        for (key, entry) in self.autoscaler.look(self.now()) {
            self.autoscaler.act(&key, &entry).await;
        }
        for pending in self.autoscaler.to_publish(self.now()) {
            self.autoscaler.publish(pending).await;
        }
        self.server.copy_status(&self.queues);
    }

    async fn seconds(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.state();
            self.second().await;
        }
    }

    fn condition(&self, kind: &str) -> (String, String, String) {
        let status = self.server.status().expect("a status was written");
        let conditions = status["conditions"].as_array().expect("conditions").clone();
        let found = conditions.iter().find(|condition| condition["type"] == kind).expect(kind);
        let text = |key: &str| found[key].as_str().expect(key).to_owned();
        (text("status"), text("reason"), text("message"))
    }

    fn metrics(&self) -> String {
        let mut registry = Registry::with_prefix("ropewalk");
        self.meters.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encoded");
        text
    }
}

#[tokio::test]
async fn a_message_wakes_a_consumer_from_zero() {
    let mut stage = Stage::new(0, json!({"expectedPerReplicaPerSecond": 100}));
    stage.connect();
    stage.seconds(30).await;
    assert_eq!(stage.server.writes(), 0, "{:?}", stage.server.log());
    stage.end = 500;
    let wake = WakeUp {
        cluster: cluster(),
        topic: "orders".into(),
        topic_id: "t".into(),
        group: "shop.orders.worker".into(),
        length: 500,
    };
    stage.state();
    for (key, entry) in stage.autoscaler.woken(&wake, stage.now()) {
        stage.autoscaler.act(&key, &entry).await;
    }
    assert_eq!(stage.server.replicas(), 1, "{:?}", stage.server.log());
    assert_eq!(stage.server.managers(), ["ropewalk-operator/autoscaler"]);
    stage.seconds(2).await;
    let (reason, note) = stage.server.events().pop().expect("an Event");
    assert_eq!(reason, "Scaled");
    assert!(note.contains("0→1: 500 messages wait and nobody consumes"), "{note}");
    let status = stage.server.status().expect("a status");
    assert_eq!(status["consumers"][0]["desiredReplicas"], 1);
    assert!(status["consumers"][0]["lastScaleReason"].as_str().expect("text").starts_with("0→1"));
    assert!(stage.metrics().contains(
        r#"ropewalk_autoscaler_desired_replicas{namespace="shop",queue="orders",consumer="worker"} 1"#
    ), "{}", stage.metrics());
}

#[tokio::test]
async fn the_level_wakes_as_well_as_the_edge() {
    // The operator was away when the message came: nobody says "wake" to it, and yet.
    let mut stage = Stage::new(0, json!({}));
    stage.end = 7;
    stage.connect();
    stage.seconds(2).await;
    assert_eq!(stage.server.replicas(), 1, "{:?}", stage.server.log());
}

#[tokio::test]
async fn to_zero_and_what_arrives_with_the_write_brings_it_back() {
    let mut stage = Stage::new(1, json!({"idleSeconds": 30}));
    stage.connect();
    stage.members = 1;
    // While the zero is being written a message comes.
    let table = stage.table.clone();
    let origin = stage.origin;
    stage.server.on_write(move |replicas| {
        if replicas == 0 {
            let state = json!({
                "kind": "state", "topic": "orders", "topicId": "t", "group": "shop.orders.worker",
                "length": 1, "partitions": [{"partition": 0, "length": 1, "end": 1, "committed": 0}],
            });
            let line = line::parse(state.to_string().as_bytes()).expect("a line");
            table.take(&cluster(), line, origin + Duration::from_secs(30));
        }
    });
    let mut written = 0;
    while written == 0 && stage.second < 60 {
        stage.seconds(1).await;
        written = stage.server.writes();
    }
    assert_eq!(stage.server.counts(), [0, 1], "{:?}", stage.server.log());
    assert!(stage.second >= 30, "not before the gate: {}", stage.second);
}

#[tokio::test]
async fn k3_nothing_is_written_while_the_broker_cannot_be_reached() {
    let mut stage = Stage::new(3, json!({}));
    for _ in 0..120 {
        stage.second().await;
    }
    assert_eq!(stage.server.writes(), 0);
    let (status, reason, message) = stage.condition("ScalingActive");
    assert_eq!((&*status, &*reason), ("Unknown", "SignalsUnknown"));
    assert!(message.contains("no stream of signals"), "{message}");
    // A stream that falls silent is no better.
    stage.connect();
    stage.end = 100_000;
    stage.seconds(1).await;
    for _ in 0..60 {
        stage.second().await;
    }
    assert_eq!(stage.server.writes(), 0);
}

#[tokio::test]
async fn k1_a_consumer_that_is_right_costs_next_to_nothing() {
    let mut stage = Stage::new(1, json!({"minReplicas": 1}));
    stage.connect();
    stage.members = 1;
    stage.seconds(60).await;
    let before = stage.server.requests();
    let written = stage.server.changes();
    stage.seconds(600).await;
    let requests = stage.server.requests() - before;
    // The target once, and once a minute who else may scale it.
    assert!(requests <= 13, "{requests} requests in 10 minutes: {:?}", stage.server.log());
    assert_eq!(stage.server.changes(), written, "{:?}", stage.server.log());
}

#[tokio::test]
async fn k1_figures_that_only_move_are_written_twice_a_minute_at_most() {
    let mut stage = Stage::new(1, json!({"minReplicas": 1, "maxReplicas": 1}));
    stage.connect();
    stage.members = 1;
    let speed = |second: i64| 100 + second / 10 % 7 * 40;
    for second in 0..300 {
        stage.end += 400;
        stage.committed += speed(second);
        stage.seconds(1).await;
    }
    let written = stage.server.changes();
    for second in 300..900 {
        stage.end += 400;
        stage.committed += speed(second);
        stage.seconds(1).await;
    }
    let changes = stage.server.changes() - written;
    assert!((1..=600 / 30 + 2).contains(&changes), "{changes} in ten minutes");
}

#[tokio::test]
async fn k1_an_idle_consumer_at_zero_is_hardly_looked_at() {
    let mut stage = Stage::new(0, json!({}));
    stage.connect();
    stage.seconds(60).await;
    let before = stage.server.requests();
    stage.seconds(1200).await;
    let requests = stage.server.requests() - before;
    // Once a minute, for all of a namespace, who else scales; every ten minutes whether KEDA has come.
    assert!(requests <= 24, "{requests} requests in 20 minutes: {:?}", stage.server.log());
}

#[tokio::test]
async fn a_count_that_a_person_changed_is_noticed_by_its_members() {
    let mut stage = Stage::new(1, json!({"minReplicas": 1}));
    stage.connect();
    stage.members = 1;
    stage.seconds(60).await;
    stage.server.put_target(3);
    stage.members = 3;
    stage.seconds(25).await;
    let status = stage.server.status().expect("a status");
    assert_eq!(status["consumerReplicas"], "3/3", "{:?}", stage.server.log());
}

#[tokio::test]
async fn an_autoscaler_of_somebody_else_is_not_fought() {
    let mut stage = Stage::new(0, json!({}));
    stage.server.add_autoscaler("order-worker", "order-worker");
    stage.end = 100;
    stage.connect();
    stage.seconds(60).await;
    assert_eq!(stage.server.writes(), 0);
    let (status, reason, message) = stage.condition("ScalingActive");
    assert_eq!((&*status, &*reason), ("False", "ConflictingAutoscaler"));
    assert!(message.contains("HorizontalPodAutoscaler order-worker"), "{message}");
    stage.server.clear_autoscalers();
    stage.seconds(60).await;
    assert_eq!(stage.server.replicas(), 1, "it goes on once the other is gone");
    assert_eq!(stage.condition("ScalingActive").1, "Scaling");
}

#[tokio::test]
async fn a_scaled_object_is_not_fought_and_keda_need_not_be_there() {
    let mut stage = Stage::new(0, json!({}));
    stage.server.install_keda("order-worker");
    stage.end = 100;
    stage.connect();
    stage.seconds(30).await;
    assert_eq!(stage.server.writes(), 0);
    let (_, reason, message) = stage.condition("ScalingActive");
    assert_eq!(reason, "ConflictingAutoscaler");
    assert!(message.contains("ScaledObject"), "{message}");
}

#[tokio::test]
async fn an_autoscaler_of_something_else_is_no_rival() {
    let mut stage = Stage::new(0, json!({}));
    stage.server.add_autoscaler("web", "web");
    stage.end = 100;
    stage.connect();
    stage.seconds(10).await;
    assert_eq!(stage.server.replicas(), 1);
}

#[tokio::test]
async fn one_target_of_two_queues_wakes_for_either_and_sleeps_when_both_are_idle() {
    let scaling = json!({"idleSeconds": 30, "expectedPerReplicaPerSecond": 100});
    let mut stage = Stage::new(0, scaling.clone());
    stage.queues.write().push(bills(&scaling));
    stage.bills = Some((0, 0));
    stage.connect();
    stage.seconds(20).await;
    assert_eq!(stage.server.writes(), 0, "{:?}", stage.server.log());
    // The queue that comes second by name is the one with a message, and it is its wake-up that comes.
    stage.end = 7;
    stage.state();
    let wake = WakeUp {
        cluster: cluster(),
        topic: "orders".into(),
        topic_id: "t".into(),
        group: "shop.orders.worker".into(),
        length: 7,
    };
    for (key, entry) in stage.autoscaler.woken(&wake, stage.now()) {
        stage.autoscaler.act(&key, &entry).await;
    }
    assert_eq!(stage.server.counts(), [1], "{:?}", stage.server.log());
    // One of them goes on; the other has nothing to do.
    stage.members = 1;
    for _ in 0..90 {
        stage.end += 1;
        stage.committed = stage.end;
        stage.seconds(1).await;
    }
    assert_eq!(stage.server.counts(), [1], "not while either works: {:?}", stage.server.log());
    assert_eq!(stage.condition("ScalingActive").1, "Scaling");
    stage.seconds(60).await;
    assert_eq!(stage.server.counts(), [1, 0], "{:?}", stage.server.log());
    // And from zero for the first by name as well.
    stage.members = 0;
    stage.bills = Some((3, 0));
    stage.seconds(8).await;
    assert_eq!(stage.server.counts(), [1, 0, 1], "{:?}", stage.server.log());
}

#[tokio::test]
async fn one_target_of_two_queues_gets_the_most_that_either_asks_for() {
    let least = |min: u32| json!({"minReplicas": min, "maxReplicas": 9, "expectedPerReplicaPerSecond": 100});
    let mut stage = Stage::new(1, least(2));
    stage.queues.write().push(bills(&least(4)));
    stage.bills = Some((0, 0));
    stage.connect();
    stage.members = 1;
    stage.seconds(60).await;
    assert_eq!(stage.server.replicas(), 4, "{:?}", stage.server.log());
    let writes = stage.server.writes();
    stage.members = 4;
    stage.seconds(60).await;
    assert_eq!(stage.server.writes(), writes, "they do not pull it to and fro");
    let status = stage.server.status().expect("a status");
    assert_eq!(status["consumers"][0]["desiredReplicas"], 4, "what it gets");
    assert_eq!(status["consumerReplicas"], "4/4");
}

#[tokio::test]
async fn a_queue_that_is_switched_off_keeps_a_shared_target_from_zero_while_messages_wait() {
    let scaling = json!({"idleSeconds": 10});
    let mut paused = (*bills(&scaling)).clone();
    paused.spec.management_state = ropewalk_operator_api::ManagementState::Paused;
    let disabled = (*bills(&json!({"idleSeconds": 10, "mode": "Disabled"}))).clone();
    let mut going = paused.clone();
    going.metadata.deletion_timestamp = Some(super::wall());
    for (second, left) in [(paused, 1), (disabled, 1), (going, 0)] {
        let mut stage = Stage::new(3, scaling.clone());
        stage.queues.write().push(Arc::new(second));
        stage.bills = Some((10, 0));
        stage.connect();
        stage.members = 3;
        stage.seconds(120).await;
        assert_eq!(stage.server.replicas(), left, "{:?}", stage.server.log());
        stage.members = left;
        stage.bills = Some((10, 10));
        stage.seconds(120).await;
        assert_eq!(stage.server.replicas(), 0, "nothing waits: {:?}", stage.server.log());
    }
}

#[tokio::test]
async fn k3_one_target_of_two_queues_stays_up_while_either_is_unknown() {
    let scaling = json!({"idleSeconds": 10});
    let mut stage = Stage::new(1, scaling.clone());
    stage.queues.write().push(bills(&scaling));
    stage.connect();
    stage.members = 1;
    // The brokers say nothing of the second queue.
    stage.seconds(120).await;
    assert_eq!(stage.server.writes(), 0, "{:?}", stage.server.log());
    stage.bills = Some((0, 0));
    stage.seconds(60).await;
    assert_eq!(stage.server.counts(), [0], "{:?}", stage.server.log());
}

#[tokio::test]
async fn a_broker_that_ticks_every_four_seconds_is_scaled_for() {
    let scaling = json!({"minReplicas": 1, "maxReplicas": 6, "expectedPerReplicaPerSecond": 100});
    let mut stage = Stage::new(1, scaling);
    stage.connect();
    stage.members = 1;
    for second in 0..80 {
        stage.end += 500;
        stage.committed += 100;
        if second % 4 == 0 {
            stage.state();
        }
        stage.second().await;
    }
    assert_eq!(stage.condition("ScalingActive").1, "Scaling", "it is not frozen");
}

#[tokio::test]
async fn who_sets_replicas_back_is_named_and_not_fought() {
    let mut stage = Stage::new(2, json!({"idleSeconds": 10}));
    stage.server.overwrite_with(2);
    stage.connect();
    stage.members = 2;
    stage.seconds(400).await;
    assert_eq!(stage.server.counts(), [0, 0, 0], "{:?}", stage.server.log());
    let (status, reason, message) = stage.condition("ScalingActive");
    assert_eq!((&*status, &*reason), ("False", "ReplicasOverwritten"));
    assert!(
        message.contains("`argocd-controller`") && message.contains("ignoreDifferences"),
        "{message}"
    );
    let told = stage.server.events().into_iter().filter(|(why, _)| why == "ReplicasOverwritten");
    assert_eq!(told.count(), 1);
    // It is tried again some time later, and it may have been mended by then.
    stage.server.overwrite_no_more();
    stage.seconds(700).await;
    assert_eq!(stage.server.replicas(), 0, "{:?}", stage.server.log());
    assert_eq!(stage.condition("ScalingActive").1, "Scaling");
}

#[tokio::test]
async fn k2_a_count_that_was_changed_since_the_decision_is_not_written_over() {
    let mut stage = Stage::new(0, json!({}));
    stage.connect();
    stage.seconds(20).await;
    stage.server.put_target(5);
    stage.end = 100;
    stage.seconds(1).await;
    assert_eq!(
        (stage.server.replicas(), stage.server.writes()),
        (5, 0),
        "{:?}",
        stage.server.log()
    );
}

#[tokio::test]
async fn a_slow_api_server_does_not_age_what_is_decided() {
    let mut stage = Stage::new(1, json!({"minReplicas": 1}));
    let (clock, second) = (stage.clock.clone(), Duration::from_secs(1));
    stage.server.on_read(move || *clock.lock() += second * 3);
    stage.connect();
    stage.seconds(1).await;
    let entries = stage.autoscaler.consumers.lock().clone();
    let consumer = entries.values().next().expect("a consumer").lock();
    let (_, seen) = consumer.seen.expect("it was read");
    assert!(seen >= stage.now() + second * 3, "it was read when the answer came");
    assert!(consumer.due >= stage.now() + second * 6);
}

#[tokio::test]
async fn a_missing_target_says_what_to_do() {
    let mut stage = Stage::new(0, json!({}));
    stage.server.remove_target();
    stage.end = 100;
    stage.connect();
    stage.seconds(20).await;
    let (status, reason, message) = stage.condition("ScalingActive");
    assert_eq!((&*status, &*reason), ("False", "TargetMissing"));
    assert!(message.contains("there is no Deployment order-worker: create it"), "{message}");
    stage.server.put_target(0);
    stage.seconds(12).await;
    assert_eq!(stage.server.replicas(), 1, "found when it is there: {:?}", stage.server.log());
}

#[tokio::test]
async fn a_kind_that_is_unknown_or_has_no_scale_is_named() {
    for (kind, expected) in [("Gadget", "TargetKindMissing"), ("DaemonSet", "TargetNotScalable")] {
        let mut stage = Stage::new(0, json!({}));
        let mut consumers = worker(json!({}));
        consumers[0]["targetRef"]["kind"] = json!(kind);
        *stage.queues.write() = vec![queue(consumers)];
        stage.end = 1;
        stage.connect();
        stage.seconds(10).await;
        assert_eq!(stage.condition("ScalingActive").1, expected);
    }
}

#[tokio::test]
async fn k2_a_count_that_somebody_changed_is_not_written_over() {
    let mut stage = Stage::new(0, json!({}));
    stage.connect();
    stage.seconds(20).await;
    // Between the live read and the write somebody else is quicker.
    stage.server.race_once(5);
    stage.end = 100;
    stage.seconds(1).await;
    assert_eq!(
        (stage.server.replicas(), stage.server.writes()),
        (5, 0),
        "{:?}",
        stage.server.log()
    );
}

#[tokio::test]
async fn k2_who_does_not_lead_writes_no_count() {
    let mut stage = Stage::led(0, json!({}), None);
    stage.end = 100;
    stage.connect();
    stage.seconds(30).await;
    assert_eq!((stage.server.replicas(), stage.server.writes()), (0, 0));
}

#[tokio::test]
async fn hibernation_takes_consumers_to_their_minimum_and_says_when() {
    let mut stage = Stage::new(4, json!({"minReplicas": 1}));
    stage.seconds_unconnected(20).await;
    stage.slumber.begin(&cluster(), stage.now());
    assert_eq!(stage.slumber.awaits(&cluster(), stage.now()), Some(vec![]), "nobody has looked");
    stage.autoscaler.look(stage.now());
    let waited_for = stage.slumber.awaits(&cluster(), stage.now());
    assert_eq!(waited_for, Some(vec!["orders/worker".to_owned()]));
    stage.release().await;
    stage.seconds_unconnected(40).await;
    assert_eq!(stage.server.counts(), [1], "{:?}", stage.server.log());
    assert_eq!(stage.slumber.awaits(&cluster(), stage.now()), None, "they may be stopped");
    assert_eq!(stage.condition("ScalingActive").1, "Hibernating");
}

#[tokio::test]
async fn a_paused_queue_is_watched_and_left_alone() {
    let mut stage = Stage::new(0, json!({}));
    let mut paused = (*queue(worker(json!({})))).clone();
    paused.spec.management_state = ropewalk_operator_api::ManagementState::Paused;
    *stage.queues.write() = vec![Arc::new(paused)];
    stage.end = 100;
    stage.connect();
    stage.seconds(30).await;
    assert_eq!(stage.server.writes(), 0);
    assert_eq!(stage.condition("ScalingActive").1, "Disabled");
}

#[tokio::test]
async fn a_restarted_operator_goes_on_from_the_status() {
    let mut stage = Stage::new(1, json!({"minReplicas": 1}));
    let mut known = (*queue(worker(json!({"minReplicas": 1})))).clone();
    let status = json!({"consumers": [{
        "name": "worker", "perReplicaPerSecondMilli": 96_000,
        "lastScaleReason": "2→1: earlier", "lastScaleTime": "2026-01-01T00:00:00Z",
    }]});
    known.status = Some(serde_json::from_value(status).expect("a status"));
    *stage.queues.write() = vec![Arc::new(known)];
    stage.connect();
    stage.members = 1;
    stage.seconds(60).await;
    assert_eq!(stage.server.writes(), 0);
    let status = stage.server.status().expect("a status");
    assert_eq!(status["consumers"][0]["perReplicaPerSecondMilli"], 96_000);
    assert_eq!(status["consumers"][0]["lastScaleReason"], "2→1: earlier");
}

#[tokio::test]
async fn a_status_speaks_of_scaling_only_while_something_is_scaled() {
    let mut stage = Stage::new(1, json!({"minReplicas": 1}));
    let mut both = worker(json!({"minReplicas": 1}));
    let mut second = both[0].clone();
    second["name"] = json!("another");
    both.as_array_mut().expect("a list").push(second);
    *stage.queues.write() = vec![queue(both)];
    stage.connect();
    stage.seconds(30).await;
    let names = |stage: &Stage| -> Vec<String> {
        let status = stage.server.status().expect("a status");
        let consumers = status["consumers"].as_array().cloned().unwrap_or_default();
        consumers.iter().map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names(&stage).len(), 2);
    let spec = |stage: &Stage, consumers| {
        let status = stage.queues.read()[0].status.clone();
        let mut changed = queue(consumers);
        Arc::make_mut(&mut changed).status = status;
        *stage.queues.write() = vec![changed];
    };
    spec(&stage, worker(json!({"minReplicas": 1})));
    stage.seconds(10).await;
    assert_eq!(names(&stage), ["worker"]);
    // The last one loses its target.
    spec(&stage, json!([{"name": "worker"}]));
    stage.seconds(10).await;
    assert_eq!(stage.server.status(), Some(json!({})), "{:?}", stage.server.log());
    let written = stage.server.changes();
    stage.seconds(30).await;
    assert_eq!(stage.server.changes(), written, "once");
}

#[tokio::test]
async fn what_an_operator_before_this_one_wrote_of_scaling_goes_as_well() {
    let mut stage = Stage::new(1, json!({}));
    let mut left = (*queue(json!([{"name": "worker"}]))).clone();
    let status =
        json!({"consumerReplicas": "3/6", "consumers": [{"name": "worker", "replicas": 3}]});
    left.status = Some(serde_json::from_value(status).expect("a status"));
    *stage.queues.write() = vec![Arc::new(left)];
    stage.seconds(3).await;
    assert_eq!(stage.server.status(), Some(json!({})));
}

#[tokio::test]
async fn what_is_gone_is_forgotten() {
    let mut stage = Stage::new(1, json!({"minReplicas": 1}));
    stage.connect();
    stage.seconds(20).await;
    assert!(stage.metrics().contains("order"));
    stage.queues.write().clear();
    stage.seconds(2).await;
    assert!(!stage.metrics().contains("orders"), "{}", stage.metrics());
    assert!(stage.autoscaler.consumers.lock().is_empty());
}

impl Stage {
    /// Carries out what a look of the test itself found due.
    async fn release(&self) {
        let consumers = self.autoscaler.consumers.lock().clone();
        for (key, entry) in consumers {
            self.autoscaler.act(&key, &entry).await;
        }
    }

    /// Seconds in which the broker says nothing.
    async fn seconds_unconnected(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.second().await;
        }
    }
}

/// A second queue that is read by the same group, for a target of its own.
fn bills_of_the_same_group(target: &str) -> Arc<Queue> {
    let mut bills = (*queue(json!([{
        "name": "worker",
        "groupId": "shop.orders.worker",
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target},
    }])))
    .clone();
    bills.metadata.name = Some("bills".to_owned());
    bills.metadata.uid = Some("u2".to_owned());
    Arc::new(bills)
}

#[tokio::test]
async fn members_that_work_for_another_target_of_the_same_group_are_not_taken_for_ours() {
    // Three members for three replicas, of which one holds a partition: with one target the others
    // wait for partitions. With two, they are the other's, and two of our pods have not joined.
    for (target, missing) in [("order-worker", false), ("bill-worker", true)] {
        let scaling = json!({"minReplicas": 3, "maxReplicas": 3});
        let mut stage = Stage::new(3, scaling);
        stage.queues.write().push(bills_of_the_same_group(target));
        stage.members = 3;
        stage.connect();
        stage.seconds(150).await;
        let is_missing = stage.condition("ScalingActive").1 == "ConsumersNotJoining"
            || stage.condition("ScalingLimited").1 == "ConsumersNotJoining";
        assert_eq!(is_missing, missing, "{target}: {:?}", stage.server.status());
    }
}

#[tokio::test]
async fn a_wake_up_looks_at_the_consumers_of_its_group_only() {
    let stage = Stage::new(0, json!({}));
    for number in 0..50 {
        let mut other = (*stage.queues.read()[0]).clone();
        other.metadata.name = Some(format!("other-{number}"));
        other.metadata.uid = Some(format!("other-{number}"));
        stage.queues.write().push(Arc::new(other));
    }
    stage.connect();
    stage.autoscaler.look(stage.now());
    let consumers = stage.autoscaler.consumers.lock().clone();
    assert_eq!(consumers.len(), 51);
    for entry in consumers.values() {
        entry.lock().is_busy = false;
    }
    let wake = WakeUp {
        cluster: cluster(),
        topic: "orders".into(),
        topic_id: "t".into(),
        group: "shop.orders.worker".into(),
        length: 7,
    };
    // Whoever looked at one of the others would wait for it for ever.
    let others = consumers.iter().filter(|(key, _)| key.queue != "u1");
    let held: Vec<_> = others.map(|(_, entry)| entry.lock()).collect();
    let (sender, receiver) = std::sync::mpsc::channel();
    let (autoscaler, now) = (stage.autoscaler.clone(), stage.now());
    let looking = std::thread::spawn(move || {
        let due = autoscaler.woken(&wake, now);
        sender.send(due.into_iter().map(|(key, _)| key.queue).collect::<Vec<_>>()).ok();
    });
    let due = receiver.recv_timeout(Duration::from_secs(60));
    drop(held);
    looking.join().expect("the wake-up ends");
    assert_eq!(due.expect("it waits for the consumers of other groups"), ["u1"]);
}
