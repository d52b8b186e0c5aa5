//! The proof that a topic was deleted, with which a shard closes partitions.

use serde::{Deserialize, Serialize};

use crate::id::TopicId;

/// The proof that a topic was deleted. Only the catalog makes one (`Catalog::deletion`), and only
/// for a topic that it has deleted: that a topic is not in some view of the catalog proves nothing,
/// because the view may be old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    topic: TopicId,
    revision: u64,
}

impl Deletion {
    /// The catalog has a tombstone of the topic, from this revision.
    pub(crate) fn of_tombstone(topic: TopicId, revision: u64) -> Self {
        Self { topic, revision }
    }

    /// The deleted topic.
    #[must_use]
    pub fn topic(&self) -> TopicId {
        self.topic
    }

    /// The catalog's revision in which the topic was deleted.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }
}
