//! The admin HTTP server: health, metrics, and the API by which an operator changes the broker.
//!
//! | path | answers | token | epoch |
//! |---|---|---|---|
//! | GET `/live` | 200 as long as the process runs | | |
//! | GET `/` | the list of paths | | |
//! | GET `/ready` | 200 when the broker serves as a member, else 503 with the reasons | | |
//! | GET `/metrics` | all metrics, for Prometheus | | |
//! | GET `/v1/queues` | consumer lag, delay and throughput of every queue and its groups | | |
//! | GET `/v1/queues/{name}` | the same of one queue | | |
//! | GET `/v1/broker` | identity, readiness, conditions and fencing epoch | | |
//! | GET `/v1/cluster` | brokers and shards of the cluster, as this broker sees them | | |
//! | POST `/v1/cluster/brokers` | adds a broker to the cluster | yes | |
//! | GET `/v1/cluster/brokers/{id}` | a broker, and what is left of an operation on it | | |
//! | POST `/v1/cluster/brokers/{id}/drain` | its replicas move to other brokers | yes | yes |
//! | POST `/v1/cluster/brokers/{id}/prepare-restart` | it hands over its leaderships | yes | yes |
//! | POST `/v1/cluster/brokers/{id}/admit` | ends a drain or a prepared restart | yes | yes |
//! | DELETE `/v1/cluster/brokers/{id}` | removes a broker without replicas for good | yes | yes |
//! | POST `/v1/fence` | a new epoch for an operator that won its election | yes | |
//! | PUT `/v1/queues/{name}` | creates, adopts or reconciles a queue | yes | yes |
//! | DELETE `/v1/queues/{name}` | releases a queue, with its records or without | yes | yes |
//! | PUT `/v1/queues/{name}/groups/{group}` | binds a group: it will read every record | yes | yes
//! |
//! | DELETE `/v1/queues/{name}/groups/{group}` | unbinds a group | yes | yes |
//! | PUT `/v1/settings` | replaces the settings file, as far as possible at run time | yes | yes |
//! | GET `/v1/owners/{owner}` | queues and bound groups of an owner | yes | |
//! | GET `/v1/signals` | a stream of the state of bound groups, every second | yes | |
//!
//! Everything but `/metrics` is JSON, errors included: `{"reason": "CamelCase", "error": "a
//! sentence"}`. The server starts before the data directory is open, so that a long recovery can be
//! observed. [`access`] checks the token; the epoch is the header `Ropewalk-Epoch`.
//!
//! # Invariants
//!
//! - **R1** connections, body sizes and times are bounded.
//! - **K2** an operator's change is made only under the newest epoch.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post, put};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde::Serialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::handle::Context;
use crate::limits;
use crate::queue_metrics::{QueueMetrics, QueueReport, Report};

mod connection_limit;
pub mod client;
pub mod shard_reason;
pub mod cluster;
mod access;
mod refusal;
mod condition;
mod changes;
mod signals;
pub(crate) mod measured;

pub use condition::{Condition, Kind};
pub use signals::WakeUps;

use access::Caller;
use changes::PathParams;
use cluster::operations;
use refusal::AdminError;

/// The source of the answers.
pub trait Source: Send + Sync + Debug {
    /// Why this broker does not serve as a member; empty if it does.
    fn obstacles(&self) -> Vec<String>;
    /// Conditions beside readiness: damage, full storage, shards that catch up.
    fn conditions(&self) -> Vec<Condition>;
    /// The metrics of every queue; `None` while they are not available.
    fn queues(&self) -> Option<Report>;
    /// The metrics of one queue.
    fn queue(&self, name: &str) -> QueueLookup;
    /// The identity and state of the broker.
    fn about(&self) -> About;
    /// The parts that changes and signal streams need; `None` before the data directory is open and
    /// when the broker stops.
    fn open(&self) -> Option<Open>;
}

/// The result of looking up one queue by its name.
#[derive(Debug, Clone)]
pub enum QueueLookup {
    /// The queue exists.
    Found(QueueReport),
    /// The catalog has a leader and has no queue of that name.
    NoSuchQueue,
    /// The data directory is not open yet, or the catalog has no leader and may not hold the queue
    /// yet.
    NotReady,
}

/// The parts of an open broker.
#[derive(Debug, Clone)]
pub struct Open {
    /// The context of the request handlers.
    pub context: Arc<Context>,
    /// The metrics of queues and groups.
    pub queue_metrics: Arc<QueueMetrics>,
    /// Notifies signal streams of new records at once.
    pub wake_ups: Arc<WakeUps>,
}

