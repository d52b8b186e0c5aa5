//! The loop that holds the Lease, with an API server that can be slow or unreachable.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::election::Timing;
use super::*;

/// An API server with one Lease.
#[derive(Clone, Default)]
struct Server(Arc<State>);

#[derive(Default)]
struct State {
    lease: Mutex<Option<Value>>,
    version: AtomicU64,
    /// Duration of a write in ms.
    delay_ms: AtomicU64,
    is_away: AtomicBool,
}

impl Server {
    fn api(&self) -> Api<Lease> {
        let server = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let server = server.clone();
            async move { server.answer(request).await }
        });
        Api::namespaced(Client::new(service, "ops"), "ops")
    }

    async fn answer(
        &self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, tower::BoxError> {
        if self.0.is_away.load(Ordering::SeqCst) {
            return Err("no route to host".into());
        }
        let method = request.method().clone();
        let body = request.into_body().collect().await?.to_bytes();
        let (status, answer) = if method == http::Method::GET {
            match self.0.lease.lock().clone() {
                Some(lease) => (200, lease),
                None => (404, refusal(404)),
            }
        } else {
            let answer = self.write(serde_json::from_slice(&body)?);
            let delay = Duration::from_millis(self.0.delay_ms.load(Ordering::SeqCst));
            tokio::time::sleep(delay).await;
            answer
        };
        let response = http::Response::builder().status(status);
        Ok(response.body(Body::from(answer.to_string().into_bytes()))?)
    }

    fn write(&self, mut lease: Value) -> (u16, Value) {
        let mut there = self.0.lease.lock();
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
        if there.as_ref().is_some_and(|there| version(there) != version(&lease)) {
            return (409, refusal(409));
        }
        let next = self.0.version.fetch_add(1, Ordering::SeqCst) + 1;
        lease["metadata"]["resourceVersion"] = json!(next.to_string());
        lease["metadata"]["uid"] = json!("lease-1");
        *there = Some(lease.clone());
        (200, lease)
    }

    fn holder(&self) -> String {
        let lease = self.0.lease.lock().clone().unwrap_or_default();
        lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    }
}

fn refusal(code: u16) -> Value {
    let reason = if code == 404 { "NotFound" } else { "Conflict" };
    json!({"kind": "Status", "status": "Failure", "reason": reason, "message": "no", "code": code})
}

fn quick() -> Timing {
    Timing {
        duration: Duration::from_secs(5),
        renew_deadline: Duration::from_secs(3),
        retry_period: Duration::from_millis(20),
    }
}

fn contender(
    server: &Server,
    name: &str,
) -> (Leadership, watch::Sender<bool>, tokio::task::JoinHandle<Result<(), NotLeader>>) {
    let leadership = Leadership::none(name);
    let (stop, stopping) = watch::channel(false);
    let election = Election::new("ropewalk".into(), name.into(), quick());
    let task = tokio::spawn(contest(server.api(), election, leadership.clone(), stopping));
    (leadership, stop, task)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not happen within 15 s");
}

#[tokio::test]
async fn k2_a_slow_write_does_not_lengthen_the_time_that_is_led() {
    let server = Server::default();
    server.0.delay_ms.store(700, Ordering::SeqCst);
    let begun = Instant::now();
    let (leadership, _stop, task) = contender(&server, "a");
    until("leading", || leadership.0.lock().until.is_some()).await;
    let until = leadership.0.lock().until.expect("it leads");
    let written = Instant::now();
    assert!(written.duration_since(begun) >= Duration::from_millis(700), "the write was slow");
    // The deadline counts from when the write was sent, so part of it has elapsed at the answer.
    assert!(until.duration_since(written) <= Duration::from_millis(2300), "{:?}", until - written);
    task.abort();
}

#[tokio::test]
async fn k2_who_led_and_cannot_renew_ends() {
    let server = Server::default();
    let (leadership, _stop, task) = contender(&server, "a");
    until("leading", || leadership.holds()).await;
    server.0.is_away.store(true, Ordering::SeqCst);
    let ended = tokio::time::timeout(Duration::from_secs(20), task).await.expect("it ends");
    assert!(matches!(ended, Ok(Err(NotLeader))), "{ended:?}");
    assert!(!leadership.holds());
}

#[tokio::test]
async fn who_waits_says_for_whom_and_is_next() {
    let server = Server::default();
    let (first, stop_first, first_task) = contender(&server, "a");
    until("leading", || first.holds()).await;
    let (second, stop, task) = contender(&server, "b");
    until("waiting", || second.other().as_deref() == Some("a")).await;
    assert!(!second.holds());
    stop_first.send(true).expect("it runs");
    assert!(matches!(first_task.await, Ok(Ok(()))));
    until("leading", || second.holds()).await;
    assert_eq!((server.holder().as_str(), second.other()), ("b", None));
    stop.send(true).expect("it runs");
    assert!(matches!(task.await, Ok(Ok(()))));
    assert_eq!(server.holder(), "", "given back");
}
