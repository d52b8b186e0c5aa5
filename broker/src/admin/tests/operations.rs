//! Operations on brokers, asked of a broker that is alone. The tests of the placement and
//! `broker/tests/operations.rs` have several.

use super::changes::TestBroker;
use super::*;

async fn reason(broker: &TestBroker, request: &str, body: serde_json::Value) -> (u16, String) {
    let (status, answer) = broker.change(0, request, body).await;
    (status, answer["reason"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_broker_shows_itself_and_is_neither_drained_nor_removed() {
    let broker = TestBroker::start(&[]).await;
    let id = broker.broker.context().broker_id;
    let path = format!("/v1/cluster/brokers/{id}");
    let (status, shown) = broker.get(&path).await;
    assert_eq!(status, 200, "{shown}");
    assert_eq!((&shown["standing"], &shown["done"]), (&json!("Serving"), &json!(true)));
    assert_eq!((&shown["leads"], &shown["replicas"]), (&json!(25), &json!(25)));
    for (operation, body) in [
        ("drain", json!({})),
        ("drain", json!({ "acceptFewerReplicas": true })),
        ("admit", json!({})),
        ("prepare-restart", json!({ "deadlineSeconds": 60 })),
    ] {
        let asked = reason(&broker, &format!("POST {path}/{operation}"), body).await;
        assert_eq!(asked, (409, "Alone".to_owned()), "{operation}");
    }
    let (status, refused) = broker.change(0, &format!("DELETE {path}"), json!(null)).await;
    assert_eq!((status, &refused["reason"]), (409, &json!("BrokerHoldsReplicas")));
    let shards = refused["shards"].as_array().expect("each shard has a reason");
    assert_eq!((shards.len(), &shards[1]["reason"]), (25, &json!("HoldsReplica")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_needs_a_broker_valid_fields_and_the_newest_epoch() {
    let broker = TestBroker::start(&[]).await;
    let path = "/v1/cluster/brokers/77";
    let (status, shown) = broker.get(path).await;
    assert_eq!((status, &shown["reason"]), (404, &json!("NoSuchBroker")));
    let (status, shown) = broker.get("/v1/cluster/brokers/first").await;
    assert_eq!((status, &shown["reason"]), (400, &json!("InvalidPath")));
    for (request, body, expected) in [
        ("POST {}/prepare-restart", json!({ "deadlineSeconds": 0 }), (400, "InvalidDeadline")),
        ("POST {}/prepare-restart", json!({ "deadlineSeconds": 86_401 }), (400, "InvalidDeadline")),
        ("POST {}/prepare-restart", json!({}), (422, "InvalidBody")),
        ("POST {}/drain", json!({ "force": true }), (422, "InvalidBody")),
        ("POST {}/admit", json!({ "why": 1 }), (422, "InvalidBody")),
        ("DELETE {}", json!(null), (404, "NoSuchBroker")),
    ] {
        let request = request.replace("{}", path);
        let (status, reason) = reason(&broker, &request, body).await;
        assert_eq!((status, reason.as_str()), expected, "{request}");
    }
    let (_, _) = broker.change(5, &format!("DELETE {path}"), json!(null)).await;
    let stale = reason(&broker, &format!("DELETE {path}"), json!(null)).await;
    assert_eq!(stale, (409, "StaleEpoch".to_owned()), "epoch 5 was used");
}
