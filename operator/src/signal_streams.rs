//! One stream for each cluster that has a Queue with consumers: opened, read, and opened again.
//!
//! # Invariants
//!
//! - **K3** when a stream ends, what it said is forgotten before anything else happens.
//! - A task that follows a stream and ends is begun again; if it panics, so does the whole.

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

/// How often it is looked which clusters there are.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The wait before a stream is opened again.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// It doubles up to this.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Runs until `stopping` turns true.
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
                context.signals.forget(key);
            }
            keep
        });
        for key in wanted {
            open.entry(key.clone()).or_insert_with(|| tasks.spawn(follow(context.clone(), key)));
        }
        context.metrics.streams(open.len());
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// The clusters whose signals somebody needs.
fn wanted(context: &Context) -> BTreeSet<ClusterKey> {
    let queues = context.queues();
    let readable = queues.iter().filter_map(|queue| queue.0.as_ref().ok());
    let bound = readable.filter(|queue| !queue.spec.consumers.is_empty());
    bound.map(key).filter(|key| context.cluster(key).is_some()).collect()
}

/// Keeps a stream open.
async fn follow(context: Arc<Context>, key: ClusterKey) {
    let mut pause = PAUSE_MIN;
    loop {
        let begun = Instant::now();
        let ended = read(&context, &key).await;
        context.signals.forget(&key);
        tracing::debug!(cluster = %key, ended, "a signal stream ended");
        pause = if begun.elapsed() > PAUSE_MAX { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        tokio::time::sleep(pause).await;
    }
}

/// Reads a stream to its end, and says why it ended.
async fn read(context: &Context, key: &ClusterKey) -> String {
    let Some(cluster) = context.cluster(key) else { return "there is no cluster".to_owned() };
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
                        tracing::info!(cluster = %key, version = hello.version, "signals");
                    }
                    context.signals.take(key, line, Instant::now());
                }
                // What is half understood could be taken for a number.
                Err(error) => return format!("a line is not understood: {error}"),
            },
            Ok(None) => return "the broker closed it".to_owned(),
            Err(HttpError::Unreachable(why) | HttpError::Malformed(why)) => return why,
            Err(HttpError::Status(status, _)) => return format!("status {status}"),
        }
    }
}
