//! A `Queue`: the declaration that the operator sends to the brokers, and the conditions of its
//! status.
//!
//! - A declaration is always the whole intent: a key that is absent is reset to its default.
//! - **K4** a declaration never asks for fewer partitions than there are: partitions only grow.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt as _;
use ropewalk_operator_api::condition::{Finding, READY, Status, queue as kind};
use ropewalk_operator_api::queue::{CleanupPolicy, Consumer, StartPosition, TieringMode};
use ropewalk_operator_api::{BrokerCluster, ManagementState, Queue, Size, names};
use serde::{Deserialize, Serialize};

/// Bytes that the brokers count and the clients do not: Kafka's limit includes the 12 bytes before
/// a batch.
const BATCH_OVERHEAD_BYTES: u64 = 12;

/// Largest message that brokers accept, bytes. A Queue of an earlier release may have a larger
/// limit.
const MESSAGE_BYTES_MAX: u64 = 32 << 20;

/// The body of `PUT /v1/queues/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Declaration {
    /// The uid of the Queue.
    pub owner: String,
    /// The least number of partitions.
    pub partitions: i32,
    /// Every setting that differs from the default, by Kafka's names.
    pub config: BTreeMap<String, String>,
}

/// The reply of the brokers to a declaration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeclareOutcome {
    /// Kafka's id of the topic.
    pub topic_id: String,
    /// The number of partitions.
    pub partitions: i32,
    /// The declaration created the topic.
    pub created: bool,
    /// The topic existed and had no owner; the Queue owns it now.
    pub adopted: bool,
    /// The settings that the declaration changed.
    pub changed: Vec<String>,
}

/// The topics and groups of one Queue: `GET /v1/owners/{uid}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnedResources {
    /// The topics that the Queue owns.
    pub queues: Vec<OwnedQueue>,
}

/// One topic that a Queue owns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnedQueue {
    /// Name of the topic.
    pub name: String,
    /// The groups that are bound to the topic.
    pub groups: Vec<OwnedGroup>,
}

/// One group that is bound to a topic of a Queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnedGroup {
    /// Id of the Kafka group.
    pub group: String,
}

impl OwnedResources {
    /// The bound groups of the topic that the spec does not name.
    #[must_use]
    pub fn superfluous(&self, queue: &Queue) -> Vec<String> {
        let wanted: BTreeSet<String> =
            queue.spec.consumers.iter().map(|consumer| queue.group(consumer)).collect();
        let topics = self.queues.iter().filter(|owned| owned.name == queue.topic());
        let bound = topics.flat_map(|owned| &owned.groups).map(|bound| &bound.group);
        bound.filter(|group| !wanted.contains(*group)).cloned().collect()
    }
}

/// The declaration of one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    /// The uid of the Queue.
    pub owner: String,
    /// Where the group starts if it has no committed offset.
    pub start_position: &'static str,
}

/// The declaration of a Queue.
#[must_use]
pub fn declaration(queue: &Queue) -> Declaration {
    let spec = &queue.spec;
    let mut config = spec.config.clone();
    let policy = match spec.cleanup_policy {
        CleanupPolicy::Delete => "delete",
        CleanupPolicy::Compact => "compact",
        CleanupPolicy::CompactAndDelete => "compact,delete",
    };
    let retention_ms = spec.retention.max_age_seconds.saturating_mul(1000);
    let message_bytes = spec.max_message_size.bytes().unwrap_or(1 << 20).min(MESSAGE_BYTES_MAX);
    let mut set = |key: &str, value: String| config.insert(key.to_owned(), value);
    set("cleanup.policy", policy.to_owned());
    set("retention.ms", retention_ms.to_string());
    set("retention.bytes", partition_bytes(spec.retention.max_size.as_ref(), spec.partitions));
    set("max.message.bytes", (message_bytes + BATCH_OVERHEAD_BYTES).to_string());
    config.extend(tiering(queue));
    Declaration { owner: queue.uid().unwrap_or_default(), partitions: spec.partitions, config }
}

/// The settings by which messages of a Queue are in the bucket (KIP-405, KIP-950).
fn tiering(queue: &Queue) -> Vec<(String, String)> {
    let Some(tiering) = &queue.spec.tiering else { return Vec::new() };
    let (is_enabled, further) = match tiering.mode {
        TieringMode::Upload => ("true", None),
        TieringMode::Keep => ("true", Some("remote.log.copy.disable")),
        TieringMode::Discard => ("false", Some("remote.log.delete.on.disable")),
    };
    let mut settings = vec![("remote.storage.enable".to_owned(), is_enabled.to_owned())];
    settings.extend(further.map(|key| (key.to_owned(), "true".to_owned())));
    let local = tiering.local_retention.as_ref();
    if let Some(seconds) = local.and_then(|local| local.max_age_seconds) {
        let ms = seconds.saturating_mul(1000).to_string();
        settings.push(("local.retention.ms".to_owned(), ms));
    }
    if let Some(size) = local.and_then(|local| local.max_size.as_ref()) {
        let bytes = partition_bytes(Some(size), queue.spec.partitions);
        settings.push(("local.retention.bytes".to_owned(), bytes));
    }
    settings
}

