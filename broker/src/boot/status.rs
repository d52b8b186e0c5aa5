//! What the admin server is told of the broker, from before it is open until it stops.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use ropewalk_disk::Disk;

use crate::admin::Source;
use crate::admin::measured::{Storage, StorageMetrics};
use crate::clock;
use crate::figures::{Figures, QueueReport, Report};
use crate::handle::Context;

/// The broker as seen from outside.
#[derive(Debug, Default)]
pub(super) struct Status {
    open: OnceLock<(Arc<Context>, Arc<Figures>)>,
    stopping: AtomicBool,
}

impl Status {
    /// The data directory is open.
    pub(super) fn opened(&self, context: &Arc<Context>, figures: &Arc<Figures>) {
        let _ = self.open.set((Arc::clone(context), Arc::clone(figures)));
    }

    /// The broker begins to stop.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Metrics of what lies below.
    pub(super) fn storage(self: &Arc<Self>, disk: Arc<dyn Disk>) -> StorageMetrics {
        let status = Arc::clone(self);
        StorageMetrics(Box::new(move || {
            let (context, _) = status.open.get()?;
            let wal = context.node.wal().stats();
            Some(Storage {
                wal_rounds: wal.rounds,
                wal_records: wal.records,
                wal_written_bytes: wal.written_bytes,
                wal_bytes: wal.bytes,
                wal_full: wal.full,
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
        let Some((context, _)) = self.open.get() else {
            return vec!["the data directory is being opened".into()];
        };
        let node = &context.node;
        let damaged =
            node.damaged().iter().map(|(shard, what)| format!("{shard} is damaged: {what}"));
        let partitions = node.damaged_partitions().iter();
        let partitions = partitions.map(|(id, what)| format!("partition {id} is damaged: {what}"));
        let leaderless = node.shards().filter(|shard| shard.leading().is_none());
        let leaderless = leaderless.map(|shard| format!("{} has no leader", shard.id()));
        let full = node.wal().stats().full.then(|| "the disk is full".to_owned());
        damaged.chain(partitions).chain(leaderless).chain(full).collect()
    }

    fn queues(&self) -> Option<Report> {
        let (context, figures) = self.open.get()?;
        Some(figures.report(&context.node, &context.view, clock::now_ms()))
    }

    fn queue(&self, name: &str) -> Option<QueueReport> {
        let (context, figures) = self.open.get()?;
        let topic = context.view.by_name(name)?;
        Some(figures.report_one(&context.node, &topic, clock::now_ms()))
    }
}
