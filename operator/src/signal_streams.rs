//! Opens a signal stream to each cluster that has a Queue with consumers, reads it, and reopens it.
//!
//! # Invariants
//!
//! - **K3** when a stream ends, its signals are discarded before anything else happens.
//! - A task of a stream that ends is spawned again; its panic is resumed in the parent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::admin::Target;
use crate::admin::http::HttpError;
use crate::cluster_key::ClusterKey;
use crate::context::Context;
use crate::queue::key;
use crate::signals::line::{self, Line};
use crate::supervision;

/// Interval of checking which clusters need a stream.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Initial wait before a stream is reopened.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Upper bound of the wait, which doubles at each attempt.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Keeps one stream for each such cluster until `stopping` turns true.
pub async fn run(context: Arc<Context>, mut stopping: watch::Receiver<bool>) {
    let mut tasks = JoinSet::new();
    let mut open: BTreeMap<ClusterKey, AbortHandle> = BTreeMap::new();
    loop {
        while let Some(ended) = tasks.try_join_next() {
            supervision::finished(ended);
        }
        open.retain(|_, task| !task.is_finished());
        let wanted = wanted(&context);
        open.retain(|key, task| {
            let keep = wanted.contains(key);
            if !keep {
                task.abort();
                context.signals.discard(key);
            }
            keep
        });
        for key in wanted {
            open.entry(key.clone()).or_insert_with(|| tasks.spawn(follow(context.clone(), key)));
        }
        context.metrics.streams(open.len());
        tokio::select! {
            () = tokio::time::sleep(CHECK_INTERVAL) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// The clusters that have a Queue with consumers.
fn wanted(context: &Context) -> BTreeSet<ClusterKey> {
    let queues = context.queues();
    let readable = queues.iter().filter_map(|queue| queue.0.as_ref().ok());
    let bound = readable.filter(|queue| !queue.spec.consumers.is_empty());
    bound.map(key).filter(|key| context.cluster(key).is_some()).collect()
}

/// Keeps a stream open, with back-off between attempts.
async fn follow(context: Arc<Context>, key: ClusterKey) {
    let mut pause = PAUSE_MIN;
    loop {
        let begun = Instant::now();
        let ended = read(&context, &key).await;
        context.signals.discard(&key);
        tracing::debug!(cluster = %key, ended, "signal stream ended");
        pause = if begun.elapsed() > PAUSE_MAX { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        tokio::time::sleep(pause).await;
    }
}

/// Reads a stream to its end and returns the reason of the end.
async fn read(context: &Context, key: &ClusterKey) -> String {
    let Some(cluster) = context.cluster(key) else {
        return "the cluster does not exist".to_owned();
    };
    let mut lines = match context.brokers.signals(&Target::of(&cluster)).await {
        Ok(lines) => lines,
        Err(error) => return error.to_string(),
    };
    loop {
        match lines.next().await {
            Ok(Some(bytes)) if bytes.iter().all(u8::is_ascii_whitespace) => {}
            Ok(Some(bytes)) => match line::parse(&bytes) {
                Ok(line) => {
                    if let Line::Hello(hello) = &line {
                        tracing::info!(cluster = %key, version = hello.version, "signal stream opened");
                    }
                    context.signals.take(key, line, Instant::now());
                }
                // A line that is only partly understood could yield a wrong number.
                Err(error) => return format!("a line cannot be decoded: {error}"),
            },
            Ok(None) => return "the broker closed the stream".to_owned(),
            Err(HttpError::Unreachable(why) | HttpError::Malformed(why)) => return why,
            Err(HttpError::Status(status, _)) => return format!("status {status}"),
        }
    }
}
