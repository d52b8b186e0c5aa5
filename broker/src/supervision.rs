//! The table of the broker's own threads and tasks, and what the process does when one ends.
//!
//! The tables of the shards and of the write-ahead log are in [`ropewalk_node::supervision`], which
//! also implements them; [`all`] lists both. Every thread or task that outlives one request has a
//! row.
//!
//! # Panics
//!
//! [`log_panics`] logs each panic with its thread and location and counts it. The row of the task
//! decides whether the process ends.

use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use ropewalk_node::supervision as shards;

pub use ropewalk_node::supervision::{Fatal, OnEnd, Supervisor, Task, caught};

/// The exit code when the disk can no longer be trusted (D2).
pub const EXIT_DISK: i32 = 5;

/// The exit code when a thread or task ended that the broker needs: a bug in the program.
pub const EXIT_TASK_ENDED: i32 = 9;

/// The exit code of an error.
#[must_use]
pub fn exit_code(fatal: &Fatal) -> i32 {
    match fatal {
        Fatal::Disk(_) => EXIT_DISK,
        Fatal::Ended { .. } => EXIT_TASK_ENDED,
    }
}

ropewalk_node::tasks! {
    pub,
    /// The accept loop of the admin server.
    ADMIN_SERVER = "admin server", ProcessEnds, "probes, metrics, and all calls of an operator";
    /// The accept loop of a Kafka listener.
    LISTENER = "listener", ProcessEnds, "accepting of Kafka clients";
    /// Decides whether Kafka clients are served.
    ENTRANCE = "entrance", ProcessEnds, "closing of Kafka connections while the broker is cut off";
    /// One per Kafka connection.
    CONNECTION = "connection", ConnectionCloses, "serving of one Kafka client";
    /// Compares the shards with the catalog.
    RECONCILER = "reconciler", ProcessEnds, "opening and closing of partitions";
    /// Timers of all groups.
    GROUPS = "group coordinator", ProcessEnds, "session time-outs and rebalances of consumer groups";
    /// One per group record that is being made durable.
    GROUP_RECORD = "group record", ProcessEndsOnPanic, "the rebalance of one consumer group";
    /// Retention and expiry.
    RETENTION = "retention", ProcessEnds, "retention of records and expiry of producers";
    /// Connections to the other brokers, heartbeats and reports.
    CLUSTER = "cluster", ProcessEnds, "all messages to and from other brokers";
    /// Decides where replicas are and who leads.
    BALANCER = "balancer", ProcessEnds, "placing of replicas on brokers";
    /// Makes the members of shards those of the catalog.
    MEMBERS = "members", ProcessEnds, "changes of the members of shards";
    /// Uploads older records and checkpoints, and carries out retention in the bucket.
    TIER = "tier", ProcessEnds, "uploads and checkpoints to the bucket, and retention of what is there";
    /// Registers this broker in the catalog.
    REGISTRATION = "registration", ProcessEnds, "what the catalog says of this broker";
}

/// Every supervised thread and task.
pub fn all() -> impl Iterator<Item = &'static Task> {
    shards::TASKS.iter().chain(TASKS).copied()
}

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Installs the panic hook, which logs and counts each panic of this process.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(thread, place, %backtrace, "panic: {}", text(panic));
    }));
}

fn text(panic: &PanicHookInfo<'_>) -> String {
    panic.payload_as_str().map_or_else(|| "no message".to_owned(), str::to_owned)
}

/// The number of panics since the start, for Prometheus.
#[derive(Debug)]
pub struct Panics;

impl prometheus_client::collector::Collector for Panics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let count = ConstCounter::new(PANICS.load(Ordering::Relaxed));
        let help = "Panics in threads and tasks of the broker, each a bug in the program";
        let metric = encoder.encode_descriptor("panics", help, None, count.metric_type())?;
        count.encode(metric)
    }
}
