//! `/live`, `/ready` and `/metrics`.
//!
//! Ready is an operator that can act or stands by to: both its definitions are installed. A process
//! that waits for them is alive; killing it would help nobody.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use parking_lot::RwLock;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::Metrics;

/// What the answers are made from. A clone speaks of the same.
#[derive(Clone, Debug)]
pub struct Health {
    obstacles: Arc<RwLock<Vec<String>>>,
    metrics: Metrics,
}

impl Health {
    /// Of an operator that has just started.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        let obstacles = vec!["the operator is starting".to_owned()];
        Self { obstacles: Arc::new(RwLock::new(obstacles)), metrics }
    }

    /// Why it is not ready; it is when there is nothing.
    pub fn set(&self, obstacles: Vec<String>) {
        *self.obstacles.write() = obstacles;
    }

    /// Serves until `stopping` turns true.
    pub async fn serve(self, listener: TcpListener, mut stopping: watch::Receiver<bool>) {
        let router = Router::new()
            .route("/live", get(|| async { Json(json!({ "live": true })) }))
            .route("/ready", get(ready))
            .route("/metrics", get(metrics))
            .with_state(self);
        let stop = async move {
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
            tracing::error!(%error, "the health server ended");
        }
    }
}

async fn ready(State(health): State<Health>) -> Response {
    let reasons = health.obstacles.read().clone();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": reasons.is_empty(), "reasons": reasons }))).into_response()
}

async fn metrics(State(health): State<Health>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPEN_METRICS)], health.metrics.text()).into_response()
}
