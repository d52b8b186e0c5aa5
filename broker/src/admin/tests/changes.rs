//! An operator's calls to a whole broker, over real sockets.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use ropewalk_shard::command::{ConfigResource, StartPosition};
use ropewalk_shard::proposal::SendOrder;

use super::*;
use crate::boot::{Broker, Start};
use crate::catalog::Declaration;
use crate::settings::Settings;

pub(super) const ME: &str = "uid-me";

/// A broker with its own ports and directory.
pub(super) struct TestBroker {
    pub(super) broker: Broker,
    dir: TempDir,
}

impl TestBroker {
    pub(super) async fn start(settings: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().expect("a directory");
        let broker = broker_in(&dir.path().join("data"), settings).await;
        Self { broker, dir }
    }

    /// Stops in order and starts again on the same data.
    async fn restart(self) -> Self {
        self.broker.stop().await;
        let broker = broker_in(&self.dir.path().join("data"), &[]).await;
        Self { broker, dir: self.dir }
    }

    async fn call(&self, request: &str, headers: &[&str], body: Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = TcpStream::connect(self.broker.admin()).await.expect("it listens");
        let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let length = body.len();
        let text = format!(
            "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n{headers}\r\n{body}"
        );
        stream.write_all(text.as_bytes()).await.expect("taken");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    pub(super) async fn get(&self, path: &str) -> (u16, Value) {
        self.call(&format!("GET {path}"), &[], Value::Null).await
    }

    /// A call under an epoch.
    pub(super) async fn change(&self, epoch: u64, request: &str, body: Value) -> (u16, Value) {
        self.call(request, &[&format!("Ropewalk-Epoch: {epoch}")], body).await
    }

    async fn claim(&self) -> u64 {
        let claim = json!({ "holder": "pod", "leaseUid": "lease" });
        let (status, answer) = self.call("POST /v1/fence", &[], claim).await;
        assert_eq!(status, 200, "{answer}");
        answer["epoch"].as_u64().expect("a number")
    }

    pub(super) async fn declare(
        &self,
        owner: &str,
        partitions: i32,
        config: Value,
    ) -> (u16, Value) {
        let body = json!({ "owner": owner, "partitions": partitions, "config": config });
        self.change(0, "PUT /v1/queues/orders", body).await
    }

    pub(super) async fn bind(&self, start: &str) -> (u16, Value) {
        let body = json!({ "owner": ME, "startPosition": start });
        self.change(0, "PUT /v1/queues/orders/groups/workers", body).await
    }

    /// The committed offset of each partition of the group.
    fn committed(&self, group: &str) -> Vec<Option<i64>> {
        let context = self.broker.context();
        let topic = context.view.by_name("orders").expect("declared");
        let home = context.node.catalog().state().catalog.as_ref().expect("there").shard_of(group);
        let shard = context.node.shard(home).expect("not damaged");
        let state = shard.state();
        let offsets = state.groups.get(group).map(|group| &group.offsets);
        let ids = (0..).zip(&topic.partitions).filter_map(|(index, _)| topic.partition(index));
        ids.map(|(id, _)| Some(offsets?.get(&id)?.offset)).collect()
    }

    /// Writes records to partition 0.
    pub(super) async fn fill(&self, count: usize) {
        use ropewalk_shard::command::Append;
        let context = self.broker.context();
        let topic = context.view.by_name("orders").expect("declared");
        let (partition, home) = topic.partition(0).expect("it has one");
        let mut builder = ropewalk_batch::Builder::new();
        for _ in 0..count {
            builder = builder.record(1_000, None, Some(b"x"));
        }
        let shard = context.node.shard(home.shard).expect("not damaged");
        let items = vec![Append { partition, batch: builder.build() }];
        shard.append(items, SendOrder::default()).await.expect("it runs").expect("it leads")[0]
            .expect("taken");
    }
}

async fn broker_in(dir: &Path, settings: &[(&str, &str)]) -> Broker {
    let own =
        [("listeners", "PLAINTEXT://127.0.0.1:0"), ("ropewalk.admin.listener", "127.0.0.1:0")];
    let pairs = own.iter().chain(settings);
    let pairs = pairs.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let start = Start {
        settings: Settings::new(pairs).expect("valid"),
        dir: dir.to_owned(),
        format: Some("cluster".to_owned()),
        on_fatal: Arc::new(|reason| panic!("{reason}")),
    };
    Broker::start(start).await.expect("it starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_says_who_it_is() {
    let served = TestBroker::start(&[("node.id", "4")]).await;
    let (status, about) = served.call("GET /v1/broker", &[], Value::Null).await;
    assert_eq!(status, 200);
    assert_eq!(about["brokerId"], 4);
    assert_eq!(about["clusterId"], "cluster");
    assert_eq!(about["epoch"], 0);
    assert_eq!(about["ready"], true);
    assert_eq!(about["settings"]["needsRestart"], json!([]));
    assert_eq!(about["settings"]["startedHash"].as_str().map(str::len), Some(16));
    assert_eq!(about["settings"]["lastHash"], Value::Null);
    assert_eq!((&about["reasons"], &about["conditions"]), (&json!([]), &json!([])));
    assert_eq!(about["recovery"]["done"], true);
    assert!(about["startedAtMs"].as_i64() > Some(1_700_000_000_000));
    served.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_created_reconciled_and_released() {
    let served = TestBroker::start(&[]).await;
    let (status, made) = served.declare(ME, 2, json!({ "retention.ms": "1000" })).await;
    assert_eq!(status, 200, "{made}");
    assert_eq!((&made["created"], &made["partitions"]), (&json!(true), &json!(2)));
    let (_, again) = served.declare(ME, 2, json!({ "retention.ms": "1000" })).await;
    assert_eq!(again["topicId"], made["topicId"]);
    assert_eq!((&again["created"], &again["changed"]), (&json!(false), &json!([])));
    let (_, grown) = served.declare(ME, 3, json!({})).await;
    assert_eq!(grown["changed"], json!(["partitions", "config.retention.ms"]));
    let (_, fewer) = served.declare(ME, 1, json!({})).await;
    assert_eq!((&fewer["partitions"], &fewer["changed"]), (&json!(3), &json!([])));
    let warned = fewer["warnings"][0].as_str().expect("a warning");
    assert!(warned.starts_with("1 partitions were declared and the queue keeps its 3"), "{warned}");
    assert_eq!(grown["warnings"], json!([]));

    let (status, other) = served.declare("uid-you", 3, json!({})).await;
    assert_eq!((status, &other["reason"]), (409, &json!("NameCollision")));
    assert_eq!(other["owner"], ME);

    let delete =
        |owner: &str, data: &str| format!("DELETE /v1/queues/orders?owner={owner}&data={data}");
    let (status, other) = served.change(0, &delete("uid-you", "delete"), Value::Null).await;
    assert_eq!((status, &other["reason"]), (409, &json!("NameCollision")));
    let (_, kept) = served.change(0, &delete(ME, "keep"), Value::Null).await;
    assert_eq!(kept, json!({ "deleted": false }));
    // It has no owner now; it remains, and another owner may adopt it.
    let (_, kept) = served.change(0, &delete(ME, "delete"), Value::Null).await;
    assert_eq!(kept, json!({ "deleted": false }));
    let (_, adopted) = served.declare("uid-you", 3, json!({})).await;
    assert_eq!((&adopted["adopted"], &adopted["topicId"]), (&json!(true), &made["topicId"]));
    let (_, deleted) = served.change(0, &delete("uid-you", "delete"), Value::Null).await;
    assert_eq!(deleted, json!({ "deleted": true }));
    let (_, deleted) = served.change(0, &delete("uid-you", "delete"), Value::Null).await;
    assert_eq!(deleted, json!({ "deleted": false }));
    let (_, again) = served.declare(ME, 1, json!({})).await;
    assert_eq!(again["created"], true);
    assert_ne!(again["topicId"], made["topicId"]);
    served.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_with_a_reason() {
    let served = TestBroker::start(&[]).await;
    let body = |partitions: i32, config: Value| json!({ "owner": ME, "partitions": partitions, "config": config });
    let put = "PUT /v1/queues/orders";
    let too_long = format!("{put}/groups/{}", "g".repeat(513));
    for (request, body, code, reason) in [
        (put, body(0, json!({})), 400, "InvalidPartitions"),
        (put, body(1_000_000, json!({})), 400, "InvalidPartitions"),
        (put, body(1, json!({ "retention.msec": "1" })), 400, "InvalidConfig"),
        (put, body(1, json!({ "retention.ms": "soon" })), 400, "InvalidConfig"),
        // More than the one replica of this cluster.
        (put, body(1, json!({ "min.insync.replicas": "2" })), 400, "InvalidConfig"),
        ("PUT /v1/queues/a%20b", body(1, json!({})), 400, "InvalidName"),
        (put, json!({ "owner": "", "partitions": 1 }), 400, "InvalidOwner"),
        (put, json!({ "owner": "x".repeat(254), "partitions": 1 }), 400, "InvalidOwner"),
        (put, body(1, json!({ "cleanup.policy": " ".repeat(0x8000) })), 400, "InvalidConfig"),
        ("PUT /v1/queues/%ff", body(1, json!({})), 400, "InvalidPath"),
        ("DELETE /v1/queues/%ff/groups/g?owner=x", Value::Null, 400, "InvalidPath"),
        (&too_long, json!({ "owner": ME, "startPosition": "Latest" }), 400, "InvalidGroup"),
        (put, json!({ "owner": ME, "partition": 1 }), 422, "InvalidBody"),
        (
            "PUT /v1/queues/orders/groups/g",
            json!({ "owner": ME, "startPosition": "Latest" }),
            404,
            "NoSuchQueue",
        ),
        (
            "PUT /v1/queues/orders/groups/g",
            json!({ "owner": ME, "startPosition": "latest" }),
            422,
            "InvalidBody",
        ),
        ("DELETE /v1/queues/orders?owner=x", Value::Null, 400, "InvalidQuery"),
        ("DELETE /v1/queues/orders?owner=x&data=perhaps", Value::Null, 400, "InvalidQuery"),
    ] {
        let (status, answer) = served.change(0, request, body).await;
        assert_eq!((status, &answer["reason"]), (code, &json!(reason)), "{request}: {answer}");
        assert!(answer["error"].as_str().is_some_and(|text| text.len() > 10), "{answer}");
    }
    served.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn k2_only_the_newest_epoch_changes_anything() {
    let served = TestBroker::start(&[]).await;
    let body = || json!({ "owner": ME, "partitions": 1 });
    let bind = || json!({ "owner": ME, "startPosition": "Earliest" });
    let (status, answer) = served.call("PUT /v1/queues/orders", &[], body()).await;
    assert_eq!((status, &answer["reason"]), (400, &json!("EpochMissing")));
    for wrong in ["x", "", "-1", "1.5", "9007199254740992"] {
        let header = format!("Ropewalk-Epoch: {wrong}");
        let (status, answer) = served.call("PUT /v1/queues/orders", &[&header], body()).await;
        assert_eq!((status, &answer["reason"]), (400, &json!("InvalidEpoch")), "{wrong:?}");
        assert!(answer["error"].as_str().is_some_and(|text| text.contains(wrong)), "{answer}");
    }
    // So far above that few epochs would be left to claim.
    let (status, answer) =
        served.change(9_007_199_254_740_991, "PUT /v1/queues/orders", body()).await;
    assert_eq!((status, &answer["reason"]), (400, &json!("InvalidEpoch")), "{answer}");
    let (first, second) = (served.claim().await, served.claim().await);
    assert!(second > first);
    for (request, body) in [
        ("PUT /v1/queues/orders", body()),
        ("DELETE /v1/queues/orders?owner=uid-me&data=delete", Value::Null),
        ("PUT /v1/queues/orders/groups/g", bind()),
        ("DELETE /v1/queues/orders/groups/g?owner=uid-me", Value::Null),
    ] {
        let (status, answer) = served.change(first, request, body).await;
        assert_eq!((status, &answer["reason"]), (409, &json!("StaleEpoch")), "{request}");
        assert_eq!(answer["epoch"], second);
    }
    assert_eq!(served.change(second, "PUT /v1/queues/orders", body()).await.0, 200);
    for request in ["PUT /v1/queues/orders/groups/g"] {
        assert_eq!(served.change(first, request, bind()).await.0, 409);
        assert_eq!(served.change(second, request, bind()).await.0, 200);
    }
    // It is restored after a restart.
    let served = served.restart().await;
    assert_eq!(served.change(first, "PUT /v1/queues/orders", body()).await.0, 409);
    assert!(served.claim().await > second);
    served.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_group_begins_in_every_partition_also_in_those_that_come() {
    let served = TestBroker::start(&[]).await;
    served.declare(ME, 2, json!({})).await;
    served.fill(7).await;
    let (status, bound) = served.bind("Latest").await;
    assert_eq!((status, &bound), (200, &json!({ "bound": true, "committed": [0, 1] })));
    assert_eq!(served.committed("workers"), [Some(7), Some(0)]);
    let (_, again) = served.bind("Latest").await;
    assert_eq!(again, json!({ "bound": true, "committed": [] }), "it has begun");
    served.declare(ME, 4, json!({})).await;
    assert_eq!(served.committed("workers"), [Some(7), Some(0), Some(0), Some(0)]);

    let served = served.restart().await;
    served.fill(1).await;
    let (_, again) = served.bind("Latest").await;
    assert_eq!(again["committed"], json!([]), "also after a restart");
    assert_eq!(served.committed("workers")[0], Some(7));
    let unbind = |owner: &str| format!("DELETE /v1/queues/orders/groups/workers?owner={owner}");
    assert_eq!(served.change(0, &unbind("uid-you"), Value::Null).await.0, 409);
    let (_, unbound) = served.change(0, &unbind(ME), Value::Null).await;
    assert_eq!(unbound, json!({ "bound": false }));
    served.declare(ME, 5, json!({})).await;
    assert_eq!(served.committed("workers")[4], None, "no longer bound");
    served.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_and_may_be_replaced() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "first\n").expect("written");
    let path = file.path().display().to_string();
    let served = TestBroker::start(&[("admin.token.file", &path)]).await;
    let claim = || json!({ "holder": "pod", "leaseUid": "lease" });
    let ask = async |token: Option<&str>| {
        let header = token.map(|token| format!("Authorization: Bearer {token}"));
        let headers: Vec<&str> = header.iter().map(String::as_str).collect();
        let (status, answer) = served.call("POST /v1/fence", &headers, claim()).await;
        (status, answer["reason"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(ask(None).await, (401, "Unauthorized".into()));
    assert_eq!(ask(Some("second")).await, (401, "Unauthorized".into()));
    assert_eq!(ask(Some("first")).await.0, 200);
    std::fs::write(file.path(), "second").expect("written");
    assert_eq!(ask(Some("first")).await.0, 401);
    assert_eq!(ask(Some("second")).await.0, 200);
    std::fs::write(file.path(), " \n").expect("written");
    assert_eq!(ask(Some("")).await, (503, "TokenUnreadable".into()));
    for free in ["GET /v1/queues", "GET /v1/broker", "GET /ready"] {
        assert_eq!(served.call(free, &[], Value::Null).await.0, 200, "{free}");
    }
    served.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_of_settings_holds_at_once_where_it_can() {
    let listeners =
        [("listeners", "PLAINTEXT://127.0.0.1:0"), ("ropewalk.admin.listener", "127.0.0.1:0")];
    let served = TestBroker::start(&[("num.partitions", "3")]).await;
    served.declare(ME, 1, json!({})).await;
    let file = |more: &[(&str, &str)]| {
        let pairs = listeners.iter().chain(more);
        json!({ "settings": pairs.map(|(k, v)| ((*k).to_owned(), json!(v))).collect::<serde_json::Map<_, _>>() })
    };
    let put = "PUT /v1/settings";
    let body =
        file(&[("num.partitions", "5"), ("log.retention.ms", "60000"), ("max.connections", "0")]);
    let (status, taken) = served.change(0, put, body).await;
    assert_eq!(status, 200, "{taken}");
    assert_eq!(taken["applied"], json!(["log.retention.ms", "max.connections"]));
    assert_eq!(taken["needsRestart"], json!(["num.partitions"]));
    let (_, about) = served.call("GET /v1/broker", &[], Value::Null).await;
    assert_eq!(about["settings"]["needsRestart"], json!(["num.partitions"]));
    let topic = served.broker.context().view.by_name("orders").expect("declared");
    assert_eq!(topic.config.retention_ms, Some(60_000), "the defaults of topics follow");
    let mut refused = TcpStream::connect(served.broker.kafka()[0]).await.expect("it listens");
    assert_eq!(
        refused.read(&mut [0; 1]).await.unwrap_or(0),
        0,
        "no connection is allowed any more"
    );

    let last_hash = about["settings"]["lastHash"].clone();
    assert_eq!(last_hash.as_str().map(str::len), Some(16), "{about}");
    assert_ne!(last_hash, about["settings"]["startedHash"]);

    let (status, wrong) = served.change(0, put, file(&[("num.partitions", "none")])).await;
    assert_eq!((status, &wrong["reason"]), (400, &json!("InvalidSetting")));
    assert_eq!(wrong["key"], "num.partitions");
    let error = wrong["error"].as_str().expect("a sentence");
    assert!(error.contains("num.partitions") && error.contains("none"), "{error}");
    let (_, back) = served.change(0, put, file(&[("num.partitions", "3")])).await;
    assert_eq!(back["needsRestart"], json!([]));
    let (_, about) = served.get("/v1/broker").await;
    assert_ne!(about["settings"]["lastHash"], last_hash, "another file was taken over");
    assert_eq!(about["settings"]["lastHash"], about["settings"]["startedHash"]);
    let epoch = served.claim().await;
    let (status, _) = served.change(epoch - 1, put, file(&[])).await;
    assert_eq!(status, 409, "K2");
    served.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_answers_who_claimed_before() {
    let served = TestBroker::start(&[]).await;
    let claim = async |served: &TestBroker, pod: &str, lease: &str| {
        let claim = json!({ "holder": pod, "leaseUid": lease });
        served.call("POST /v1/fence", &[], claim).await.1
    };
    let first = claim(&served, "pod-a", "lease-a").await;
    assert_eq!(first["previous"], Value::Null, "no earlier claim");
    let second = claim(&served, "pod-b", "lease-b").await;
    let of_first = json!({ "epoch": first["epoch"], "holder": "pod-a", "leaseUid": "lease-a" });
    assert_eq!(second["previous"], of_first);
    let served = served.restart().await;
    let third = claim(&served, "pod-a", "lease-a").await;
    assert_eq!(third["previous"]["leaseUid"], "lease-b");
    let too_long = json!({ "holder": "h".repeat(254), "leaseUid": "lease" });
    let (status, answer) = served.call("POST /v1/fence", &[], too_long).await;
    assert_eq!((status, &answer["reason"]), (400, &json!("InvalidBody")));
    served.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_can_list_its_queues_and_groups() {
    let served = TestBroker::start(&[]).await;
    let owned = async |owner: &str| {
        let (status, answer) =
            served.call(&format!("GET /v1/owners/{owner}"), &[], Value::Null).await;
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let (_, made) = served.declare(ME, 2, json!({})).await;
    assert_eq!(served.bind("Latest").await.0, 200);
    let expected = json!([{
        "name": "orders",
        "topicId": made["topicId"],
        "partitions": 2,
        "groups": [{ "group": "workers", "startPosition": "Latest" }],
    }]);
    assert_eq!(owned(ME).await, json!({ "owner": ME, "queues": expected }));
    assert_eq!(owned("uid-you").await, json!({ "owner": "uid-you", "queues": [] }));
    let unbind = format!("DELETE /v1/queues/orders/groups/workers?owner={ME}");
    assert_eq!(served.change(0, &unbind, Value::Null).await.0, 200);
    assert_eq!(owned(ME).await["queues"][0]["groups"], json!([]));
    served.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_lists_what_there_is() {
    let served = TestBroker::start(&[]).await;
    let (status, answer) = served.call("GET /", &[], Value::Null).await;
    assert_eq!(status, 200);
    let paths: Vec<_> = answer["paths"].as_array().expect("a list").iter().collect();
    assert!(paths.iter().any(|path| path["path"] == "GET /v1/queues"), "{answer}");
    served.broker.stop().await;
}

/// An operator repeats this every minute for each queue, so it must write no entry.
#[tokio::test(flavor = "multi_thread")]
async fn k1_a_thousand_declared_queues_cost_no_entry_at_rest() {
    const QUEUES: usize = 1000;
    let served = TestBroker::start(&[]).await;
    let context = served.broker.context();
    let declare = |n: usize| async move {
        let wanted = Declaration {
            name: format!("queue-{n}"),
            owner: format!("uid-{n}"),
            partitions: Some(1),
            configs: vec![("retention.ms".to_owned(), "60000".to_owned())],
        };
        let owner = wanted.owner.clone();
        context.topics.declare(0, &wanted).await.expect("declared");
        let begins = (format!("group-{n}"), StartPosition::Earliest);
        context.topics.bind(0, &wanted.name, owner, begins).await.expect("bound");
    };
    // Concurrently, so that one sync serves many.
    let declare_all = async || {
        for first in (0..QUEUES).step_by(100) {
            futures_util::future::join_all((first..first + 100).map(&declare)).await;
        }
    };
    let written = || {
        let revision = context.node.catalog().state().catalog.as_ref().expect("there").revision;
        (revision, context.node.wal().stats().records)
    };
    declare_all().await;
    let before = written();
    declare_all().await;
    assert_eq!(written(), before, "revision of the catalog and records of the log");
    // A caller without the right is refused without an entry, too.
    let wanted = Declaration {
        name: "queue-0".to_owned(),
        owner: "uid-other".to_owned(),
        partitions: None,
        configs: Vec::new(),
    };
    context.topics.declare(0, &wanted).await.expect_err("it is another's");
    assert_eq!(written(), before);
    served.broker.stop().await;
}

/// The cluster may have become smaller since.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_set_already_is_not_checked_again() {
    let test = TestBroker::start(&[]).await;
    let config = json!({ "min.insync.replicas": "1" });
    assert_eq!(test.declare(ME, 1, config).await.0, 200);
    let context = Arc::clone(test.broker.context());
    let topic = context.view.by_name("orders").expect("declared");
    let resource = ConfigResource::Topic(topic.id);
    let change = vec![("min.insync.replicas".to_owned(), Some("2".to_owned()))];
    context.topics.alter_configs(resource, change).await.expect("not checked here");
    let config = json!({ "min.insync.replicas": "2" });
    assert_eq!(test.declare(ME, 1, config).await.0, 200);
}
