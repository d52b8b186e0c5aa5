//! What the admin server is told of the broker, from before it is open until it stops.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use ropewalk_disk::Disk;

use crate::admin::measured::{Storage, StorageMetrics};
use crate::admin::{About, AboutSettings, Open, Recovery, Source};
use crate::clock;
use crate::figures::{QueueReport, Report};
use crate::settings::Settings;

/// The broker as seen from outside.
#[derive(Debug)]
pub(super) struct Status {
    settings: Arc<Settings>,
    started_at_ms: i64,
    open: OnceLock<Opened>,
    stopping: AtomicBool,
}

/// What there is once the data directory is open.
#[derive(Debug)]
struct Opened {
    parts: Open,
    at_ms: i64,
}

impl Status {
    /// A broker that begins to start.
    pub(super) fn new(settings: &Arc<Settings>) -> Arc<Self> {
        let (open, stopping) = (OnceLock::new(), AtomicBool::new(false));
        let settings = Arc::clone(settings);
        Arc::new(Self { settings, started_at_ms: clock::now_ms(), open, stopping })
    }

    /// The data directory is open.
    pub(super) fn opened(&self, parts: Open) {
        let _ = self.open.set(Opened { parts, at_ms: clock::now_ms() });
    }

    fn parts(&self) -> Option<&Open> {
        self.open.get().map(|opened| &opened.parts)
    }

    /// The broker begins to stop.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Metrics of what lies below.
    pub(super) fn storage(self: &Arc<Self>, disk: Arc<dyn Disk>) -> StorageMetrics {
        let status = Arc::clone(self);
        StorageMetrics(Box::new(move || {
            let Open { context, .. } = status.parts()?;
            let wal = context.node.wal().stats();
            Some(Storage {
                wal_rounds: wal.rounds,
                wal_records: wal.records,
                wal_written_bytes: wal.written_bytes,
                wal_bytes: wal.bytes,
                wal_full: wal.full,
                disk_full: context.node.tail_budget().is_disk_full(),
                tail_bytes: context.node.tail_budget().pinned_bytes(),
                syncs: disk.sync_counts().into_iter().collect(),
            })
        }))
    }
}

impl Source for Status {
    fn obstacles(&self) -> Vec<String> {
        if self.stopping.load(Ordering::Relaxed) {
            return vec!["the broker is stopping".into()];
        }
        let Some(Open { context, .. }) = self.parts() else {
            return vec!["the data directory is being opened".into()];
        };
        let node = &context.node;
        let damaged =
            node.damaged().iter().map(|(shard, what)| format!("{shard} is damaged: {what}"));
        let partitions = node.damaged_partitions().iter();
        let partitions = partitions.map(|(id, what)| format!("partition {id} is damaged: {what}"));
        let leaderless = node.shards().filter(|shard| shard.leading().is_none());
        let leaderless = leaderless.map(|shard| format!("{} has no leader", shard.id()));
        let full = node.wal().stats().full.then(|| {
            "the write-ahead log has no room for another file: the disk is full, or the log is at its \
             limit and is being emptied"
                .to_owned()
        });
        damaged.chain(partitions).chain(leaderless).chain(full).collect()
    }

    fn queues(&self) -> Option<Report> {
        let Open { context, figures, .. } = self.parts()?;
        Some(figures.report(&context.node, &context.view, clock::now_ms()))
    }

    fn queue(&self, name: &str) -> Option<QueueReport> {
        let Open { context, figures, .. } = self.parts()?;
        let topic = context.view.by_name(name)?;
        Some(figures.report_one(&context.node, &topic, clock::now_ms()))
    }

    fn about(&self) -> About {
        let opened = self.open.get();
        let open = opened.map(|opened| &opened.parts);
        let reasons = self.obstacles();
        About {
            broker_id: self.settings.node_id(),
            cluster_id: open.map(|open| open.context.cluster_id.to_string()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION"),
            epoch: open.map_or(0, |open| open.context.topics.epoch()),
            started_at_ms: self.started_at_ms,
            ready: reasons.is_empty(),
            reasons,
            settings: AboutSettings { needs_restart: self.settings.needs_restart() },
            recovery: Recovery {
                done: opened.is_some(),
                took_ms: opened.map(|opened| opened.at_ms - self.started_at_ms),
            },
        }
    }

    fn open(&self) -> Option<Open> {
        self.parts().filter(|_| !self.stopping.load(Ordering::Relaxed)).cloned()
    }
}