/// The state of a broker at one moment.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// The broker's `node.id`.
    pub broker_id: i32,
    /// The cluster id; empty before the data directory is open.
    pub cluster_id: String,
    /// The version of the program.
    pub version: &'static str,
    /// The newest fencing epoch; 0 before the first.
    pub epoch: u64,
    /// The feature level of the cluster: the newest format of commands that every broker reads; 0
    /// before the data directory is open.
    pub feature_level: u8,
    /// When the process started, Unix milliseconds.
    pub started_at_ms: i64,
    /// Whether the broker is ready, as `/ready` answers.
    pub ready: bool,
    /// Why the broker is not ready.
    pub reasons: Vec<String>,
    /// Conditions that do not make the broker unready.
    pub conditions: Vec<Condition>,
    /// The state of the settings.
    pub settings: AboutSettings,
    /// The state of recovery.
    pub recovery: Recovery,
    /// The state of the bucket for older records; null without one.
    pub tier: Option<AboutTier>,
}

/// The state of the bucket for older records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AboutTier {
    /// Bucket and prefix, as a URL.
    pub url: String,
    /// Whether the bucket was examined and claimed for this cluster.
    pub claimed: bool,
    /// The last failure; null while the bucket works.
    pub failure: Option<TierFailure>,
    /// Bytes of partitions led by this broker that wait to be uploaded.
    pub not_uploaded_bytes: u64,
    /// How long the oldest record of them waits, seconds.
    pub not_uploaded_seconds: u64,
    /// After how long a record is uploaded at the latest, seconds, rounded up.
    pub upload_max_age_seconds: u64,
}

/// A failure of the bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TierFailure {
    /// The kind of the failure, as in `ropewalk_tier_errors_total`; it never changes its name.
    pub kind: &'static str,
    /// What was asked of the bucket: put, get, head, list, delete; null if it is about no request.
    pub operation: Option<String>,
    /// The error, and what to do about it; at most [`limits::CONDITION_BYTES_MAX`] bytes.
    pub message: String,
}

/// The state of the settings.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AboutSettings {
    /// Keys whose new value takes effect with the next start.
    pub needs_restart: Vec<String>,
    /// The hash of the file that this process started with; see [`crate::settings::fingerprint`].
    pub started_hash: String,
    /// The hash of the last file that `PUT /v1/settings` applied; null before the first.
    pub last_hash: Option<String>,
}

/// The state of opening the data directory.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// Whether the data directory is open.
    pub done: bool,
    /// Duration of opening it, milliseconds; null before.
    pub took_ms: Option<i64>,
}

/// The shared state of the server.
#[derive(Debug)]
pub struct Admin {
    /// The source of the answers.
    pub source: Arc<dyn Source>,
    /// All metrics of the process.
    pub metrics: Mutex<Registry>,
    /// The file with the token that callers must send, if one is set.
    pub token_file: Option<PathBuf>,
}

impl Admin {
    fn open(&self) -> Result<Open, AdminError> {
        let open = self.source.open();
        open.ok_or_else(|| AdminError::not_ready("the broker is not open; GET /ready says why"))
    }
}

/// Serves until `stopping` turns true.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>, mut stopping: watch::Receiver<bool>) {
    let stop = async move {
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    let connection_limit = connection_limit::ConnectionLimit::new(listener);
    let service = router(admin).into_make_service_with_connect_info::<Caller>();
    let served = axum::serve(connection_limit, service).with_graceful_shutdown(stop).await;
    if let Err(error) = served {
        tracing::error!(%error, "admin server failed");
    }
}

fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/queues", get(queues))
        .route("/v1/queues/{name}", get(queue).put(changes::declare).delete(changes::release))
        .route("/v1/queues/{name}/groups/{group}", put(changes::bind).delete(changes::unbind))
        .route("/v1/owners/{owner}", get(changes::owned))
        .route("/v1/broker", get(broker))
        .route("/v1/cluster", get(cluster::report))
        .route("/v1/cluster/brokers", post(cluster::join::join))
        .route("/v1/cluster/brokers/{id}", get(operations::show).delete(operations::forget))
        .route("/v1/cluster/brokers/{id}/drain", post(operations::drain))
        .route("/v1/cluster/brokers/{id}/prepare-restart", post(operations::prepare_restart))
        .route("/v1/cluster/brokers/{id}/admit", post(operations::admit))
        .route("/v1/fence", post(changes::claim_fence))
        .route("/v1/signals", get(signals::signals))
        .route("/v1/settings", put(changes::replace_settings))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), access::guard))
        .layer(middleware::from_fn(bound_time))
        .layer(DefaultBodyLimit::max(limits::ADMIN_BODY_BYTES_MAX))
        .with_state(admin)
}

