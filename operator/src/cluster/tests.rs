//! A cluster from creation until it is settled, with a fake API server and a fake broker.

use std::time::Instant;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Json, Response};
use parking_lot::Mutex;
use ropewalk_operator_plan::cluster::properties;
use ropewalk_operator_plan::cluster::validate::Settings;
use ropewalk_operator_plan::intent;
use serde_json::{Value, json};

use super::*;
use crate::admin::Target;
use crate::fake_api_server::Server;
use crate::lease::Leadership;
use crate::metrics::Metrics;

const CLUSTER: &str = "/apis/ropewalk.dev/v1alpha1/namespaces/shop/brokerclusters/prod";
const SET: &str = "/apis/apps/v1/namespaces/shop/statefulsets/prod-broker-0";
const POD: &str = "/api/v1/namespaces/shop/pods/prod-broker-0-0";
const CLAIM: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/data-prod-broker-0";
const SECRET: &str = "/api/v1/namespaces/shop/secrets/prod-admin";
const CONFIG: &str = "/api/v1/namespaces/shop/configmaps/prod-broker-0";

const EVICTION: &str = "POST /api/v1/namespaces/shop/pods/prod-broker-0-0/eviction";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/shop/events/";

/// State of the fake broker.
#[derive(Debug, Default)]
struct Broker {
    /// Settings that it reports as waiting for a restart.
    waiting: Vec<&'static str>,
    /// Start time by its own clock.
    started_at_ms: i64,
    /// It accepts connections and does not answer.
    is_silent: bool,
    /// Connections are closed at once.
    is_gone: bool,
    /// It refuses every settings file.
    refuses: bool,
    /// It is recovering its log.
    recovers: bool,
    /// It answers that it is not ready.
    is_unready: bool,
    /// Further conditions that it reports.
    conditions: Vec<Value>,
    /// What it reports about its bucket.
    tier: Value,
    /// Whether it reports the hash of its settings; an older release does not.
    reports_its_hash: bool,
    /// Hash of the settings that were sent since its start.
    sent_hash: Option<String>,
    /// How often settings were sent.
    settings_sent: usize,
}

struct Stage {
    server: Server,
    context: Arc<Context>,
    broker: Arc<Mutex<Broker>>,
    /// Address of the fake broker.
    address: String,
}

