//! What the scaling policy sees of one consumer group: a sample a second, or the news that nothing is known.
//!
//! Place in the walk: the controller makes these from the brokers' signal stream.

use std::time::Duration;

/// What is known of a group at one moment.
#[derive(Debug, Clone, PartialEq)]
pub enum Signal {
    /// The broker said this within the last seconds.
    Known(Sample),
    /// The broker only said that messages wait and nobody is there to take them.
    Wake {
        /// Visible messages that are not committed.
        length: u64,
    },
    /// Nothing fresh is known, and why. It never scales anything.
    Unknown(String),
}

/// One look at a group.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sample {
    /// Visible messages that are not committed.
    pub length: u64,
    /// Of these, fetched by a member; `None` if the broker does not know.
    pub in_flight: Option<u64>,
    /// Whether members are changing right now.
    pub rebalancing: bool,
    /// How long the last rebalance kept members from working.
    pub last_pause: Option<Duration>,
    /// Every partition of the queue.
    pub partitions: Vec<PartitionSample>,
    /// Who consumes.
    pub members: Vec<MemberSample>,
}

/// One partition, as the group sees it. Offsets, not messages: what counts is how fast they move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionSample {
    /// Its number, from 0.
    pub partition: u32,
    /// Visible messages that are not committed.
    pub length: u64,
    /// The offset the next message gets.
    pub end: i64,
    /// The offset the group continues at.
    pub committed: i64,
}

/// One member of the group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberSample {
    /// What the coordinator calls it.
    pub id: String,
    /// What it consumes.
    pub partitions: Vec<u32>,
}

impl Sample {
    /// Members that hold partitions.
    #[must_use]
    pub fn working(&self) -> u32 {
        let working = self.members.iter().filter(|member| !member.partitions.is_empty()).count();
        u32::try_from(working).unwrap_or(u32::MAX)
    }
}
