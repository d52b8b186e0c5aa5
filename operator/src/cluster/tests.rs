//! A cluster from nothing to rest, on an API server and a broker that are played.

use std::time::Instant;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Json, Response};
use ropewalk_operator_plan::cluster::validate::Settings;
use serde_json::Value;

use super::*;
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::played::Server;

const CLUSTER: &str = "/apis/ropewalk.dev/v1alpha1/namespaces/shop/brokerclusters/prod";
const SET: &str = "/apis/apps/v1/namespaces/shop/statefulsets/prod-broker-0";
const POD: &str = "/api/v1/namespaces/shop/pods/prod-broker-0-0";
const CLAIM: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/data-prod-broker-0";
const CONFIG: &str = "/api/v1/namespaces/shop/configmaps/prod-broker-0";

/// What the broker says waits for a restart.
type Waiting = Arc<Mutex<Vec<&'static str>>>;

struct Stage {
    server: Server,
    work: Work,
    waiting: Waiting,
}

async fn broker(waiting: Waiting, request: Request) -> Response {
    let waiting = waiting.lock().clone();
    let answer = match request.uri().path() {
        "/v1/fence" => json!({"epoch": 1}),
        "/v1/settings" => json!({"applied": [], "needsRestart": waiting}),
        _ => {
            json!({"brokerId": 0, "clusterId": "c", "version": "0.1.0", "epoch": 1, "startedAtMs": 5,
            "ready": true, "settings": {"needsRestart": waiting}})
        }
    };
    Json(answer).into_response()
}

impl Stage {
    async fn set(spec: &Value) -> Self {
        let waiting = Waiting::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let asked = waiting.clone();
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
        let context =
            Context::new(server.client(), leadership, Metrics::default(), settings, address);
        let work = Work { context: Arc::new(context), told: Arc::default() };
        Self { server, work, waiting }
    }

    async fn reconcile(&self) -> Vec<String> {
        let cluster = serde_json::from_value(self.server.at(CLUSTER)).expect("a cluster");
        reconcile(cluster, self.work.clone()).await.expect("reconciled");
        self.server.writes()
    }

    /// What Kubernetes does when there is a StatefulSet and a claim.
    fn run_pod(&self, uid: &str) {
        let secret = "/api/v1/namespaces/shop/secrets/prod-admin";
        self.server.change(secret, &json!({"data": {"token": "c2VjcmV0"}}));
        let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "20Gi"}}});
        self.server.change(CLAIM, &bound);
        let labels = self.server.at(SET)["spec"]["template"]["metadata"]["labels"].clone();
        self.server.put(
            POD,
            json!({
                "metadata": {"name": "prod-broker-0-0", "namespace": "shop", "uid": uid, "labels": labels},
                "status": {"podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
            }),
        );
    }

    /// From nothing until nothing is left to write.
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
    assert_eq!(writes.iter().filter(|write| write.starts_with("DELETE")).count(), 1);
    assert!(writes.contains(&format!("DELETE {POD}")), "{writes:?}");
    let image = stage.server.at(SET)["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    assert_eq!(image, "ropewalk-broker:0.2.0");
    stage.run_pod("pod-2");
    for _ in 0..5 {
        stage.reconcile().await;
    }
    assert_eq!(stage.reconcile().await, Vec::<String>::new(), "once is enough");
}

#[tokio::test]
async fn k2_nothing_is_restarted_without_the_lease() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    stage.change_spec(&json!({"version": "0.2.0"}), 2);
    let mut context = (*stage.work.context).clone();
    context.leadership = Leadership::none("me");
    let brokers = crate::admin::Brokers::new(
        stage.server.client(),
        Leadership::none("me"),
        "127.0.0.1:1".to_owned(),
    );
    context.brokers = Arc::new(brokers);
    let work = Work { context: Arc::new(context), told: Arc::default() };
    let cluster = serde_json::from_value(stage.server.at(CLUSTER)).expect("a cluster");
    let outcome = reconcile(cluster, work).await;
    assert!(outcome.is_err());
    let writes = stage.server.writes();
    assert!(!writes.iter().any(|write| write.starts_with("DELETE")), "{writes:?}");
}

#[tokio::test]
async fn k5_a_newer_operator_restarts_nothing() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    let mut context = (*stage.work.context).clone();
    context.settings.broker_image = "ropewalk-broker:0.9.0".to_owned();
    let work = Work { context: Arc::new(context), told: Arc::default() };
    // It renders a setting differently, too.
    stage.waiting.lock().push("auto.create.topics.enable");
    for _ in 0..3 {
        let cluster = serde_json::from_value(stage.server.at(CLUSTER)).expect("a cluster");
        reconcile(cluster, work.clone()).await.expect("reconciled");
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
    stage.waiting.lock().push("num.partitions");
    let writes = stage.reconcile().await;
    assert!(writes.contains(&format!("DELETE {POD}")), "{writes:?}");
    stage.waiting.lock().clear();
    stage.run_pod("pod-2");
    for _ in 0..5 {
        stage.reconcile().await;
    }
    assert_eq!(stage.reconcile().await, Vec::<String>::new());
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
    assert!(reconcile(cluster, stage.work.clone()).await.is_err(), "it is tried again");
    assert_eq!(stage.server.at(path)["spec"], json!({"x": 1}));
    assert_eq!(stage.server.at(SET)["spec"]["replicas"], 1, "the other steps went on");
    let conditions = stage.server.at(CLUSTER)["status"]["conditions"].to_string();
    assert!(conditions.contains("NameCollision"), "{conditions}");
}

#[tokio::test]
async fn k4_volumes_are_deleted_under_delete_and_kept_under_retain() {
    for (policy, is_kept) in [("Retain", true), ("Delete", false)] {
        let stage = Stage::set(&json!({"deletionPolicy": policy})).await;
        stage.settle().await;
        let finalizers = stage.server.at(CLUSTER)["metadata"]["finalizers"].clone();
        assert_eq!(finalizers == json!(["ropewalk.dev/data"]), !is_kept);
        let deleted = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        stage.server.change(CLUSTER, &deleted);
        stage.reconcile().await;
        assert_eq!(stage.server.at(CLAIM) != Value::Null, is_kept);
        let finalizers = stage.server.at(CLUSTER)["metadata"]["finalizers"].clone();
        assert!(finalizers == json!([]) || finalizers == Value::Null, "it ends");
    }
}
