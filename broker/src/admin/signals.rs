//! The stream of signals: what an operator must know of every bound group, second by second, as lines of
//! JSON that go on for as long as it listens.
//!
//! ```text
//! {"kind":"hello", …}     once: which broker this is
//! {"kind":"state", …}     a bound group, whole: first of every one, then when it changed
//! {"kind":"unknown", …}   not all of it can be known: nothing may be decided until its next state
//! {"kind":"wake", …}      records and no member: at once, and with every tick until one is there
//! {"kind":"gone", …}      no longer bound, or its queue is deleted
//! {"kind":"tick", …}      every second, after its states: who hears none for long knows nothing
//! ```
//!
//! # Place in the walk
//!
//! [`bell`] hears from the shards that a record came for somebody who sleeps. Each second, and when it
//! rings, the stream samples the bound groups and [`watch`] decides what is told.
//!
//! # Invariants
//!
//! - **R1** a stream makes its next lines when the last were taken: a slow listener costs nothing, and
//!   there are only so many streams.
//! - **K3** no number is made up: see [`watch`].

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

use super::refusal::Refused;
use super::{Admin, Open, blocking};
use crate::catalog::TopicView;
use crate::clock;

mod bell;
mod watch;

pub use bell::Bells;

use bell::Bell;
use watch::{Sample, Watch};

/// Between two ticks.
const TICK: Duration = Duration::from_secs(1);

/// `GET /v1/signals`
pub(super) async fn signals(State(admin): State<Arc<Admin>>) -> Result<Response, Refused> {
    let open = admin.open()?;
    let bell = open.bells.hang().ok_or_else(|| {
        let why = format!(
            "{} streams of signals are open, as many as may be; one operator needs one",
            crate::limits::SIGNAL_STREAMS_MAX
        );
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, "TooManyStreams", why)
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
        bell,
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

/// One who listens.
struct Listener {
    admin: Arc<Admin>,
    bell: Arc<Bell>,
    watch: Watch,
    /// Lines that go before all others.
    pending: String,
    tick_at: Instant,
}

impl Listener {
    /// The next lines; `None` when the broker stops.
    async fn next(&mut self) -> Option<String> {
        loop {
            let lines = tokio::select! {
                () = tokio::time::sleep_until(self.tick_at) => self.tick().await?,
                topics = self.bell.heard() => self.edge(topics).await?,
            };
            let lines = std::mem::take(&mut self.pending) + &lines;
            if !lines.is_empty() {
                return Some(lines);
            }
        }
    }

    async fn tick(&mut self) -> Option<String> {
        // A tick that comes late does not make the next come early: rates are of whole seconds.
        self.tick_at = Instant::now() + TICK;
        let open = self.admin.source.open()?;
        let topics = open.context.view.bound();
        // Before it is looked, so that what comes after the look rings.
        self.bell.arm(topics.iter().map(|topic| topic.id).collect());
        let samples = blocking(move || sample(&open, &topics)).await?;
        let sleeping = samples.iter().filter(|sample| is_asleep(sample)).map(|sample| sample.id);
        self.bell.keep(&sleeping.collect());
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

/// Nothing to do and nobody there to do it.
fn is_asleep(sample: &Sample) -> bool {
    let known = sample.known.as_ref();
    known.is_some_and(|(standing, signal)| standing.members.is_empty() && signal.length() == 0)
}

/// Every group that is bound to one of these.
fn sample(open: &Open, topics: &[Arc<TopicView>]) -> Vec<Sample> {
    let Open { context, figures, .. } = open;
    let now_ms = clock::now_ms();
    let known = |topic: &TopicView, group: &str| {
        let home = context.node.catalog().state().catalog.as_ref()?.shard_of(group);
        let standing = context.groups.standing(group, &topic.name)?;
        let signal = figures.signal(&context.node, topic, (group, home), now_ms)?;
        Some((standing, signal))
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
