//! Calls to a fake broker: epochs, tokens, bounds.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Json, Response};
use serde_json::{Value, json};

use super::*;
use crate::fake_api_server::Server;

/// A fake broker that handles epochs and tokens.
#[derive(Default)]
struct Broker {
    epoch: u64,
    seen: Vec<String>,
    /// Runs when a change with an old epoch is refused.
    on_stale: Option<Box<dyn FnOnce() + Send>>,
    /// The body of the last claim.
    holder: Value,
}

type Shared = Arc<Mutex<Broker>>;

async fn answer(State(broker): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    let request = Request::from_parts(parts, axum::body::Body::empty());
    let header = |name: &str| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let mut broker = broker.lock();
    let path = request.uri().path().to_owned();
    let epoch = header("ropewalk-epoch");
    broker.seen.push(format!("{} {path} {}", request.method(), epoch.clone().unwrap_or_default()));
    if path == "/v1/broker" {
        return Json(json!({"epoch": broker.epoch})).into_response();
    }
    if header("authorization").as_deref() != Some("Bearer secret") {
        let body = json!({"reason": "Unauthorized", "error": "no"});
        return (axum::http::StatusCode::UNAUTHORIZED, Json(body)).into_response();
    }
    if path == "/v1/fence" {
        broker.epoch += 1;
        let claim = serde_json::from_slice(&body).expect("JSON");
        let previous = std::mem::replace(&mut broker.holder, claim);
        return Json(json!({"epoch": broker.epoch, "previous": previous})).into_response();
    }
    if epoch.and_then(|epoch| epoch.parse().ok()) < Some(broker.epoch) {
        if let Some(act) = broker.on_stale.take() {
            act();
        }
        let body = json!({"reason": "StaleEpoch", "error": "older", "epoch": broker.epoch});
        return (axum::http::StatusCode::CONFLICT, Json(body)).into_response();
    }
    Json(json!({"topicId": "t", "partitions": 1})).into_response()
}

/// An API server that holds one Secret.
fn api_server() -> Client {
    let service = tower::service_fn(|_: ::http::Request<kube::client::Body>| async {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "default-admin"},
            "data": {"token": "c2VjcmV0"},
        });
        Ok::<_, std::convert::Infallible>(::http::Response::new(Body::from(secret.to_string())))
    });
    Client::new(service, "shop")
}

