//! The admin HTTP server: is the broker alive, can it serve, what does it measure.
//!
//! | path | answers |
//! |---|---|
//! | `/live` | 200 as long as the process runs |
//! | `/ready` | 200 when clients can be served, else 503 with the reasons |
//! | `/metrics` | everything that is counted, for Prometheus |
//! | `/v1/queues` | the three figures of every queue and its groups |
//! | `/v1/queues/{name}` | those of one queue |
//!
//! Everything but `/metrics` is JSON, errors included. It is up before the data directory is open, so
//! that a long recovery can be watched.
//!
//! # Invariants
//!
//! - **R1** connections, body sizes and times are bounded.
//! - Nothing here changes anything.

use std::fmt::Debug;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::figures::{QueueReport, Report};
use crate::limits;

mod door;
pub(crate) mod measured;

/// Where the answers come from.
pub trait Source: Send + Sync + Debug {
    /// Why clients cannot be served, if they cannot.
    fn obstacles(&self) -> Vec<String>;
    /// Every queue's figures; `None` before they can be known.
    fn queues(&self) -> Option<Report>;
    /// One queue's.
    fn queue(&self, name: &str) -> Option<QueueReport>;
}

/// What the server works on.
#[derive(Debug)]
pub struct Admin {
    /// The broker.
    pub source: Arc<dyn Source>,
    /// Everything that is counted.
    pub metrics: Mutex<Registry>,
}

/// Serves until `stopping` turns true.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>, mut stopping: watch::Receiver<bool>) {
    let stop = async move {
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    let door = door::Door::new(listener);
    let served = axum::serve(door, router(admin)).with_graceful_shutdown(stop).await;
    if let Err(error) = served {
        tracing::error!(%error, "the admin server ended");
    }
}

fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/queues", get(queues))
        .route("/v1/queues/{name}", get(queue))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(bound_time))
        .layer(DefaultBodyLimit::max(limits::ADMIN_BODY_BYTES_MAX))
        .with_state(admin)
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
    let written = blocking(move || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &admin.metrics.lock()).map(|()| text)
    });
    match written.await {
        Some(Ok(text)) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        _ => error(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written"),
    }
}

async fn queues(State(admin): State<Arc<Admin>>) -> Response {
    match blocking(move || admin.source.queues()).await.flatten() {
        Some(report) => Json(report).into_response(),
        None => error(StatusCode::SERVICE_UNAVAILABLE, "the broker is not open yet"),
    }
}

async fn queue(State(admin): State<Arc<Admin>>, Path(name): Path<String>) -> Response {
    let asked = name.clone();
    match blocking(move || admin.source.queue(&asked)).await.flatten() {
        Some(report) => Json(report).into_response(),
        None => error(StatusCode::NOT_FOUND, &format!("there is no queue '{name}'")),
    }
}

async fn unknown_path(request: Request) -> Response {
    error(StatusCode::NOT_FOUND, &format!("there is nothing at {}", request.uri().path()))
}

async fn wrong_method(request: Request) -> Response {
    let reason = format!("{} is not possible at {}", request.method(), request.uri().path());
    error(StatusCode::METHOD_NOT_ALLOWED, &reason)
}

/// No request holds its connection for longer, whatever it waits for.
async fn bound_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(limits::ADMIN_TIME_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => error(StatusCode::GATEWAY_TIMEOUT, "the broker took too long"),
    }
}

/// Going through thousands of queues must not hold up a thread that serves clients.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn error(status: StatusCode, reason: &str) -> Response {
    (status, Json(json!({ "error": reason }))).into_response()
}

#[cfg(test)]
mod tests;