async fn broker(broker: Arc<Mutex<Broker>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut broker = broker.lock();
    if broker.is_gone {
        let broken = std::io::Error::other("the connection is gone");
        let body = futures_util::stream::iter([Err::<&str, _>(broken)]);
        return axum::body::Body::from_stream(body).into_response();
    }
    if broker.is_silent {
        return axum::http::StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let answer = match path.as_str() {
        "/v1/fence" => json!({"epoch": 1}),
        "/v1/settings" if broker.recovers => {
            let body = json!({"reason": "NotReady", "error": "the data directory is being opened"});
            return (axum::http::StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response();
        }
        "/v1/settings" if broker.refuses => {
            let body = json!({"reason": "InvalidSetting", "error": "no such value"});
            return (axum::http::StatusCode::BAD_REQUEST, Json(body)).into_response();
        }
        "/v1/settings" => {
            let settings = serde_json::from_value(body["settings"].clone()).expect("settings");
            broker.sent_hash = Some(properties::hash(&settings));
            broker.settings_sent += 1;
            json!({"applied": [], "needsRestart": broker.waiting})
        }
        _ => {
            let mut settings = json!({"needsRestart": broker.waiting});
            if broker.reports_its_hash {
                settings["startedHash"] = json!("of-an-older-file");
                settings["lastHash"] = json!(broker.sent_hash);
            }
            json!({"brokerId": 0, "clusterId": "c", "version": "0.1.0", "epoch": 1,
            "startedAtMs": broker.started_at_ms, "ready": !broker.is_unready, "settings": settings,
            "conditions": broker.conditions, "tier": broker.tier,
            "recovery": {"done": !broker.recovers}})
        }
    };
    Json(answer).into_response()
}

impl Stage {
    async fn set(spec: &Value) -> Self {
        let state = Arc::<Mutex<Broker>>::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let asked = state.clone();
        let router = Router::new().fallback(move |request| broker(asked.clone(), request));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let server = Server::default();
        server.put(
            CLUSTER,
            json!({
                "apiVersion": "ropewalk.dev/v1alpha1", "kind": "BrokerCluster",
                "metadata": {"name": "prod", "namespace": "shop", "uid": "uid-1", "generation": 1},
                "spec": spec,
            }),
        );
        let leadership = Leadership::assumed("me", Instant::now() + Duration::from_secs(600));
        let settings = Settings { broker_image: "ropewalk-broker:0.1.0".into() };
        let context = Context::new(
            server.client(),
            leadership,
            Metrics::default(),
            settings,
            address.clone(),
        );
        Self { server, context: Arc::new(context), broker: state, address }
    }

    /// Reconciles and returns the outcome and the writes.
    async fn try_reconcile(&self) -> (Result<Action, Failure>, Vec<String>) {
        let cluster = serde_json::from_value(self.server.at(CLUSTER)).expect("a cluster");
        let outcome = reconcile(cluster, self.context.clone()).await;
        (outcome, self.server.writes())
    }

    /// A condition: status, reason, message.
    fn condition(&self, kind: &str) -> (String, String, String) {
        let conditions = self.server.at(CLUSTER)["status"]["conditions"].clone();
        let conditions: Vec<Value> = serde_json::from_value(conditions).expect("conditions");
        let found = conditions.iter().find(|one| one["type"] == kind).expect("the condition");
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"), text("message"))
    }

    /// The reasons of the warning Events.
    fn warnings(&self) -> Vec<String> {
        let events = self.server.below(EVENTS);
        let warnings = events.iter().filter(|event| event["type"] == "Warning");
        warnings.map(|event| event["reason"].as_str().unwrap_or_default().to_owned()).collect()
    }

    async fn reconcile(&self) -> Vec<String> {
        let cluster = serde_json::from_value(self.server.at(CLUSTER)).expect("a cluster");
        reconcile(cluster, self.context.clone()).await.expect("reconciled");
        self.server.writes()
    }

    /// Simulates Kubernetes after a StatefulSet and a claim were created.
    fn run_pod(&self, uid: &str) {
        self.server.change(SECRET, &json!({"data": {"token": "c2VjcmV0"}}));
        let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "20Gi"}}});
        self.server.change(CLAIM, &bound);
        let set = self.server.at(SET);
        let revision = intent::hash(&set["spec"]["template"]);
        let mut labels = set["spec"]["template"]["metadata"]["labels"].clone();
        labels["controller-revision-hash"] = json!(revision);
        let generation = &set["metadata"]["generation"];
        let seen =
            json!({"observedGeneration": generation, "updateRevision": revision, "replicas": 1});
        self.server.change(SET, &json!({ "status": seen }));
        self.server.put(
            POD,
            json!({
                "metadata": {"name": "prod-broker-0-0", "namespace": "shop", "uid": uid, "labels": labels},
                "status": {
                    "podIP": "127.0.0.1",
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "containerStatuses": [{
                        "name": "broker", "image": "i", "imageID": "", "ready": true,
                        "restartCount": 0, "state": {"running": {}},
                    }],
                },
            }),
        );
        let mut broker = self.broker.lock();
        broker.started_at_ms += 1;
        broker.sent_hash = None;
    }

    /// Reconciles until nothing is left to write.
    async fn settle(&self) {
        self.reconcile().await;
        self.run_pod("pod-1");
        for _ in 0..5 {
            if self.reconcile().await.is_empty() {
                return;
            }
        }
        panic!("it never settles");
    }

    /// The pod that was evicted comes back as this one, and is not evicted again: nothing is left
    /// to write.
    async fn is_restarted_once(&self, uid: &str) {
        self.run_pod(uid);
        for _ in 0..5 {
            self.reconcile().await;
        }
        assert_eq!(self.reconcile().await, Vec::<String>::new(), "once is enough");
        assert_eq!(self.server.at(POD)["metadata"]["uid"], uid);
    }

    /// The broker's process is in a crash loop.
    fn process_ends_again_and_again(&self) {
        let mut looping = self.server.at(POD)["status"].clone();
        looping["containerStatuses"][0]["restartCount"] = json!(2);
        let now = Timestamp::now().to_string();
        let ended = json!({"terminated": {"exitCode": 4, "finishedAt": now}});
        looping["containerStatuses"][0]["lastState"] = ended;
        self.server.change(POD, &json!({ "status": looping }));
    }

    /// The cluster is to hibernate, and the wait for its consumers is over.
    fn hibernate(&self, generation: i64) {
        self.change_spec(&json!({"runState": "Hibernated"}), generation);
        let long_ago = Instant::now().checked_sub(Duration::from_secs(61)).expect("a time");
        self.context.hibernations.begin(&ClusterKey::new("shop", "prod"), long_ago);
    }

    fn change_spec(&self, spec: &Value, generation: i64) {
        self.server.change(CLUSTER, &json!({"spec": spec, "metadata": {"generation": generation}}));
    }
}

