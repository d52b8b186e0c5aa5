//! The input of the scaling policy: one signal a second for each consumer group, from the brokers'
//! signal stream.

use std::time::Duration;

/// The state of a group at one moment, as far as it is known.
#[derive(Debug, Clone, PartialEq)]
pub enum Signal {
    /// A sample that a broker sent within the last seconds.
    Known(Sample),
    /// The wake-up of a broker: messages wait for a group without members.
    Wake {
        /// Visible messages that are not committed.
        length: u64,
    },
    /// No recent sample, and why. It never changes a replica count.
    Unknown(String),
}

/// A sample of one group.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sample {
    /// Visible messages that are not committed.
    pub length: u64,
    /// Messages of `length` that a member has fetched; `None` if the broker does not know.
    pub in_flight: Option<u64>,
    /// Whether the group is rebalancing.
    pub rebalancing: bool,
    /// How long the last rebalance kept members from consuming.
    pub last_pause: Option<Duration>,
    /// One entry per partition of the queue.
    pub partitions: Vec<PartitionSample>,
    /// One entry per member of the group.
    pub members: Vec<MemberSample>,
}

/// One partition for one group. Offsets, not message counts: the policy uses how fast they move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionSample {
    /// Partition number, from 0.
    pub partition: u32,
    /// Visible messages that are not committed.
    pub length: u64,
    /// The next offset to be written.
    pub end: i64,
    /// The committed offset of the group.
    pub committed: i64,
}

/// One member of the group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberSample {
    /// Member id, as the coordinator assigned it.
    pub id: String,
    /// Numbers of the assigned partitions.
    pub partitions: Vec<u32>,
}

impl Sample {
    /// The number of members with at least one partition.
    #[must_use]
    pub fn working(&self) -> u32 {
        let working = self.members.iter().filter(|member| !member.partitions.is_empty()).count();
        u32::try_from(working).unwrap_or(u32::MAX)
    }
}
