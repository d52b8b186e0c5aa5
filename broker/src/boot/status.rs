//! The state of the broker as the admin server reports it, from before the data directory is open
//! until the broker stops.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use ropewalk_disk::Disk;
use ropewalk_node::Halt;
use ropewalk_shard::ShardId;

use crate::admin::measured::{Storage, StorageMetrics};
use crate::admin::{
    About, AboutSettings, AboutTier, Condition, Kind, Open, QueueLookup, Recovery, Source,
    TierFailure,
};
use crate::clock;
use crate::cluster::report::newest_leader;
use crate::handle::Context;
use crate::queue_metrics::{QueueReport, Report};
use crate::settings::Settings;
use crate::tier::Health;

const DAMAGED_SHARDS: &str = "shards are damaged and serve nothing until `ropewalk-broker repair`";
const QUARANTINED_SHARDS: &str =
    "shards are served by other brokers only, because their replicas here have stopped";
const TOO_OLD: &str =
    "shards have an entry that a newer version of the broker wrote: upgrade this broker";
const DAMAGED_PARTITIONS: &str =
    "partitions lost records to damage; `ropewalk-broker repair` lists them";
const SHARDS_BEHIND: &str = "shards have no leader, or their replicas here lack entries";
const ORPHANED_PARTITIONS: &str = "partitions are kept although the repaired catalog does not list their \
                                   topic; `ropewalk-broker repair --drop-orphans` releases them";

const WITHOUT_BUCKET: &str = "queues have remote.storage.enable, and ropewalk.tier.url of this broker is not set: their older \
                              records are neither uploaded nor read";

/// The broker's state as the admin server sees it.
#[derive(Debug)]
pub(super) struct Status {
    settings: Arc<Settings>,
    started_at_ms: i64,
    /// What the start waits for, if that is not the data directory.
    waits_for: Mutex<Option<String>>,
    open: OnceLock<OpenParts>,
    /// The health of the bucket, if there is one.
    tier: OnceLock<Arc<Health>>,
    stopping: AtomicBool,
}

/// The parts that exist once the data directory is open.
#[derive(Debug)]
struct OpenParts {
    parts: Open,
    at_ms: i64,
}

impl Status {
    /// The status of a broker that begins to start.
    pub(super) fn new(settings: &Arc<Settings>) -> Arc<Self> {
        let (open, stopping) = (OnceLock::new(), AtomicBool::new(false));
        let settings = Arc::clone(settings);
        let (waits_for, tier) = (Mutex::default(), OnceLock::new());
        Arc::new(Self { settings, started_at_ms: clock::now_ms(), waits_for, open, tier, stopping })
    }

    /// Records what the start waits for.
    pub(super) fn waits(&self, what: String) {
        *self.waits_for.lock() = Some(what);
    }

    /// Records that the data directory is open.
    pub(super) fn opened(&self, parts: Open) {
        let _ = self.open.set(OpenParts { parts, at_ms: clock::now_ms() });
    }

    /// Records that the broker has a bucket.
    pub(super) fn has_tier(&self, health: Arc<Health>) {
        let _ = self.tier.set(health);
    }

    /// Why older records do not move to the bucket.
    fn tier(&self, context: &Context) -> Option<Condition> {
        if let Some(health) = self.tier.get() {
            let failure = health.failure()?;
            return Some(Condition::of_broker(Kind::TierFailing, failure));
        }
        let tiered = context.view.all_with(|config| config.tier.is_enabled);
        let names = tiered.iter().map(|topic| topic.name.to_string());
        Condition::of_parts(Kind::TierFailing, WITHOUT_BUCKET, names)
    }

    /// The bucket that this process uses.
    fn about_tier(&self) -> Option<AboutTier> {
        let report = self.tier.get()?.report();
        let settings = self.settings.tier().ok().flatten()?;
        let failure = report.failure.map(|(kind, operation, reason)| TierFailure {
            kind,
            operation: operation.map(|operation| operation.to_string()),
            message: Condition::of_broker(Kind::TierFailing, reason).message,
        });
        let age = settings.upload_age_max;
        Some(AboutTier {
            url: settings.bucket.url.to_string(),
            claimed: report.is_claimed,
            failure,
            not_uploaded_bytes: report.lag.bytes,
            not_uploaded_seconds: report.lag.waited.as_secs(),
            upload_max_age_seconds: age.as_secs() + u64::from(age.subsec_nanos() > 0),
        })
    }

    fn parts(&self) -> Option<&Open> {
        self.open.get().map(|opened| &opened.parts)
    }

    /// Whether writes are refused because the disk is full, or wait because the write-ahead log is
    /// at its limit.
    fn fullness(&self) -> Option<Condition> {
        let node = &self.parts()?.context.node;
        if node.is_disk_full() {
            let message = "the disk is full and writes are refused: delete records, shorten the retention or \
                           give the volume more space";
            return Some(Condition::of_broker(Kind::StorageFull, message.to_owned()));
        }
        let wal = node.wal().stats();
        wal.full.then(|| {
            let message = format!(
                "the write-ahead log is at its size limit ({} bytes in files) and is being emptied; writes wait",
                wal.bytes
            );
            Condition::of_broker(Kind::LogAtLimit, message)
        })
    }

    /// The shards that ought to have a leader, without the catalog: those of the whole cluster, or
    /// those of a broker that is alone, as far as they are not damaged.
    fn shards(&self, context: &Context) -> Vec<ShardId> {
        let shards: Vec<ShardId> = if self.is_alone() {
            context.node.shards().map(|shard| shard.id()).collect()
        } else {
            context.view.placements().keys().copied().collect()
        };
        shards.into_iter().filter(|shard| *shard != ShardId::CATALOG).collect()
    }