/// Why a Queue cannot be declared: it wants to move messages to a bucket, and its cluster has none.
#[must_use]
pub fn without_bucket(queue: &Queue, cluster: &BrokerCluster) -> Option<Refusal> {
    let mode = queue.spec.tiering.as_ref()?.mode;
    if mode != TieringMode::Upload || cluster.spec.object_storage.is_some() {
        return None;
    }
    let message = format!(
        "`spec.tiering` needs a bucket, and the BrokerCluster {} has none: set its `spec.objectStorage`, or remove `spec.tiering`",
        queue.cluster()
    );
    Some(Refusal { reason: "NoObjectStorage", message })
}

/// The size limit of one partition, since Kafka has none for a topic; `-1` is no limit.
fn partition_bytes(size: Option<&Size>, partitions: i32) -> String {
    let share = size.and_then(Size::bytes).map(|bytes| {
        let partitions = u64::try_from(partitions.max(1)).unwrap_or(1);
        bytes.div_ceil(partitions)
    });
    share.map_or_else(|| "-1".to_owned(), |bytes| bytes.to_string())
}

/// The declaration of one group of a Queue.
#[must_use]
pub fn binding(queue: &Queue, consumer: &Consumer) -> Binding {
    let start_position = match consumer.start_position {
        StartPosition::Earliest => "Earliest",
        StartPosition::Latest => "Latest",
    };
    Binding { owner: queue.uid().unwrap_or_default(), start_position }
}

/// Why the brokers, or the operator before them, refused a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The cause in one CamelCase word, for conditions.
    pub reason: &'static str,
    /// The cause and the remedy, for people.
    pub message: String,
}

/// The cluster of a Queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// No cluster of that name can be used.
    Missing(Refusal),
    /// The cluster exists.
    Present {
        /// Whether its condition `Ready` is True.
        ready: bool,
    },
}

/// The input of the conditions of a Queue.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The object itself, with its last status.
    pub queue: &'a Queue,
    /// The cluster of the Queue.
    pub cluster: ClusterState,
    /// The result of the declaration; `None` if it was not sent.
    pub declared: Option<Result<DeclareOutcome, Refusal>>,
    /// The consumers whose group could not be bound, and why.
    pub unbound: Vec<(String, Refusal)>,
    /// The groups that the spec does not name and that could not be unbound, and why.
    pub still_bound: Vec<(String, Refusal)>,
    /// The id of the lost topic, unless its loss was accepted.
    pub lost_topic: Option<String>,
}

/// The id of the topic that held the records of a Queue and is gone, when the brokers now report
/// the topic `found`. `None` if no topic is lost, or if the annotation accepts the loss of this
/// topic.
#[must_use]
pub fn lost_topic(queue: &Queue, found: Option<&str>) -> Option<String> {
    let status = queue.status.as_ref()?;
    let differs = |known: &&String| found.is_some_and(|found| found != known.as_str());
    // An unaccepted loss stays, also when the next topic is lost as well.
    let lost = status.lost_topic_id.as_ref().or(status.topic_id.as_ref().filter(differs))?;
    let accepted = queue.annotations().get(names::ANNOTATION_ACCEPT_TOPIC_LOSS);
    (accepted != Some(lost)).then(|| lost.clone())
}

