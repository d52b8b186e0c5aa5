//! The table of the broker's own threads and tasks, and what the process does when one ends.
//!
//! Those of the shards and of the write-ahead log are in [`ropewalk_node::supervision`], which
//! also runs them; [`all`] lists both. Whatever is spawned and lives longer than one request has a row.
//!
//! # Panics
//!
//! [`log_panics`] writes each one to the log with its thread and place and counts it. Whether the process
//! ends is decided where the task was spawned: by its row.

use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use ropewalk_node::supervision as shards;

pub use ropewalk_node::supervision::{Fatal, OnEnd, Supervisor, Task, caught};

/// The exit code when the disk can no longer be trusted (D2).
pub const EXIT_DISK: i32 = 5;

/// The exit code when a thread or task ended that the broker needs: a fault in the program.
pub const EXIT_TASK_ENDED: i32 = 9;

/// The exit code that belongs to an error.
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
    ADMIN_SERVER = "admin server", ProcessEnds, "probes, metrics, and everything an operator asks";
    /// The accept loop of a Kafka listener.
    LISTENER = "listener", ProcessEnds, "accepting of Kafka clients";
    /// One per Kafka client.
    CONNECTION = "connection", ConnectionCloses, "serving of one Kafka client";
    /// The comparison of the shards with the catalog.
    RECONCILER = "reconciler", ProcessEnds, "opening and closing of partitions";
    /// The clock of all groups.
    GROUPS = "group coordinator", ProcessEnds, "session time-outs and rebalances of consumer groups";
    /// One per record of a group on its way.
    GROUP_RECORD = "group record", ProcessEndsOnPanic, "the rebalance of one consumer group";
    /// Retention and expiry.
    AGEING = "ageing", ProcessEnds, "retention of records and expiry of producers";
}

/// Every thread and task that is supervised.
pub fn all() -> impl Iterator<Item = &'static Task> {
    shards::TASKS.iter().chain(TASKS).copied()
}

static PANICS: AtomicU64 = AtomicU64::new(0);

/// From now on each panic of this process is a line in the log, and counted.
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

/// The number of panics so far, for Prometheus.
#[derive(Debug)]
pub struct Panics;

impl prometheus_client::collector::Collector for Panics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let count = ConstCounter::new(PANICS.load(Ordering::Relaxed));
        let help = "Panics in threads and tasks of the broker; each is a fault in the program";
        let metric = encoder.encode_descriptor("panics", help, None, count.metric_type())?;
        count.encode(metric)
    }
}
