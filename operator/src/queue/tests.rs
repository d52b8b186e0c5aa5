//! What the status of a Queue says, and when it is written.

use k8s_openapi::jiff::Timestamp;
use ropewalk_operator_plan::queue::Refused;
use serde_json::json;

use super::*;

fn queue(status: &str) -> Queue {
    serde_yaml_ng::from_str(&format!(
        "{{apiVersion: ropewalk.dev/v1alpha1, kind: Queue, metadata: {{name: orders, namespace: shop, uid: u, generation: 1}}, spec: {{consumers: [{{name: worker}}]}}, status: {status}}}"
    ))
    .expect("a Queue")
}

fn cluster() -> Box<BrokerCluster> {
    let text = "{apiVersion: ropewalk.dev/v1alpha1, kind: BrokerCluster, metadata: {name: default, namespace: shop}, spec: {},
        status: {replicas: 1, readyReplicas: 1, bootstrapServers: 'b:9092', conditions: [{type: Ready, status: 'True', reason: R, message: m, lastTransitionTime: '2026-01-01T00:00:00Z'}]}}";
    Box::new(serde_yaml_ng::from_str(text).expect("a cluster"))
}

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).expect("a time"))
}

#[test]
fn k1_a_converged_queue_is_not_written() {
    let declared = Declared { topic_id: "t".into(), partitions: 12, ..Declared::default() };
    let resolved = Resolved::Found(cluster());
    let mut queue = queue("{}");
    let status_of = |queue: &Queue, second| {
        let facts = Facts {
            queue,
            cluster: resolved.seen(),
            declared: Some(Ok(declared.clone())),
            unbound: vec![],
        };
        status(&facts, &resolved, &queue.status.clone().unwrap_or_default(), &at(second))
    };
    let first = status_of(&queue, 1000);
    assert!(condition::is_true(&first.conditions, condition::READY));
    assert_eq!(first.bootstrap_servers.as_deref(), Some("b:9092"));
    // The figures and the scaling add what is theirs.
    let mut stored = first.clone();
    stored.length = Some(7);
    stored.consumers[0].replicas = Some(3);
    queue.status = Some(stored.clone());
    assert!(holds(&stored, &status_of(&queue, 2000)));
}

#[test]
fn what_was_once_known_is_kept_while_the_cluster_is_away() {
    let queue =
        queue("{clusterName: default, topicId: t, partitions: 12, bootstrapServers: 'b:9092'}");
    let refused = Refused { reason: "ClusterNotFound", message: "gone".into() };
    let resolved = Resolved::Missing(refused);
    let facts = Facts { queue: &queue, cluster: resolved.seen(), declared: None, unbound: vec![] };
    let status = status(&facts, &resolved, &queue.status.clone().unwrap_or_default(), &at(1));
    assert_eq!(status.cluster_name.as_deref(), Some("default"));
    assert_eq!((status.topic_id.as_deref(), status.partitions), (Some("t"), Some(12)));
    assert!(!condition::is_true(&status.conditions, condition::READY));
}

mod walk {
    //! A Queue from nothing to rest and to its end, on an API server and a broker that are played.

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
    use crate::lease::Leadership;
    use crate::metrics::Metrics;
    use crate::played::Server;

    const QUEUE: &str = "/apis/ropewalk.dev/v1alpha1/namespaces/shop/queues/orders";
    const CLUSTERS: &str = "/apis/ropewalk.dev/v1alpha1/namespaces/shop/brokerclusters";

    /// What the broker was asked, and who owns the topic.
    #[derive(Debug, Default)]
    struct Broker {
        asked: Vec<String>,
        owner: Option<&'static str>,
    }

    struct Stage {
        server: Server,
        work: Work,
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
        if path.ends_with("data=keep") {
            broker.owner = None;
        }
        if request.method() == axum::http::Method::GET {
            let body = json!({"reason": "NoSuchQueue", "error": "there is no queue"});
            return (StatusCode::NOT_FOUND, Json(body)).into_response();
        }
        Json(json!({"epoch": 1, "topicId": "t", "partitions": 12, "bound": true})).into_response()
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
            let work = Work { context: Arc::new(context), clusters };
            Self { server, work, broker, writer }
        }

        /// The cluster is there and ready.
        fn with_cluster(mut self) -> Self {
            let guarded = kube::core::DeserializeGuard(Ok(*cluster()));
            self.writer.apply_watcher_event(&Event::Apply(guarded));
            self
        }

        async fn reconcile(&self) -> Vec<String> {
            let queue = serde_json::from_value(self.server.at(QUEUE)).expect("a Queue");
            reconcile(queue, self.work.clone()).await.expect("reconciled");
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
        assert!(made["metadata"].get("ownerReferences").is_none(), "nobody but a user deletes it");
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
            let expected =
                ["PUT /v1/queues/orders", "PUT /v1/queues/orders/groups/shop.orders.worker"];
            assert_eq!(stage.asked(), expected);
        }
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
        reconcile(old, stage.work.clone()).await.expect("nothing to be done");
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
    async fn one_unreadable_queue_is_counted_and_left() {
        let stage = Stage::set(&json!({}), 6).await;
        let broken = json!({"metadata": {"name": "broken", "namespace": "shop"}, "spec": {"partitions": "many"}});
        let guarded: Guarded<Queue> = serde_json::from_value(broken).expect("guarded");
        let context = stage.work.context.clone();
        let work = |_: Queue, _| async { panic!("it cannot be reconciled") };
        let action = watch::framed(Arc::new(guarded), context.clone(), work).await.expect("left");
        assert_eq!(action, Action::await_change());
        assert!(context.metrics.text().contains(r#"unreadable_objects_total{kind="Queue"} 1"#));
    }
}
