//! What a restore did, or would do: as JSON for programs, as text for people.

use std::fmt::Write as _;

use serde::Serialize;

use super::plan::{CappedOffset, Plan, PlannedPartition, PlannedTopic};

/// Most lines about one subject in the text. The JSON has all of them.
const LINES_MAX: usize = 100;

/// How far a restore got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// Nothing was changed.
    Planned,
    /// Everything is restored.
    Restored,
    /// An earlier restore of the same directory has finished.
    AlreadyRestored,
}

/// What a restore did, or would do. Times are Unix milliseconds.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreReport {
    /// How far the restore got.
    pub stage: Stage,
    /// URL of the bucket.
    pub bucket: String,
    /// The cluster's id.
    pub cluster: String,
    /// The epoch of the claim that the lost cluster had.
    pub claim_epoch: u32,
    /// When the checkpoint of the catalog was written; none without a catalog.
    pub catalog_ms: Option<i64>,
    /// When the oldest checkpoint of a shard was written.
    pub oldest_checkpoint_ms: Option<i64>,
    /// Checkpoints that are damaged; older ones were used.
    pub damaged_checkpoints: Vec<String>,
    /// Number of topics.
    pub topics: usize,
    /// The partitions of all topics.
    pub partitions: Vec<PartitionReport>,
    /// Records in objects.
    pub offsets_restored: i64,
    /// Records that the checkpoints know of and that no object has.
    pub records_lost: i64,
    /// Parts of manifests that are missing or damaged.
    pub losses: Vec<String>,
    /// Number of groups with offsets.
    pub groups: usize,
    /// Number of their offsets.
    pub group_offsets: usize,
    /// Offsets that were behind what is restored.
    pub capped: Vec<CappedReport>,
    /// Offsets of groups in topics that the catalog does not list.
    pub group_offsets_left_out: usize,
    /// Objects that are not used.
    pub ignored: Vec<IgnoredReport>,
}

/// One partition of a [`RestoreReport`].
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionReport {
    /// Name of the topic.
    pub topic: String,
    /// Id of the topic.
    pub topic_id: String,
    /// Number of the partition.
    pub partition: i32,
    /// The first offset that can be read.
    pub log_start: i64,
    /// The offset that the next record gets.
    pub end: i64,
    /// Size of its objects.
    pub bytes: u64,
    /// Records that the checkpoint knows of and that no object has; none if no checkpoint lists
    /// the partition.
    pub lost_records: Option<i64>,
    /// When the checkpoint was written.
    pub checkpoint_ms: Option<i64>,
}

/// An offset of a group that was behind what is restored.
#[derive(Debug, Clone, Serialize)]
pub struct CappedReport {
    /// The group's id.
    pub group: String,
    /// Name of the topic.
    pub topic: String,
    /// Number of the partition.
    pub partition: i32,
    /// What the group had committed.
    pub from: i64,
    /// What is committed for it now.
    pub to: i64,
}

/// An object that is not used.
#[derive(Debug, Clone, Serialize)]
pub struct IgnoredReport {
    /// The name of the object.
    pub name: String,
    /// Why it is not used.
    pub why: String,
}

impl RestoreReport {
    /// The report about a plan.
    #[must_use]
    pub fn new(plan: &Plan, bucket: &str, stage: Stage) -> Self {
        let partitions: Vec<PartitionReport> = plan.topics.iter().flat_map(of_topic).collect();
        let ignored = plan.topics.iter().flat_map(|topic| &topic.partitions);
        let ignored = ignored.flat_map(|partition| &partition.rebuilt.ignored);
        let ignored = ignored
            .map(|(name, why)| IgnoredReport { name: name.to_string(), why: why.clone() })
            .collect();
        let capped = |capped: &CappedOffset| {
            let CappedOffset { group, topic, partition, from, to } = capped.clone();
            CappedReport { group, topic, partition, from, to }
        };
        Self {
            stage,
            bucket: bucket.to_owned(),
            cluster: plan.claim.cluster.to_string(),
            claim_epoch: plan.claim.epoch,
            catalog_ms: plan.catalog_ms,
            oldest_checkpoint_ms: plan.oldest_ms,
            damaged_checkpoints: plan.damaged.clone(),
            topics: plan.topics.len(),
            offsets_restored: partitions.iter().map(|one| one.end - one.log_start).sum(),
            records_lost: partitions.iter().filter_map(|one| one.lost_records).sum(),
            partitions,
            losses: plan.losses(),
            groups: plan.groups.len(),
            group_offsets: plan.groups.iter().map(|group| group.offsets.len()).sum(),
            capped: plan.capped.iter().map(capped).collect(),
            group_offsets_left_out: plan.offsets_left_out,
            ignored,
        }
    }