/// The list of paths that `GET /` answers.
const PATHS: &[(&str, &str)] = &[
    ("GET /live", "whether the process runs"),
    ("GET /ready", "whether the broker serves, and the reasons if not"),
    ("GET /metrics", "all metrics, for Prometheus"),
    ("GET /v1/queues", "consumer lag, delay and throughput of every queue and its groups"),
    ("GET /v1/queues/{name}", "the same of one queue"),
    ("GET /v1/broker", "identity, readiness and conditions of the broker"),
    ("GET /v1/cluster", "brokers and shards of the cluster, as this broker sees them"),
    ("GET /v1/cluster/brokers/{id}", "a broker, and what is left of an operation on it"),
    ("GET /v1/owners/{owner}", "queues and bound groups of an owner"),
    ("GET /v1/signals", "a stream of the state of bound groups, every second"),
    ("POST /v1/fence", "claims an epoch for changes"),
    ("POST /v1/cluster/brokers", "adds a broker to the cluster"),
    ("POST /v1/cluster/brokers/{id}/drain", "moves the replicas of a broker to others"),
    ("POST /v1/cluster/brokers/{id}/prepare-restart", "hands over what a broker leads"),
    ("POST /v1/cluster/brokers/{id}/admit", "ends a drain or a prepared restart"),
    ("DELETE /v1/cluster/brokers/{id}", "removes a broker without replicas for good"),
    ("PUT /v1/queues/{name}", "declares a queue"),
    ("DELETE /v1/queues/{name}", "releases a queue"),
    ("PUT /v1/queues/{name}/groups/{group}", "binds a group to a queue"),
    ("DELETE /v1/queues/{name}/groups/{group}", "unbinds a group from a queue"),
    ("PUT /v1/settings", "replaces the settings file"),
];

async fn index() -> Response {
    let paths: Vec<_> =
        PATHS.iter().map(|(path, what)| json!({ "path": path, "what": what })).collect();
    let version = env!("CARGO_PKG_VERSION");
    Json(json!({ "program": "ropewalk-broker", "version": version, "paths": paths }))
        .into_response()
}

async fn live() -> Response {
    Json(json!({ "live": true })).into_response()
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let reasons = admin.source.obstacles();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": reasons.is_empty(), "reasons": reasons }))).into_response()
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let written = report(move || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &admin.metrics.lock()).map(|()| text)
    });
    match written.await {
        Some(Ok(text)) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        _ => {
            let why = "the metrics cannot be encoded";
            AdminError::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal", why).into_response()
        }
    }
}

async fn queues(State(admin): State<Arc<Admin>>) -> Response {
    match report(move || admin.source.queues()).await.flatten() {
        Some(report) => Json(report).into_response(),
        None => AdminError::not_ready("the broker is not open yet").into_response(),
    }
}

async fn broker(State(admin): State<Arc<Admin>>) -> Response {
    Json(admin.source.about()).into_response()
}

async fn queue(State(admin): State<Arc<Admin>>, PathParams(name): PathParams<String>) -> Response {
    let asked = name.clone();
    match report(move || admin.source.queue(&asked)).await {
        Some(QueueLookup::Found(report)) => Json(report).into_response(),
        Some(QueueLookup::NoSuchQueue) => AdminError::no_such_queue(&name).into_response(),
        Some(QueueLookup::NotReady) | None => {
            AdminError::not_ready("the broker is not open yet").into_response()
        }
    }
}

async fn unknown_path(request: Request) -> Response {
    let why = format!("path {} does not exist; GET / lists the paths", request.uri().path());
    AdminError::new(StatusCode::NOT_FOUND, "NotFound", why).into_response()
}

async fn wrong_method(request: Request) -> Response {
    let why = format!("method {} is not allowed at {}", request.method(), request.uri().path());
    AdminError::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", why).into_response()
}

/// Bounds the time of every request, whatever it waits for.
async fn bound_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(limits::ADMIN_TIME_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let seconds = limits::ADMIN_TIME_MAX.as_secs();
            let why =
                format!("the broker took longer than {seconds} s; a change may still be made");
            AdminError::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", why).into_response()
        }
    }
}

/// Computes a report over queues. At most [`limits::ADMIN_REPORTS_MAX`] run at once, so that
/// callers without the token do not occupy the blocking threads (R1).
async fn report<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    static RUNNING: Semaphore = Semaphore::const_new(limits::ADMIN_REPORTS_MAX);
    let place = RUNNING.acquire().await.ok()?;
    // The work continues after its caller has disconnected, and keeps its place until it ends.
    blocking(move || (work(), drop(place)).0).await
}

/// Runs on a blocking thread, because a report over thousands of queues must not delay clients.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

#[cfg(test)]
mod tests;
