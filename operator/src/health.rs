//! The HTTP endpoints `/live`, `/ready` and `/metrics`.
//!
//! The operator is ready when the custom resource definitions are installed, whether it leads or is
//! a standby. A process that waits for the definitions is live, because a restart would not help.
//! `/ready` also reports whether the process leads, the name of the Lease, and its holder.

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

use crate::lease::Leadership;
use crate::metrics::Metrics;

/// State behind the endpoints. Clones share it.
#[derive(Clone, Debug)]
pub struct Health {
    obstacles: Arc<RwLock<Vec<String>>>,
    metrics: Metrics,
    leadership: Leadership,
    lease: String,
}

impl Health {
    /// The state of an operator that has just started, with one obstacle.
    #[must_use]
    pub fn new(metrics: Metrics, leadership: Leadership, lease: &str) -> Self {
        let obstacles = vec!["the operator is starting".to_owned()];
        let obstacles = Arc::new(RwLock::new(obstacles));
        Self { obstacles, metrics, leadership, lease: lease.to_owned() }
    }

    /// Sets the obstacles to readiness; none means ready.
    pub fn set(&self, obstacles: Vec<String>) {
        *self.obstacles.write() = obstacles;
    }

    /// Identity of the holder of the Lease, as far as this process knows.
    fn holder(&self) -> Option<String> {
        let leads = self.leadership.holds();
        if leads { Some(self.leadership.identity()) } else { self.leadership.other() }
    }

    /// Serves the endpoints until `stopping` turns true.
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
            tracing::error!(%error, "health server failed");
        }
    }
}

async fn ready(State(health): State<Health>) -> Response {
    let reasons = health.obstacles.read().clone();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let answer = json!({
        "ready": reasons.is_empty(),
        "reasons": reasons,
        "leading": health.leadership.holds(),
        "lease": health.lease,
        "holder": health.holder(),
    });
    (status, Json(answer)).into_response()
}

async fn metrics(State(health): State<Health>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPEN_METRICS)], health.metrics.text()).into_response()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use http_body_util::BodyExt as _;

    use super::*;

    async fn said(leadership: Leadership) -> (StatusCode, serde_json::Value) {
        let health = Health::new(Metrics::default(), leadership, "ropewalk");
        health.set(vec![]);
        let response = ready(State(health)).await;
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice(&body).expect("JSON"))
    }

    #[tokio::test]
    async fn ready_says_whether_the_process_leads() {
        let (status, answer) = said(Leadership::none("me")).await;
        assert_eq!(status, StatusCode::OK, "standing by is ready");
        assert_eq!((&answer["leading"], &answer["lease"]), (&json!(false), &json!("ropewalk")));
        let leads = Leadership::assumed("me", Instant::now() + Duration::from_secs(60));
        let (_, answer) = said(leads).await;
        assert_eq!((&answer["leading"], &answer["holder"]), (&json!(true), &json!("me")));
    }
}
