//! A Queue from creation to deletion, with a fake API server and a fake broker.

use std::time::Instant;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Json, Response};
use kube::runtime::watcher::Event;
use parking_lot::Mutex;
use ropewalk_operator_plan::cluster::validate::Settings;
use serde_json::Value;

use super::*;
use crate::fake_api_server::Server;
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::outages as outage;

const QUEUE: &str = "/apis/ropewalk.dev/v1alpha1/namespaces/shop/queues/orders";
const CLUSTERS: &str = "/apis/ropewalk.dev/v1alpha1/namespaces/shop/brokerclusters";

/// State of the fake broker: requests, owner of the topic, bound groups.
#[derive(Debug)]
struct Broker {
    asked: Vec<String>,
    owner: Option<&'static str>,
    topic_id: &'static str,
    bound: Vec<String>,
    refuses_to_unbind: bool,
}

impl Default for Broker {
    fn default() -> Self {
        let (asked, bound) = (vec![], vec![]);
        Self { asked, owner: None, topic_id: "t", bound, refuses_to_unbind: false }
    }
}

impl Broker {
    /// Requests about groups.
    fn of_groups(&mut self, method: &axum::http::Method, path: &str) -> Option<Response> {
        if path.starts_with("/v1/owners/") {
            let groups: Vec<_> = self.bound.iter().map(|group| json!({"group": group})).collect();
            let queue = json!({"name": "orders", "topicId": "t", "groups": groups});
            return Some(Json(json!({"owner": "uid-2", "queues": [queue]})).into_response());
        }
        let group = path.strip_prefix("/v1/queues/orders/groups/")?;
        let group = group.split('?').next()?.to_owned();
        if method == axum::http::Method::PUT {
            self.bound.retain(|bound| *bound != group);
            self.bound.push(group);
            return Some(Json(json!({"bound": true})).into_response());
        }
        if self.refuses_to_unbind {
            let body = json!({"reason": "NotReady", "error": "the catalog has no leader"});
            return Some((StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response());
        }
        self.bound.retain(|bound| *bound != group);
        Some(Json(json!({"bound": false})).into_response())
    }
}

struct Stage {
    server: Server,
    context: Arc<Context>,
    clusters: Clusters,
    broker: Arc<Mutex<Broker>>,
    writer: reflector::store::Writer<Guarded<BrokerCluster>>,
}

async fn answer(broker: Arc<Mutex<Broker>>, request: Request) -> Response {
    let path = request.uri().to_string();
    let mut broker = broker.lock();
    if path != "/v1/fence" {
        broker.asked.push(format!("{} {path}", request.method()));
    }
    let is_put = request.method() == axum::http::Method::PUT;
    if let (true, Some(owner)) = (is_put, broker.owner) {
        let body = json!({"reason": "NameCollision", "error": "taken", "owner": owner});
        return (StatusCode::CONFLICT, Json(body)).into_response();
    }
    if let Some(response) = broker.of_groups(request.method(), &path) {
        return response;
    }
    let is_delete = request.method() == axum::http::Method::DELETE;
    let is_owners = |owner: &str| path.contains(&format!("?owner={owner}&"));
    if let Some(owner) = broker.owner.filter(|owner| is_delete && !is_owners(owner)) {
        let body = json!({"reason": "NameCollision", "error": "not yours", "owner": owner});
        return (StatusCode::CONFLICT, Json(body)).into_response();
    }
    if path.ends_with("data=keep") {
        broker.owner = None;
    }
    if request.method() == axum::http::Method::GET {
        let body = json!({"reason": "NoSuchQueue", "error": "there is no queue"});
        return (StatusCode::NOT_FOUND, Json(body)).into_response();
    }
    let id = broker.topic_id;
    Json(json!({"epoch": 1, "topicId": id, "partitions": 12})).into_response()
}

impl Stage {
    async fn set(spec: &Value, age_seconds: i64) -> Self {
        let broker = Arc::new(Mutex::new(Broker::default()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let asked = broker.clone();
        let router = Router::new().fallback(move |request| answer(asked.clone(), request));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let server = Server::default();
        let created = Timestamp::now().as_second() - age_seconds;
        let created = Timestamp::from_second(created).expect("a time").to_string();
        server.put(
            QUEUE,
            json!({
                "apiVersion": "ropewalk.dev/v1alpha1", "kind": "Queue", "spec": spec,
                "metadata": {"name": "orders", "namespace": "shop", "uid": "uid-2",
                    "generation": 1, "creationTimestamp": created},
            }),
        );
        let secret = "/api/v1/namespaces/shop/secrets/default-admin";
        server.put(secret, json!({"data": {"token": "c2VjcmV0"}}));
        let leadership = Leadership::assumed("me", Instant::now() + Duration::from_secs(600));
        let settings = Settings { broker_image: "i".into() };
        let metrics = Metrics::default();
        let context = Context::new(server.client(), leadership, metrics, settings, address);
        let (clusters, mut writer) = reflector::store();
        writer.apply_watcher_event(&Event::Init);
        writer.apply_watcher_event(&Event::InitDone);
        context.clusters.write().push(clusters.clone());
        Self { server, context: Arc::new(context), clusters, broker, writer }
    }

    /// The cluster is there and ready.
    fn with_cluster(mut self) -> Self {
        self.set_cluster(cluster());
        self
    }

    fn set_cluster(&mut self, cluster: Box<BrokerCluster>) {
        let guarded = kube::core::DeserializeGuard(Ok(*cluster));
        self.writer.apply_watcher_event(&Event::Apply(guarded));
    }

    /// The status and reason of a condition.
    fn condition(&self, kind: &str) -> (String, String) {
        let conditions = self.server.at(QUEUE)["status"]["conditions"].clone();
        let conditions = conditions.as_array().expect("conditions").clone();
        let found = conditions.iter().find(|condition| condition["type"] == kind).expect(kind);
        let text = |key: &str| found[key].as_str().expect(key).to_owned();
        (text("status"), text("reason"))
    }

    async fn try_to_reconcile(&self) -> Result<Action, Failure> {
        let queue = serde_json::from_value(self.server.at(QUEUE)).expect("a Queue");
        reconcile(queue, self.context.clone(), self.clusters.clone()).await
    }

    async fn reconcile(&self) -> Vec<String> {
        self.try_to_reconcile().await.expect("reconciled");
        self.server.writes()
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.broker.lock().asked)
    }
}

#[tokio::test]
async fn the_default_cluster_is_made_for_a_queue_of_five_seconds() {
    let stage = Stage::set(&json!({}), 0).await;
    let writes = stage.reconcile().await;
    assert!(!writes.iter().any(|write| write.starts_with("POST")), "too young: {writes:?}");
    let stage = Stage::set(&json!({}), 6).await;
    let writes = stage.reconcile().await;
    assert!(writes.contains(&format!("POST {CLUSTERS}")), "{writes:?}");
    let made = stage.server.at(&format!("{CLUSTERS}/default"));
    assert_eq!(made["metadata"]["annotations"]["ropewalk.dev/made-for-queue"], "orders");
    assert!(made["metadata"].get("ownerReferences").is_none(), "only a user deletes it");
}

#[tokio::test]
async fn k4_a_cluster_that_is_gone_is_never_replaced_by_an_empty_one() {
    let stage = Stage::set(&json!({}), 6).await;
    stage.server.change(QUEUE, &json!({"status": {"clusterName": "default"}}));
    let writes = stage.reconcile().await;
    assert_eq!(writes, [format!("PATCH {QUEUE}/status")]);
    let conditions = stage.server.at(QUEUE)["status"]["conditions"].to_string();
    assert!(conditions.contains("ClusterNotFound"), "{conditions}");
}

#[tokio::test]
async fn k1_a_converged_queue_is_declared_again_and_never_written() {
    let stage = Stage::set(&json!({"consumers": [{"name": "worker"}]}), 6).await;
    let stage = stage.with_cluster();
    assert_eq!(stage.reconcile().await, [format!("PATCH {QUEUE}/status")]);
    for _ in 0..3 {
        stage.asked();
        assert_eq!(stage.reconcile().await, Vec::<String>::new());
        let expected = [
            "PUT /v1/queues/orders",
            "PUT /v1/queues/orders/groups/shop.orders.worker",
            "GET /v1/owners/uid-2",
        ];
        assert_eq!(stage.asked(), expected);
    }
}

#[tokio::test]
async fn a_queue_is_declared_also_when_the_budget_for_statuses_is_used_up() {
    let stage = Stage::set(&json!({}), 6).await.with_cluster();
    let budget = stage.context.budget.clone();
    // In the future, so that the bucket is not refilled before the first reconcile.
    while budget.admit(Instant::now() + Duration::from_secs(600)) {}
    let action = stage.try_to_reconcile().await.expect("reconciled");
    assert!(stage.asked().contains(&"PUT /v1/queues/orders".to_owned()));
    assert_eq!(stage.server.writes(), Vec::<String>::new());
    let queue = serde_json::from_value(stage.server.at(QUEUE)).expect("a Queue");
    let turn = outage::turn(&queue, UNWRITTEN_MAX).max(Duration::from_secs(1));
    assert_eq!(action, Action::requeue(turn), "soon, and each Queue at its own time");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(stage.reconcile().await, [format!("PATCH {QUEUE}/status")]);
}

#[tokio::test]
async fn a_paused_queue_without_a_topic_says_so_and_makes_none() {
    let stage = Stage::set(&json!({"managementState": "Paused"}), 6).await.with_cluster();
    for _ in 0..2 {
        stage.reconcile().await;
        assert_eq!(stage.asked(), ["GET /v1/queues/orders"]);
    }
    let conditions = stage.server.at(QUEUE)["status"]["conditions"].to_string();
    assert!(conditions.contains("there is no topic orders"), "{conditions}");
}

#[tokio::test]
async fn a_queue_that_was_made_anew_does_not_get_the_status_of_the_old_one() {
    let stage = Stage::set(&json!({}), 6).await.with_cluster();
    let old = serde_json::from_value(stage.server.at(QUEUE)).expect("a Queue");
    stage.server.change(QUEUE, &json!({"metadata": {"uid": "uid-3"}}));
    reconcile(old, stage.context.clone(), stage.clusters.clone())
        .await
        .expect("nothing to be done");
    assert!(stage.server.at(QUEUE).get("status").is_none());
}

#[tokio::test]
async fn a_consumer_that_is_taken_away_is_unbound() {
    let stage = Stage::set(&json!({"consumers": [{"name": "worker"}]}), 6).await;
    let stage = stage.with_cluster();
    stage.reconcile().await;
    stage.asked();
    stage.server.change(QUEUE, &json!({"spec": {"consumers": []}}));
    stage.reconcile().await;
    let unbound = "DELETE /v1/queues/orders/groups/shop.orders.worker?owner=uid-2".to_owned();
    assert!(stage.asked().contains(&unbound));
}

#[tokio::test]
async fn a_group_is_unbound_also_when_the_first_try_failed() {
    let stage = Stage::set(&json!({"consumers": [{"name": "worker"}]}), 6).await;
    let stage = stage.with_cluster();
    stage.reconcile().await;
    stage.server.change(QUEUE, &json!({"spec": {"consumers": []}, "metadata": {"generation": 2}}));
    stage.broker.lock().refuses_to_unbind = true;
    for _ in 0..2 {
        assert!(stage.try_to_reconcile().await.is_err(), "it is tried again");
        assert_eq!(stage.condition("ConsumersBound"), ("True".into(), "NotUnbound".into()));
    }
    stage.broker.lock().refuses_to_unbind = false;
    stage.reconcile().await;
    assert!(stage.broker.lock().bound.is_empty());
    assert_eq!(stage.condition("ConsumersBound").1, "Bound");
}

#[tokio::test]
async fn a_group_that_was_taken_away_while_nothing_could_be_unbound_is_unbound_later() {
    let stage = Stage::set(&json!({"consumers": [{"name": "worker"}]}), 6).await;
    let mut stage = stage.with_cluster();
    stage.reconcile().await;
    let removed = json!({"spec": {"consumers": [], "managementState": "Paused"}});
    stage.server.change(QUEUE, &removed);
    stage.try_to_reconcile().await.ok();
    stage.set_cluster(unready(cluster()));
    stage.reconcile().await;
    assert_eq!(stage.broker.lock().bound, ["shop.orders.worker"]);
    stage.server.change(QUEUE, &json!({"spec": {"managementState": "Managed"}}));
    stage.set_cluster(cluster());
    stage.reconcile().await;
    assert!(stage.broker.lock().bound.is_empty());
}

#[tokio::test]
async fn k4_a_topic_that_vanished_is_named_until_a_person_accepts_it() {
    let stage = Stage::set(&json!({}), 6).await.with_cluster();
    stage.reconcile().await;
    assert_eq!(stage.condition("TopicLost").0, "False");
    stage.broker.lock().topic_id = "new";
    for _ in 0..3 {
        stage.reconcile().await;
        assert_eq!(stage.condition("TopicLost"), ("True".into(), "TopicRecreated".into()));
        assert_eq!(stage.condition("Ready"), ("False".into(), "TopicLost".into()));
    }
    assert_eq!(stage.reconcile().await, Vec::<String>::new(), "said once");
    let status = stage.server.at(QUEUE)["status"].clone();
    assert_eq!((&status["lostTopicId"], &status["topicId"]), (&json!("t"), &json!("new")));
    let accepted = json!({"metadata": {"annotations": {"ropewalk.dev/accept-topic-loss": "t"}}});
    stage.server.change(QUEUE, &accepted);
    stage.reconcile().await;
    assert_eq!(stage.condition("TopicLost").0, "False");
    assert_eq!(stage.condition("Ready").1, "QueueReady");
}

#[tokio::test]
async fn k4_no_other_queue_gets_a_default_cluster_in_place_of_one_that_is_gone() {
    let stage = Stage::set(&json!({}), 6).await;
    let other = "/apis/ropewalk.dev/v1alpha1/namespaces/shop/queues/older";
    let was_in = |cluster: &str| {
        json!({
            "apiVersion": "ropewalk.dev/v1alpha1", "kind": "Queue", "spec": {"partitions": "many"},
            "metadata": {"name": "older", "namespace": "shop", "uid": "uid-1"},
            "status": {"clusterName": cluster},
        })
    };
    stage.server.put(other, was_in("default"));
    let writes = stage.reconcile().await;
    assert_eq!(writes, [format!("PATCH {QUEUE}/status")]);
    assert_eq!(stage.condition("Ready"), ("False".into(), "ClusterNotFound".into()));
    // A Queue that was in another cluster does not count for `default`.
    stage.server.put(other, was_in("another"));
    let writes = stage.reconcile().await;
    assert!(writes.contains(&format!("POST {CLUSTERS}")), "{writes:?}");
}

#[tokio::test]
async fn k1_a_restart_of_the_broker_is_no_write_for_a_queue() {
    let stage = Stage::set(&json!({"consumers": [{"name": "worker"}]}), 6).await;
    let mut stage = stage.with_cluster();
    stage.reconcile().await;
    stage.set_cluster(unready(cluster()));
    assert_eq!(stage.reconcile().await, Vec::<String>::new());
    stage.set_cluster(cluster());
    assert_eq!(stage.reconcile().await, Vec::<String>::new());
}

#[tokio::test]
async fn k4_the_topic_of_a_queue_that_is_gone_is_taken_over_with_its_data() {
    let stage = Stage::set(&json!({}), 6).await.with_cluster();
    stage.broker.lock().owner = Some("uid-of-the-past");
    stage.reconcile().await;
    let freed = "DELETE /v1/queues/orders?owner=uid-of-the-past&data=keep".to_owned();
    assert!(stage.asked().contains(&freed));
    let conditions = stage.server.at(QUEUE)["status"]["conditions"].to_string();
    assert!(conditions.contains("QueueReady"), "{conditions}");
}

#[tokio::test]
async fn a_topic_of_a_queue_that_lives_is_a_collision() {
    let stage = Stage::set(&json!({}), 6).await.with_cluster();
    let other = "/apis/ropewalk.dev/v1alpha1/namespaces/shop/queues/other";
    stage.server.put(other, json!({"metadata": {"name": "other", "uid": "uid-1"}}));
    stage.broker.lock().owner = Some("uid-1");
    stage.reconcile().await;
    assert!(!stage.asked().iter().any(|asked| asked.starts_with("DELETE")));
    let conditions = stage.server.at(QUEUE)["status"]["conditions"].to_string();
    assert!(conditions.contains("NameCollision"), "{conditions}");
}

#[tokio::test]
async fn k4_deletion_ends_and_deletes_only_under_delete() {
    for (policy, has_cluster) in [("Delete", true), ("Delete", false), ("Retain", true)] {
        let mut stage = Stage::set(&json!({"deletionPolicy": policy}), 6).await;
        if has_cluster {
            stage = stage.with_cluster();
        }
        let going = json!({"metadata": {
            "finalizers": ["ropewalk.dev/data"],
            "deletionTimestamp": "2026-01-01T00:00:00Z",
        }});
        stage.server.change(QUEUE, &going);
        stage.reconcile().await;
        assert_eq!(stage.server.at(QUEUE)["metadata"]["finalizers"], json!([]), "it ends");
        let deleted = "DELETE /v1/queues/orders?owner=uid-2&data=delete".to_owned();
        let is_deleted = stage.asked().contains(&deleted);
        assert_eq!(is_deleted, policy == "Delete" && has_cluster, "{policy}");
    }
}

#[tokio::test]
async fn k4_a_deletion_does_not_wait_for_a_topic_that_belongs_to_another() {
    let stage = Stage::set(&json!({"deletionPolicy": "Delete"}), 6).await.with_cluster();
    stage.broker.lock().owner = Some("uid-1");
    // A recent deletion: unreachable brokers would still be waited for.
    let going = json!({"metadata": {
        "finalizers": ["ropewalk.dev/data"],
        "deletionTimestamp": Timestamp::now().to_string(),
    }});
    stage.server.change(QUEUE, &going);
    stage.reconcile().await;
    assert_eq!(stage.asked(), ["DELETE /v1/queues/orders?owner=uid-2&data=delete"]);
    assert_eq!(stage.broker.lock().owner, Some("uid-1"), "it stays");
    assert_eq!(stage.server.at(QUEUE)["metadata"]["finalizers"], json!([]), "it ends");
}

#[tokio::test]
async fn a_broker_that_answers_and_is_not_ready_is_declared_to() {
    let mut stage = Stage::set(&json!({}), 6).await;
    let mut full = unready(cluster());
    stage.set_cluster(full.clone());
    stage.reconcile().await;
    assert_eq!(stage.asked(), Vec::<String>::new(), "no broker answers");
    let conditions = &mut full.status.as_mut().expect("a status").conditions;
    let mut answers = conditions[0].clone();
    answers.type_ = condition::cluster::ADMIN_REACHABLE.to_owned();
    answers.status = "True".to_owned();
    conditions.push(answers);
    stage.set_cluster(full);
    stage.reconcile().await;
    assert!(stage.asked().contains(&"PUT /v1/queues/orders".to_owned()));
}

#[tokio::test]
async fn a_queue_that_needs_a_bucket_waits_until_its_cluster_has_one() {
    let mut stage = Stage::set(&json!({"tiering": {}}), 6).await.with_cluster();
    stage.reconcile().await;
    assert_eq!(stage.asked(), Vec::<String>::new(), "nothing is declared");
    let said = stage.condition(condition::READY);
    assert_eq!(said, ("False".to_owned(), "NoObjectStorage".to_owned()));
    let mut with_bucket = cluster();
    with_bucket.spec.object_storage =
        Some(serde_json::from_value(json!({"bucket": "older"})).expect("a bucket"));
    stage.set_cluster(with_bucket);
    stage.reconcile().await;
    assert!(stage.asked().contains(&"PUT /v1/queues/orders".to_owned()));
    assert_eq!(stage.condition(condition::READY).0, "True");
}

#[tokio::test]
async fn one_unreadable_queue_is_counted_and_left() {
    let stage = Stage::set(&json!({}), 6).await;
    let broken = json!({"metadata": {"name": "broken", "namespace": "shop"}, "spec": {"partitions": "many"}});
    let guarded: Guarded<Queue> = serde_json::from_value(broken).expect("guarded");
    let context = stage.context.clone();
    let work = |_: Queue, _| async { panic!("it cannot be reconciled") };
    let action =
        watch::reconcile_guarded(Arc::new(guarded), context.clone(), work).await.expect("left");
    assert_eq!(action, Action::await_change());
    assert!(context.metrics.text().contains(r#"unreadable_objects_total{kind="Queue"} 1"#));
}
