//! The signal stream: the state of every bound group as JSON lines, every second, for as long as
//! the operator is connected.
//!
//! ```text
//! {"kind":"hello", …}     once: the broker's identity
//! {"kind":"state", …}     full state of a bound group: at the start, then after each change
//! {"kind":"unknown", …}   part of it is not known: no decision may be made until its next state
//! {"kind":"wake", …}      records and no member: at once, and with every tick until one joins
//! {"kind":"gone", …}      no longer bound, or its queue is deleted
//! {"kind":"tick", …}      every second, after its states: without ticks the state is unknown
//! ```
//!
//! [`wake_ups`] notifies the stream that a record arrived for a group without members. Each second,
//! and at each wake-up, the stream samples the bound groups and [`watch`] decides which lines to
//! send.
//!
//! # Invariants
//!
//! - **R1** a stream produces its next lines when the last ones were received, so a slow operator
//!   costs no memory, and the number of streams is bounded.
//! - **K3** no value is made up: see [`watch`].

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use ropewalk_shard::TopicId;
use serde_json::json;
use tokio::time::Instant;

use super::refusal::AdminError;
use super::{Admin, Open, blocking};
use crate::catalog::TopicView;
use crate::clock;

mod wake_ups;
mod watch;

pub use wake_ups::WakeUps;

use wake_ups::StreamWakeUps;
use watch::{Sample, Watch};

/// Interval between two ticks.
const TICK: Duration = Duration::from_secs(1);

/// Handles `GET /v1/signals`.
pub(super) async fn signals(State(admin): State<Arc<Admin>>) -> Result<Response, AdminError> {
    let open = admin.open()?;
    let wake_ups = open.wake_ups.subscribe().ok_or_else(|| {
        let why = format!(
            "{} signal streams are open, the maximum; one operator needs one",
            crate::limits::SIGNAL_STREAMS_MAX
        );
        AdminError::new(StatusCode::SERVICE_UNAVAILABLE, "TooManyStreams", why)
    })?;
    let about = admin.source.about();
    let hello = json!({
        "kind": "hello",
        "brokerId": about.broker_id,
        "clusterId": about.cluster_id,
        "version": about.version,
        "startedAtMs": about.started_at_ms,
    });
    let listener = Listener {
        admin,
        wake_ups,
        watch: Watch::default(),
        pending: format!("{hello}\n"),
        tick_at: Instant::now(),
    };
    let lines = futures_util::stream::unfold(listener, |mut listener| async move {
        let lines = listener.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(lines)), listener))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(lines)).into_response())
}

/// A connected operator.
struct Listener {
    admin: Arc<Admin>,
    wake_ups: Arc<StreamWakeUps>,
    watch: Watch,
    /// Lines to send before all others.
    pending: String,
    tick_at: Instant,
}

impl Listener {
    /// The next lines; `None` when the broker stops.
    async fn next(&mut self) -> Option<String> {
        loop {
            let lines = tokio::select! {
                () = tokio::time::sleep_until(self.tick_at) => self.tick().await?,
                topics = self.wake_ups.woken() => self.edge(topics).await?,
            };
            let lines = std::mem::take(&mut self.pending) + &lines;
            if !lines.is_empty() {
                return Some(lines);
            }
        }
    }

    async fn tick(&mut self) -> Option<String> {
        // The next tick is a full second after this one even if this one is late, because rates are
        // computed over whole seconds.
        self.tick_at = Instant::now() + TICK;
        let open = self.admin.source.open()?;
        let topics = open.context.view.bound();
        // Armed before sampling, so that a record that arrives after the sample causes a wake-up.
        self.wake_ups.arm(topics.iter().map(|topic| topic.id).collect());
        let samples = blocking(move || sample(&open, &topics)).await?;
        let idle = samples.iter().filter(|sample| is_idle(sample)).map(|sample| sample.id);
        self.wake_ups.retain(&idle.collect());
        Some(self.watch.tick(&samples, clock::now_ms()))
    }

    async fn edge(&mut self, topics: HashSet<TopicId>) -> Option<String> {
        let open = self.admin.source.open()?;
        let topics: Vec<_> =
            topics.into_iter().filter_map(|id| open.context.view.by_id(id)).collect();
        let samples = blocking(move || sample(&open, &topics)).await?;
        Some(self.watch.edge(&samples))
    }
}

/// Whether the group has no members and no unprocessed records.
fn is_idle(sample: &Sample) -> bool {
    let known = sample.known.as_ref();
    known.is_some_and(|(snapshot, signal)| snapshot.members.is_empty() && signal.length() == 0)
}

/// A sample of every group that is bound to one of these topics.
fn sample(open: &Open, topics: &[Arc<TopicView>]) -> Vec<Sample> {
    let Open { context, queue_metrics, .. } = open;
    let now_ms = clock::now_ms();
    let known = |topic: &TopicView, group: &str| {
        let home = context.node.catalog().state().catalog.as_ref()?.shard_of(group);
        let snapshot = context.groups.snapshot(group, &topic.name)?;
        let signal = queue_metrics.signal(&context.node, topic, (group, home), now_ms)?;
        Some((snapshot, signal))
    };
    let of_topic = |topic: &Arc<TopicView>| {
        let sample = |group: &String| Sample {
            topic: topic.name.to_string(),
            id: topic.id,
            group: group.clone(),
            known: known(topic, group),
        };
        topic.bindings.keys().map(sample).collect::<Vec<_>>()
    };
    topics.iter().flat_map(of_topic).collect()
}