#[tokio::test]
async fn k1_a_converged_cluster_is_never_written() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    for _ in 0..3 {
        assert_eq!(stage.reconcile().await, Vec::<String>::new());
    }
    let status = stage.server.at(CLUSTER)["status"].clone();
    assert_eq!(status["brokersReady"], "1/1");
    assert_eq!(status["brokers"][0]["formatted"], true);
}

#[tokio::test]
async fn volumes_are_written_before_anything_that_uses_them() {
    let stage = Stage::set(&json!({})).await;
    let writes = stage.reconcile().await;
    let at = |what: &str| writes.iter().position(|write| write.contains(what)).expect("written");
    assert_eq!(at("persistentvolumeclaims"), 0);
    assert!(at("configmaps") < at("statefulsets") && at("secrets") < at("statefulsets"));
}

#[tokio::test]
async fn the_leave_to_format_is_taken_back_once_the_broker_was_ready() {
    let stage = Stage::set(&json!({})).await;
    stage.reconcile().await;
    let file = |stage: &Stage| stage.server.at(CONFIG)["data"]["broker.properties"].to_string();
    assert!(file(&stage).contains("format.cluster.id=uid-1"));
    stage.settle().await;
    assert!(!file(&stage).contains("format.cluster.id"));
    let annotations = stage.server.at(CLAIM)["metadata"]["annotations"].clone();
    assert_eq!(annotations["ropewalk.dev/formatted"], "true");
}

#[tokio::test]
async fn d4_the_leave_to_format_is_taken_back_also_while_settings_are_refused() {
    let file = |stage: &Stage| stage.server.at(CONFIG)["data"]["broker.properties"].to_string();
    for answers in [true, false] {
        let stage = Stage::set(&json!({})).await;
        stage.reconcile().await;
        stage.run_pod("pod-1");
        {
            let mut broker = stage.broker.lock();
            (broker.refuses, broker.is_silent) = (true, !answers);
        }
        let bad = json!({"config": {"num.partitions": "no number"}});
        stage.change_spec(&bad, 2);
        for _ in 0..3 {
            stage.try_reconcile().await.0.ok();
        }
        let text = file(&stage);
        assert!(!text.contains("format.cluster.id"), "answers: {answers}: {text}");
        assert!(!text.contains("no number") && text.contains("node.id=0"), "{text}");
        let (_, writes) = stage.try_reconcile().await;
        assert_eq!(writes, Vec::<String>::new(), "k1");
    }
}

#[tokio::test]
async fn an_accepted_loss_is_accepted_once() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    let uid = stage.server.at(CLAIM)["metadata"]["uid"].clone();
    let accept = json!({"metadata": {"annotations": {"ropewalk.dev/accept-data-loss": uid}}});
    stage.server.change(CLUSTER, &accept);
    stage.server.change(POD, &json!({"status": {"conditions": []}}));
    stage.reconcile().await;
    let file = |stage: &Stage| stage.server.at(CONFIG)["data"]["broker.properties"].to_string();
    assert!(file(&stage).contains("format.cluster.id"));
    stage.run_pod("pod-2");
    stage.reconcile().await;
    stage.reconcile().await;
    assert!(!file(&stage).contains("format.cluster.id"));
    let annotations = stage.server.at(CLUSTER)["metadata"]["annotations"].clone();
    assert_eq!(annotations, json!({}));
}

#[tokio::test]
async fn k2_a_restart_writes_the_template_and_deletes_that_pod_only() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    stage.change_spec(&json!({"version": "0.2.0"}), 2);
    let writes = stage.reconcile().await;
    let stops = |write: &&String| write.starts_with("DELETE") || write.starts_with("POST");
    assert_eq!(writes.iter().filter(stops).collect::<Vec<_>>(), [EVICTION]);
    assert_eq!(stage.server.at(POD), Value::Null);
    let image = stage.server.at(SET)["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    assert_eq!(image, "ropewalk-broker:0.2.0");
    stage.is_restarted_once("pod-2").await;
}