impl Facts<'_> {
    /// Every condition that the queue controller owns.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = vec![
            self.resolved(),
            self.provisioned(),
            self.bound(),
            self.drifted(),
            self.topic_lost(),
        ];
        findings.insert(0, self.ready(&findings));
        findings
    }

    fn is_paused(&self) -> bool {
        self.queue.spec.management_state == ManagementState::Paused
    }

    fn resolved(&self) -> Finding {
        match &self.cluster {
            ClusterState::Missing(refused) => {
                Finding::new(kind::CLUSTER_RESOLVED, false, refused.reason, refused.message.clone())
            }
            ClusterState::Present { .. } => {
                let message = format!("the cluster is {}", self.queue.cluster());
                Finding::new(kind::CLUSTER_RESOLVED, true, "Resolved", message)
            }
        }
    }

    fn provisioned(&self) -> Finding {
        match &self.declared {
            Some(Ok(declared)) if self.is_paused() => {
                let message =
                    format!("paused; there is a topic with {} partitions", declared.partitions);
                Finding::new(kind::PROVISIONED, true, "Paused", message)
            }
            Some(Ok(declared)) => {
                let message =
                    format!("the brokers hold it with {} partitions", declared.partitions);
                Finding::new(kind::PROVISIONED, true, "Declared", message)
            }
            Some(Err(refused)) => {
                Finding::new(kind::PROVISIONED, false, refused.reason, refused.message.clone())
            }
            None => {
                let message = "waits for its cluster";
                Finding::new(kind::PROVISIONED, Status::Unknown, "WaitingForCluster", message)
            }
        }
    }

    fn bound(&self) -> Finding {
        if let Some((consumer, refused)) = self.unbound.first() {
            let message = format!("consumer {consumer}: {}", refused.message);
            return Finding::new(kind::CONSUMERS_BOUND, false, refused.reason, message);
        }
        if let Some((group, refused)) = self.still_bound.first() {
            let message = format!(
                "every consumer is bound, and the group {group}, which the spec no longer names, still is too: {}; the operator tries again",
                refused.message
            );
            return Finding::new(kind::CONSUMERS_BOUND, true, "NotUnbound", message);
        }
        if self.declared.as_ref().is_some_and(Result::is_ok) {
            let message = format!("{} groups are bound", self.queue.spec.consumers.len());
            return Finding::new(kind::CONSUMERS_BOUND, true, "Bound", message);
        }
        let message = "waits for the brokers to hold the queue";
        Finding::new(kind::CONSUMERS_BOUND, Status::Unknown, "WaitingForQueue", message)
    }

    fn drifted(&self) -> Finding {
        let Some(Ok(declared)) = &self.declared else {
            let message = "the brokers have not said what they hold";
            return Finding::new(kind::DRIFTED, Status::Unknown, "NotKnown", message);
        };
        let asked = self.queue.spec.partitions;
        if declared.partitions > asked {
            let message = format!(
                "there are {} partitions, the spec asks for {asked}; partitions are never taken away: set `partitions: {}`",
                declared.partitions, declared.partitions
            );
            return Finding::new(kind::DRIFTED, true, "MorePartitions", message);
        }
        let size = &self.queue.spec.max_message_size;
        if size.bytes() > Some(MESSAGE_BYTES_MAX) {
            let message = format!(
                "`maxMessageSize` is {size}, as an earlier release allowed; brokers take at most 32Mi, and hold the queue with that: set `maxMessageSize: 32Mi`"
            );
            return Finding::new(kind::DRIFTED, true, "MessageSizeReduced", message);
        }
        Finding::new(kind::DRIFTED, false, "AsAsked", "the brokers hold what the spec says")
    }

    fn topic_lost(&self) -> Finding {
        let Some(lost) = &self.lost_topic else {
            let message = "the topic is the one that this Queue was given first";
            return Finding::new(kind::TOPIC_LOST, false, "AsBefore", message);
        };
        let topic = self.queue.topic();
        let known = self.queue.status.as_ref().and_then(|status| status.topic_id.as_deref());
        let found = match &self.declared {
            Some(Ok(declared)) => Some(declared.topic_id.as_str()),
            Some(Err(_)) | None => known,
        };
        let message = format!(
            "the topic {topic} with the id {lost} is gone with its records; the topic of that name now has the id {}, and holds what was sent since. \
             Find out who deleted it; to go on with the new topic: kubectl annotate queue {} {}={lost} --overwrite",
            found.unwrap_or("-"),
            self.queue.name_any(),
            names::ANNOTATION_ACCEPT_TOPIC_LOSS,
        );
        Finding::new(kind::TOPIC_LOST, true, "TopicRecreated", message)
    }

    fn ready(&self, findings: &[Finding]) -> Finding {
        let needed = [kind::CLUSTER_RESOLVED, kind::PROVISIONED, kind::CONSUMERS_BOUND];
        let failing =
            |finding: &&Finding| needed.contains(&finding.kind) && finding.status == Status::False;
        if let Some(failing) = findings.iter().find(failing) {
            return Finding::new(READY, false, failing.reason, failing.message.clone());
        }
        let lost = findings.iter().find(|finding| finding.kind == kind::TOPIC_LOST);
        if let Some(lost) = lost.filter(|finding| finding.status == Status::True) {
            return Finding::new(READY, false, "TopicLost", lost.message.clone());
        }
        if let ClusterState::Present { ready: false } = &self.cluster {
            // Without the message of the cluster: it changes several times while a broker restarts,
            // and each change would be a write for every Queue of the cluster.
            let cluster = self.queue.cluster();
            let message = format!(
                "the BrokerCluster {cluster} is not ready: kubectl describe brokercluster {cluster}"
            );
            return Finding::new(READY, false, "ClusterNotReady", message);
        }
        if self.declared.is_none() {
            let message = "waits for the brokers";
            return Finding::new(READY, Status::Unknown, "WaitingForCluster", message);
        }
        if self.is_paused() {
            return Finding::new(READY, true, "Paused", "it can be used; changes are paused");
        }
        Finding::new(READY, true, "QueueReady", "it can be used")
    }
}

#[cfg(test)]
mod tests;
