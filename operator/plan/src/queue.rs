//! A `Queue`: what the brokers are told of it, and what its conditions say.
//!
//! # Invariants
//!
//! - What is declared is the whole intent, every time: a key that is not named goes back to its default.
//! - **K4** nothing here ever asks for less than there is: partitions only grow.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt as _;
use ropewalk_operator_api::condition::{Finding, READY, Status, queue as kind};
use ropewalk_operator_api::queue::{CleanupPolicy, Consumer, StartPosition};
use ropewalk_operator_api::{ManagementState, Queue, Size, names};
use serde::{Deserialize, Serialize};

/// Kafka counts the 12 bytes before a batch in, its clients do not.
const BATCH_OVERHEAD_BYTES: u64 = 12;

/// The largest message that brokers take, bytes. Queues of earlier releases may ask for more.
const MESSAGE_BYTES_MAX: u64 = 32 << 20;

/// What the brokers are told of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Declaration {
    /// The uid of the Queue.
    pub owner: String,
    /// At least so many.
    pub partitions: i32,
    /// Every setting that is not the default.
    pub config: BTreeMap<String, String>,
}

/// What the brokers answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Declared {
    /// Kafka's id of the topic.
    pub topic_id: String,
    /// How many there are.
    pub partitions: i32,
    /// It was made just now.
    pub created: bool,
    /// It was there, and nobody owned it.
    pub adopted: bool,
    /// What was put right.
    pub changed: Vec<String>,
}

/// What the brokers hold for one Queue: `GET /v1/owners/{uid}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Owned {
    /// The topics it owns.
    pub queues: Vec<OwnedQueue>,
}

/// One topic that a Queue owns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnedQueue {
    /// The topic.
    pub name: String,
    /// The groups that are bound to it.
    pub groups: Vec<OwnedGroup>,
}

/// One group that is bound for a Queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnedGroup {
    /// The Kafka group.
    pub group: String,
}

impl Owned {
    /// The groups that are bound to the topic of a Queue and that its spec does not name.
    #[must_use]
    pub fn superfluous(&self, queue: &Queue) -> Vec<String> {
        let wanted: BTreeSet<String> =
            queue.spec.consumers.iter().map(|consumer| queue.group(consumer)).collect();
        let topics = self.queues.iter().filter(|owned| owned.name == queue.topic());
        let bound = topics.flat_map(|owned| &owned.groups).map(|bound| &bound.group);
        bound.filter(|group| !wanted.contains(*group)).cloned().collect()
    }
}

/// What the brokers are told of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    /// The uid of the Queue.
    pub owner: String,
    /// Where it begins if it never committed.
    pub start_position: &'static str,
}

/// The whole intent of a Queue.
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
    Declaration { owner: queue.uid().unwrap_or_default(), partitions: spec.partitions, config }
}

/// Kafka's limit is for each partition.
fn partition_bytes(size: Option<&Size>, partitions: i32) -> String {
    let share = size.and_then(Size::bytes).map(|bytes| {
        let partitions = u64::try_from(partitions.max(1)).unwrap_or(1);
        bytes.div_ceil(partitions)
    });
    share.map_or_else(|| "-1".to_owned(), |bytes| bytes.to_string())
}

/// What the brokers are told of one of its groups.
#[must_use]
pub fn binding(queue: &Queue, consumer: &Consumer) -> Binding {
    let start_position = match consumer.start_position {
        StartPosition::Earliest => "Earliest",
        StartPosition::Latest => "Latest",
    };
    Binding { owner: queue.uid().unwrap_or_default(), start_position }
}

/// Why the brokers did not do what they were told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// In one word.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// The cluster as a Queue sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterSeen {
    /// There is none of that name.
    Missing(Refused),
    /// It is there, and this is its Ready condition.
    Present {
        /// Whether it is ready.
        ready: bool,
    },
}

/// Everything that the conditions of a Queue are made from.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The Queue.
    pub queue: &'a Queue,
    /// Its cluster.
    pub cluster: ClusterSeen,
    /// What came of declaring it; `None` if that was not tried.
    pub declared: Option<Result<Declared, Refused>>,
    /// What came of binding its groups: the consumers that failed.
    pub unbound: Vec<(String, Refused)>,
    /// Groups that the spec does not name and that could not be unbound.
    pub still_bound: Vec<(String, Refused)>,
    /// The id of the topic that is gone, if nobody has accepted the loss.
    pub lost_topic: Option<String>,
}

/// The id of the topic that held the records of a Queue and is gone, now that the brokers answer with
/// the topic `found`. `None` if there is none, or if a person has accepted the loss of this very topic.
#[must_use]
pub fn lost_topic(queue: &Queue, found: Option<&str>) -> Option<String> {
    let status = queue.status.as_ref()?;
    let differs = |known: &&String| found.is_some_and(|found| found != known.as_str());
    // A loss that nobody accepted stays, also when the next topic is lost as well.
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
            ClusterSeen::Missing(refused) => {
                Finding::new(kind::CLUSTER_RESOLVED, false, refused.reason, refused.message.clone())
            }
            ClusterSeen::Present { .. } => {
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
        if let ClusterSeen::Present { ready: false } = &self.cluster {
            // Without the words of the cluster: they change several times while a broker restarts,
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