async fn fake_broker() -> (Brokers, Shared, Target, Leadership) {
    let shared = Shared::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let router = Router::new().fallback(answer).with_state(shared.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let leadership = Leadership::assumed("me", Instant::now() + Duration::from_secs(60));
    let brokers = Brokers::new(api_server(), leadership.clone(), address);
    let target = Target { cluster: ClusterKey::new("shop", "default"), broker: 0 };
    (brokers, shared, target, leadership)
}

#[tokio::test]
async fn k2_every_change_carries_the_epoch_that_was_claimed_once() {
    let (brokers, shared, at, _) = fake_broker().await;
    for _ in 0..2 {
        brokers.put::<Value>(&at, "/v1/queues/a", &json!({})).await.expect("declared");
    }
    let seen = shared.lock().seen.clone();
    assert_eq!(seen, ["POST /v1/fence ", "PUT /v1/queues/a 1", "PUT /v1/queues/a 1"]);
}

#[tokio::test]
async fn k2_a_leader_whose_epoch_is_old_claims_again_only_while_it_leads() {
    let (brokers, shared, at, _) = fake_broker().await;
    brokers.put::<Value>(&at, "/v1/queues/a", &json!({})).await.expect("declared");
    shared.lock().epoch = 9; // Another has claimed.
    brokers.put::<Value>(&at, "/v1/queues/a", &json!({})).await.expect("claimed again");
    assert_eq!(shared.lock().seen.last().map(String::as_str), Some("PUT /v1/queues/a 10"));
}

#[tokio::test]
async fn k2_who_does_not_lead_sends_nothing() {
    let (brokers, shared, at, _) = fake_broker().await;
    let follower = Brokers::new(api_server(), Leadership::none("me"), brokers.address.clone());
    let error = follower.put::<Value>(&at, "/v1/queues/a", &json!({})).await.expect_err("refused");
    assert!(matches!(error, CallError::NotLeader(_)), "{error}");
    let error = follower.assure_epoch(&at).await.expect_err("refused");
    assert!(matches!(error, CallError::NotLeader(_)), "{error}");
    assert!(shared.lock().seen.is_empty());
}

#[tokio::test]
async fn k2_who_loses_the_lease_changes_nothing_more_and_claims_nothing() {
    let (brokers, shared, at, leadership) = fake_broker().await;
    brokers.put::<Value>(&at, "/v1/queues/a", &json!({})).await.expect("declared");
    // It is lost while another leader has claimed: the first call is the last one.
    {
        let (mut broker, leadership) = (shared.lock(), leadership.clone());
        broker.epoch = 9;
        broker.on_stale = Some(Box::new(move || leadership.set("", None)));
    }
    let calls = shared.lock().seen.len();
    for _ in 0..2 {
        let error = brokers.put::<Value>(&at, "/v1/queues/a", &json!({})).await;
        let error = error.expect_err("refused");
        assert!(matches!(error, CallError::NotLeader(_)), "{error}");
    }
    assert_eq!(shared.lock().seen[calls..], ["PUT /v1/queues/a 1"]);
}

#[tokio::test]
async fn k2_a_call_with_a_known_epoch_is_not_sent_after_the_lease_was_lost() {
    let (brokers, shared, at, leadership) = fake_broker().await;
    brokers.put::<Value>(&at, "/v1/queues/a", &json!({})).await.expect("declared");
    leadership.set("", None);
    let calls = shared.lock().seen.len();
    let error = brokers.put::<Value>(&at, "/v1/queues/a", &json!({})).await.expect_err("refused");
    assert!(matches!(error, CallError::NotLeader(_)), "{error}");
    assert_eq!(shared.lock().seen.len(), calls);
}

#[tokio::test]
async fn k2_an_epoch_is_not_claimed_by_who_lost_the_lease_while_it_waited_to_claim() {
    let (brokers, shared, at, leadership) = fake_broker().await;
    let slot = brokers.epochs.slot(&at.cluster);
    let claiming = slot.lock().await;
    let body = json!({});
    let mut call = std::pin::pin!(brokers.put::<Value>(&at, "/v1/queues/a", &body));
    assert!(futures_util::poll!(&mut call).is_pending(), "another call is claiming");
    leadership.set("", None);
    drop(claiming);
    let error = call.await.expect_err("refused");
    assert!(matches!(error, CallError::NotLeader(_)), "{error}");
    assert!(shared.lock().seen.is_empty());
}

#[tokio::test]
async fn a_token_that_the_broker_refuses_is_read_again() {
    let (brokers, _, at, leadership) = fake_broker().await;
    let server = Server::default();
    let secret = "/api/v1/namespaces/shop/secrets/default-admin";
    server.put(secret, json!({"metadata": {"name": "default-admin"}, "data": {"token": "b2xk"}}));
    let brokers = Brokers::new(server.client(), leadership, brokers.address.clone());
    let error = brokers.read::<Value>(&at, "/v1/owners/a").await.expect_err("an old token");
    assert!(error.is_refused("Unauthorized"), "{error}");
    server.change(secret, &json!({"data": {"token": "c2VjcmV0"}}));
    brokers.put::<Value>(&at, "/v1/queues/a", &json!({})).await.expect("with the new token");
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_unreachable() {
    let leadership = Leadership::assumed("me", Instant::now() + Duration::from_secs(60));
    let brokers = Brokers::new(api_server(), leadership, "127.0.0.1:1".to_owned());
    let at = Target { cluster: ClusterKey::new("shop", "default"), broker: 0 };
    let error = brokers.ask::<Value>(&at, "/v1/broker").await.expect_err("no broker");
    assert_eq!(error.refused().reason, "BrokerUnreachable");
    assert!(brokers.assure_epoch(&at).await.is_ok(), "it has no say");
}

#[tokio::test]
async fn k2_a_newer_epoch_of_somebody_else_forbids_what_no_call_can_fence() {
    let (brokers, shared, at, _) = fake_broker().await;
    brokers.put::<Value>(&at, "/v1/queues/a", &json!({})).await.expect("declared");
    assert!(brokers.assure_epoch(&at).await.is_ok());
    shared.lock().epoch = 9; // Another has claimed.
    let error = brokers.assure_epoch(&at).await.expect_err("not ours to do");
    assert!(matches!(error, CallError::NotLeader(_)), "{error}");
    // The epoch is not kept: the next call claims again, if this process leads.
    brokers.put::<Value>(&at, "/v1/queues/a", &json!({})).await.expect("claimed again");
    assert_eq!(shared.lock().seen.last().map(String::as_str), Some("PUT /v1/queues/a 10"));
    assert!(brokers.assure_epoch(&at).await.is_ok());
}

#[tokio::test]
async fn k2_two_operators_that_claim_in_turns_stand_back() {
    let (brokers, shared, at, _) = fake_broker().await;
    let other = |shared: &Shared| {
        let mut broker = shared.lock();
        broker.epoch += 1;
        broker.holder = json!({"holder": "other", "leaseUid": "another-lease"});
    };
    other(&shared);
    brokers.put::<Value>(&at, "/v1/queues/a", &json!({})).await.expect("a new installation");
    other(&shared);
    let error = brokers.put::<Value>(&at, "/v1/queues/a", &json!({})).await.expect_err("refused");
    assert_eq!(error.refused().reason, "ConflictingOperator");
    let calls = shared.lock().seen.len();
    for _ in 0..3 {
        assert!(brokers.put::<Value>(&at, "/v1/queues/a", &json!({})).await.is_err());
        assert!(brokers.assure_epoch(&at).await.is_err(), "and no pod is deleted");
    }
    assert_eq!(shared.lock().seen.len(), calls, "the other is left in peace");
    assert!(brokers.conflict(&at.cluster).is_some());
}

#[tokio::test]
async fn a_broker_that_hangs_costs_no_time_after_a_few_calls() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener); // The port is closed now.
    let leadership = Leadership::assumed("me", Instant::now() + Duration::from_secs(60));
    let brokers = Brokers::new(api_server(), leadership, address);
    let at = Target { cluster: ClusterKey::new("shop", "default"), broker: 0 };
    let mut answers = Vec::new();
    for _ in 0..5 {
        let error = brokers.ask::<Value>(&at, "/v1/queues").await.expect_err("no broker");
        answers.push(error.refused().message);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "what a condition shows does not change: {answers:?}");
    assert!(brokers.breakers.enter(&at, Instant::now()).is_err());
    assert!(brokers.assure_epoch(&at).await.is_ok(), "it was asked all the same");
}

#[test]
fn a_name_cannot_leave_its_place_in_a_path() {
    assert_eq!(segment("a/b?c=d e"), "a%2Fb%3Fc%3Dd%20e");
    assert_eq!(segment("shop.orders-1_x~"), "shop.orders-1_x~");
}