#[tokio::test]
async fn k2_nothing_is_restarted_without_the_lease() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    stage.change_spec(&json!({"version": "0.2.0"}), 2);
    let mut context = (*stage.context).clone();
    context.leadership = Leadership::none("me");
    let brokers = crate::admin::Brokers::new(
        stage.server.client(),
        Leadership::none("me"),
        stage.address.clone(),
    );
    context.brokers = Arc::new(brokers);
    let context = Arc::new(context);
    let cluster = serde_json::from_value(stage.server.at(CLUSTER)).expect("a cluster");
    let outcome = reconcile(cluster, context).await;
    assert!(outcome.is_err());
    let writes = stage.server.writes();
    assert!(!writes.contains(&EVICTION.to_owned()), "{writes:?}");
    assert_eq!(stage.server.at(POD)["metadata"]["uid"], "pod-1");
}

#[tokio::test]
async fn k5_a_newer_operator_restarts_nothing() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    let mut context = (*stage.context).clone();
    context.settings.broker_image = "ropewalk-broker:0.9.0".to_owned();
    (context.settings_log, context.contested) = Default::default();
    let context = Arc::new(context);
    // The newer release also renders a setting differently.
    stage.broker.lock().waiting.push("auto.create.topics.enable");
    for _ in 0..3 {
        let cluster = serde_json::from_value(stage.server.at(CLUSTER)).expect("a cluster");
        reconcile(cluster, context.clone()).await.expect("reconciled");
    }
    let writes = stage.server.writes();
    let only_status = writes.iter().all(|write| write.ends_with("/status"));
    assert!(only_status, "{writes:?}");
    let conditions = stage.server.at(CLUSTER)["status"]["conditions"].clone();
    let conditions: Vec<Value> = serde_json::from_value(conditions).expect("conditions");
    let upgrade = conditions.iter().find(|c| c["type"] == "UpgradeAvailable").expect("shown");
    assert_eq!(upgrade["status"], "True");
}

#[tokio::test]
async fn settings_that_need_a_restart_get_one_and_only_one() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    stage.change_spec(&json!({"config": {"num.partitions": "3"}}), 2);
    stage.broker.lock().waiting.push("num.partitions");
    let writes = stage.reconcile().await;
    assert!(writes.contains(&EVICTION.to_owned()), "{writes:?}");
    stage.broker.lock().waiting.clear();
    stage.is_restarted_once("pod-2").await;
}

#[tokio::test]
async fn k4_a_paused_cluster_is_shown_and_not_touched() {
    let stage = Stage::set(&json!({"managementState": "Paused"})).await;
    let writes = stage.reconcile().await;
    assert_eq!(writes, [format!("PATCH {CLUSTER}/status")]);
}

#[tokio::test]
async fn somebody_elses_service_is_not_taken_over_and_stops_no_other_step() {
    let stage = Stage::set(&json!({})).await;
    let path = "/api/v1/namespaces/shop/services/prod-bootstrap";
    stage.server.put(path, json!({"metadata": {"name": "prod-bootstrap"}, "spec": {"x": 1}}));
    let cluster = serde_json::from_value(stage.server.at(CLUSTER)).expect("a cluster");
    assert!(reconcile(cluster, stage.context.clone()).await.is_err(), "it is tried again");
    assert_eq!(stage.server.at(path)["spec"], json!({"x": 1}));
    assert_eq!(stage.server.at(SET)["spec"]["replicas"], 1, "the other steps went on");
    let conditions = stage.server.at(CLUSTER)["status"]["conditions"].to_string();
    assert!(conditions.contains("NameCollision"), "{conditions}");
    assert!(conditions.contains("prod-bootstrap belongs to "), "{conditions}");
}

#[tokio::test]
async fn k4_volumes_are_deleted_under_delete_and_kept_under_retain() {
    // The policy at creation, and at deletion.
    for (made, ended) in [("Retain", "Retain"), ("Delete", "Delete"), ("Delete", "Retain")] {
        let stage = Stage::set(&json!({"deletionPolicy": made})).await;
        stage.settle().await;
        let finalizers = stage.server.at(CLUSTER)["metadata"]["finalizers"].clone();
        assert_eq!(finalizers == json!(["ropewalk.dev/data"]), made == "Delete");
        let deleted = json!({
            "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"deletionPolicy": ended},
        });
        stage.server.change(CLUSTER, &deleted);
        stage.reconcile().await;
        let is_kept = stage.server.at(CLAIM) != Value::Null;
        assert_eq!(is_kept, ended == "Retain", "{made} {ended}");
        let finalizers = stage.server.at(CLUSTER)["metadata"]["finalizers"].clone();
        assert!(finalizers == json!([]) || finalizers == Value::Null, "it ends");
    }
}

mod claims;
mod drift;
mod object_storage;
mod rights;
mod rollout;