    /// The report as lines of text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{}: cluster {}, claim {}{}\n",
            self.bucket,
            self.cluster,
            self.claim_epoch,
            match self.stage {
                Stage::Planned => ", this is a plan: nothing was changed",
                Stage::Restored => ", restored",
                Stage::AlreadyRestored => ", restored before: nothing was changed",
            }
        );
        let checkpoint = |ms: Option<i64>| ms.map_or("none".to_owned(), |ms| format!("{ms} ms"));
        let _ = writeln!(
            text,
            "checkpoints (Unix time): catalog {}, oldest shard {}",
            checkpoint(self.catalog_ms),
            checkpoint(self.oldest_checkpoint_ms)
        );
        let _ = writeln!(
            text,
            "topics {}, partitions {}, offsets {}; groups {} with {} offsets",
            self.topics,
            self.partitions.len(),
            self.offsets_restored,
            self.groups,
            self.group_offsets
        );
        let _ = writeln!(
            text,
            "records that are known to be lost, because they were not uploaded: {}",
            self.records_lost
        );
        lines(&mut text, self.partitions.iter().map(PartitionReport::to_text));
        lines(&mut text, self.losses.iter().map(|loss| format!("lost: {loss}")));
        lines(&mut text, self.capped.iter().map(CappedReport::to_text));
        if self.group_offsets_left_out > 0 {
            let count = self.group_offsets_left_out;
            let _ = writeln!(text, "{count} group offsets of unknown topics are left out");
        }
        lines(&mut text, self.damaged_checkpoints.iter().map(|why| format!("damaged: {why}")));
        let ignored = self.ignored.iter();
        lines(&mut text, ignored.map(|one| format!("not used: {}: {}", one.name, one.why)));
        text
    }
}

fn of_topic(topic: &PlannedTopic) -> Vec<PartitionReport> {
    let report = |(partition, planned): (i32, &PlannedPartition)| PartitionReport {
        topic: topic.name.clone(),
        topic_id: topic.id.to_string(),
        partition,
        log_start: planned.rebuilt.log_start,
        end: planned.rebuilt.end,
        bytes: planned.rebuilt.objects_bytes,
        lost_records: planned.lost_records(),
        checkpoint_ms: planned.written_ms,
    };
    (0..).zip(&topic.partitions).map(report).collect()
}

impl PartitionReport {
    fn to_text(&self) -> String {
        let Self { topic, partition, log_start, end, bytes, lost_records, .. } = self;
        let lost = match lost_records {
            Some(0) => String::new(),
            Some(lost) => format!(", {lost} records lost behind it"),
            None => ", no checkpoint says what is lost behind it".to_owned(),
        };
        format!("{topic}-{partition}: offsets {log_start} to {end}, {bytes} bytes{lost}")
    }
}

impl CappedReport {
    fn to_text(&self) -> String {
        let Self { group, topic, partition, from, to } = self;
        format!("group {group}: offset of {topic}-{partition} lowered from {from} to {to}")
    }
}

/// Adds at most [`LINES_MAX`] lines, and says how many there are more.
fn lines(text: &mut String, lines: impl ExactSizeIterator<Item = String>) {
    let more = lines.len().saturating_sub(LINES_MAX);
    for line in lines.take(LINES_MAX) {
        text.push_str(&line);
        text.push('\n');
    }
    if more > 0 {
        let _ = writeln!(text, "… and {more} more lines like these; --json lists all");
    }
}
