//! The admin server over real sockets, with a fake broker.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::queue_metrics::{DelayReport, GroupReport, Throughput};

mod changes;
mod connections;
mod operations;
mod queue_metrics;
mod signals;

#[derive(Debug)]
struct Broker {
    obstacles: Vec<String>,
    conditions: Vec<Condition>,
    open: bool,
}

fn orders() -> QueueReport {
    let throughput = Throughput { in_per_second: 2.5, processed_per_second: 2.0 };
    let delay = DelayReport { p50_ms: Some(10), p99_ms: None, oldest_ms: 1500 };
    let group = GroupReport { name: "g".into(), members: 1, length: 3, delay, throughput };
    QueueReport {
        name: "orders \"x\"".into(),
        id: "id".into(),
        partitions: 4,
        length: 3,
        delay,
        throughput,
        size_bytes: 99,
        groups: vec![group],
    }
}

impl Source for Broker {
    fn obstacles(&self) -> Vec<String> {
        self.obstacles.clone()
    }

    fn conditions(&self) -> Vec<Condition> {
        self.conditions.clone()
    }

    fn queues(&self) -> Option<Report> {
        self.open.then(|| Report { queues: vec![orders()] })
    }

    fn queue(&self, name: &str) -> QueueLookup {
        match name {
            _ if !self.open => QueueLookup::NotReady,
            "orders" => QueueLookup::Found(orders()),
            _ => QueueLookup::NoSuchQueue,
        }
    }

    fn about(&self) -> About {
        About { broker_id: 3, ready: self.open, ..About::default() }
    }

    fn open(&self) -> Option<Open> {
        None
    }
}

/// The response: status, header and body.
async fn ask(broker: Broker, request: &str) -> (u16, String, String) {
    let source: Arc<dyn Source> = Arc::new(broker);
    let mut registry = Registry::with_prefix("ropewalk");
    registry.register_collector(Box::new(measured::Queues(Arc::clone(&source))));
    registry.register_collector(Box::new(measured::Conditions(Arc::clone(&source))));
    let storage = || Some(measured::Storage { syncs: vec![("wal", 7)], ..Default::default() });
    registry.register_collector(Box::new(measured::StorageMetrics(Box::new(storage))));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (_stop, stopping) = watch::channel(false);
    let admin = Arc::new(Admin { source, metrics: Mutex::new(registry), token_file: None });
    let server = tokio::spawn(serve(listener, admin, stopping));
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    server.abort();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, head.to_owned(), body.to_owned())
}

fn serving() -> Broker {
    Broker { obstacles: vec![], conditions: vec![], open: true }
}

#[tokio::test]
async fn live_and_ready_tell_apart_running_and_serving() {
    assert_eq!(ask(serving(), "GET /live").await.0, 200);
    let (status, _, body) = ask(serving(), "GET /ready").await;
    assert_eq!((status, body.as_str()), (200, r#"{"ready":true,"reasons":[]}"#));
    let opening = || Broker {
        obstacles: vec!["opening the data directory".into()],
        conditions: vec![],
        open: false,
    };
    assert_eq!(ask(opening(), "GET /live").await.0, 200);
    let (status, _, body) = ask(opening(), "GET /ready").await;
    assert_eq!(status, 503);
    assert_eq!(body, r#"{"ready":false,"reasons":["opening the data directory"]}"#);
    for path in ["GET /v1/queues", "GET /v1/queues/orders", "GET /v1/queues/none"] {
        let (status, _, body) = ask(opening(), path).await;
        assert!(status == 503 && body.contains("NotReady"), "{path}: {status} {body}");
    }
}

#[tokio::test]
async fn queues_are_json_with_their_groups() {
    let (status, _, body) = ask(serving(), "GET /v1/queues").await;
    let all: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(status, 200);
    assert_eq!(all["queues"][0]["groups"][0]["length"], 3);
    assert_eq!(all["queues"][0]["delay"]["oldest_ms"], 1500);
    let (status, _, body) = ask(serving(), "GET /v1/queues/orders").await;
    let one: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &one["partitions"]), (200, &json!(4)));
}

#[tokio::test]
async fn what_is_not_there_is_a_json_error() {
    for (request, code, reason, error) in [
        ("GET /v1/queues/none", 404, "NoSuchQueue", "there is no queue 'none'"),
        ("GET /nowhere", 404, "NotFound", "path /nowhere does not exist; GET / lists the paths"),
        ("POST /live", 405, "MethodNotAllowed", "method POST is not allowed at /live"),
    ] {
        let (status, _, body) = ask(serving(), request).await;
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((status, body), (code, json!({ "reason": reason, "error": error })));
    }
}

#[tokio::test]
async fn metrics_are_open_metrics_with_escaped_labels() {
    let parts = ["shard 3".to_owned(), "shard 5".to_owned()];
    let damaged = Condition::of_parts(Kind::DamagedShard, "shards are damaged", parts);
    let broker = Broker { conditions: damaged.into_iter().collect(), ..serving() };
    let (status, head, body) = ask(broker, "GET /metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("application/openmetrics-text"), "{head}");
    for line in [
        r#"ropewalk_queue_length{queue="orders \"x\""} 3.0"#,
        r#"ropewalk_group_length{queue="orders \"x\"",group="g"} 3.0"#,
        r#"ropewalk_queue_oldest_seconds{queue="orders \"x\""} 1.5"#,
        r#"ropewalk_fsyncs_total{reason="wal"} 7"#,
        "ropewalk_wal_written_bytes_total 0",
        "ropewalk_ready 1",
        r#"ropewalk_condition{kind="damaged_shard"} 2.0"#,
        r#"ropewalk_condition{kind="storage_full"} 0.0"#,
        "# EOF",
    ] {
        assert!(body.contains(line), "{line} is missing in\n{body}");
    }
    assert!(!body.contains("p99_seconds{"), "what is not known is not shown");
}