    /// The shards without a leader, and those whose replica here has not caught up as their leader
    /// reports it.
    fn behind(&self, context: &Context) -> Vec<String> {
        let (own, placements) = (context.cluster.own().id, context.view.placements());
        let reports = context.cluster.reports();
        let lacks_entries = |shard: ShardId| {
            let replica =
                placements.get(&shard)?.iter().find(|(_, placed)| placed.broker == own)?.0;
            let (_, led) = newest_leader(&reports, shard)?;
            let member = led.member(*replica)?;
            (!member.is_caught_up).then_some(())
        };
        let why = |shard: ShardId| match context.cluster.leader(shard) {
            None => Some(format!("{shard} (no leader)")),
            Some(_) => lacks_entries(shard).map(|()| format!("{shard} (lacks entries)")),
        };
        self.shards(context).into_iter().filter_map(why).collect()
    }

    fn is_alone(&self) -> bool {
        self.settings.peers().is_ok_and(|peers| peers.is_none())
    }

    /// Records that the broker begins to stop.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// The source of the storage metrics.
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
                wal_at_limit: wal.full && !wal.disk_full,
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
            let waits_for = self.waits_for.lock().clone();
            return vec![waits_for.unwrap_or_else(|| "the data directory is being opened".into())];
        };
        if let Some(Halt { reason, .. }) = context.node.catalog().halted() {
            return vec![format!("{} has stopped: {reason}", ShardId::CATALOG)];
        }
        if context.cluster.leader(ShardId::CATALOG).is_none() {
            return vec![format!("{} (the catalog) has no leader", ShardId::CATALOG)];
        }
        Vec::new()
    }

    fn conditions(&self) -> Vec<Condition> {
        let Some(Open { context, .. }) = self.parts() else { return Vec::new() };
        let node = &context.node;
        let shards = node.damaged().iter().map(|(shard, what)| format!("{shard} ({what})"));
        let halted = |ends_with_upgrade: bool| {
            let halted =
                node.halted().filter(move |(_, h)| h.ends_with_upgrade == ends_with_upgrade);
            halted.map(|(shard, halt)| format!("{shard} ({})", halt.reason))
        };
        let partitions = node.damaged_partitions().iter().map(|(id, what)| {
            let topic = context.view.by_id(id.topic);
            topic.map_or_else(
                || format!("{id} ({what})"),
                |topic| format!("{}-{} ({what})", topic.name, id.index),
            )
        });
        let orphans = context.topics.orphans().into_iter().map(|id| id.to_string());
        let behind = self.behind(context);
        let all = [
            Condition::of_parts(Kind::DamagedShard, DAMAGED_SHARDS, shards),
            Condition::of_parts(Kind::QuarantinedShard, QUARANTINED_SHARDS, halted(false)),
            Condition::of_parts(Kind::TooOld, TOO_OLD, halted(true)),
            Condition::of_parts(Kind::DamagedPartitions, DAMAGED_PARTITIONS, partitions),
            Condition::of_parts(Kind::OrphanedPartitions, ORPHANED_PARTITIONS, orphans),
            self.fullness(),
            self.tier(context),
            Condition::of_parts(Kind::CatchingUp, SHARDS_BEHIND, behind),
        ];
        all.into_iter().flatten().collect()
    }

    fn queues(&self) -> Option<Report> {
        let Open { context, queue_metrics, .. } = self.parts()?;
        let mut report = queue_metrics.report(&context.node, &context.view, clock::now_ms());
        report.queues.iter_mut().for_each(|queue| count_members(context, queue));
        Some(report)
    }

    fn queue(&self, name: &str) -> QueueLookup {
        let Some(Open { context, queue_metrics, .. }) = self.parts() else {
            return QueueLookup::NotReady;
        };
        let Some(topic) = context.view.by_name(name) else {
            // A catalog that is still being replayed may not hold the topic yet.
            return match context.cluster.leader(ShardId::CATALOG) {
                Some(_) => QueueLookup::NoSuchQueue,
                None => QueueLookup::NotReady,
            };
        };
        let mut report = queue_metrics.report_one(&context.node, &topic, clock::now_ms());
        count_members(context, &mut report);
        QueueLookup::Found(report)
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
            feature_level: open.map_or(0, |open| open.context.node.catalog().level()),
            started_at_ms: self.started_at_ms,
            ready: reasons.is_empty(),
            reasons,
            conditions: self.conditions(),
            settings: AboutSettings {
                needs_restart: self.settings.needs_restart(),
                started_hash: self.settings.started_hash().to_owned(),
                last_hash: self.settings.last_hash(),
            },
            recovery: Recovery {
                done: opened.is_some(),
                took_ms: opened.map(|opened| opened.at_ms - self.started_at_ms),
            },
            tier: self.about_tier(),
        }
    }

    fn open(&self) -> Option<Open> {
        self.parts().filter(|_| !self.stopping.load(Ordering::Relaxed)).cloned()
    }
}

/// Sets the member count of each group. The shards know the members of the last completed
/// generation; only the coordinator knows those that are joining now.
fn count_members(context: &Context, queue: &mut QueueReport) {
    for group in &mut queue.groups {
        if let Some(members) = context.groups.members_of(&group.name) {
            group.members = members;
        }
    }
}
