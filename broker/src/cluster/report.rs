//! What a broker says of itself to every other broker: the shards that it leads, their replicas and
//! their load.
//!
//! A report replaces all earlier ones of the same broker. Its [`Report::order`] says which of two
//! is the later one: reports may overtake each other.

use std::fmt;
use std::sync::Arc;

use ropewalk_node::Node;
use ropewalk_shard::{BrokerId, ReplicaId, ShardId};

/// Most shards in a report.
pub const SHARDS_MAX: usize = 4096;

/// Most replicas of a shard in a report.
pub const MEMBERS_MAX: usize = ropewalk_shard::limits::MEMBERS_MAX;

/// What a broker says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Id of the broker.
    pub broker: BrokerId,
    /// Number of its start.
    pub incarnation: u64,
    /// Number of the report since that start.
    pub sequence: u64,
    /// State of the broker.
    pub flags: Flags,
    /// The shards that it leads.
    pub led: Vec<LedShard>,
}

/// The state of a broker that decides which replicas it is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags {
    /// The broker was restarted a short time ago.
    pub is_just_started: bool,
    /// Its disk is slow or full.
    pub has_slow_disk: bool,
    /// It gives up its leaderships: it is draining or to be restarted.
    pub is_draining: bool,
}

/// A shard and the replica that leads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedShard {
    /// Id of the shard.
    pub shard: ShardId,
    /// The Raft term in which the replica leads.
    pub term: u64,
    /// Raft id of the replica that leads.
    pub replica: ReplicaId,
    /// Record bytes that clients write to the shard and read from it, per second.
    pub bytes_per_second: u64,
    /// The replicas that take part, the leader included.
    pub members: Vec<Member>,
}

/// A replica as its leader knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Raft id of the replica.
    pub replica: ReplicaId,
    /// Whether it votes.
    pub is_voter: bool,
    /// Whether it lacks so few entries that it may become a voter.
    pub is_caught_up: bool,
    /// The last entry of the leader's log that it is known to have.
    pub matched: u64,
}

impl Report {
    /// A report with a higher order is later, of the same broker.
    #[must_use]
    pub fn order(&self) -> (u64, u64) {
        (self.incarnation, self.sequence)
    }
}

impl LedShard {
    /// A replica that takes part.
    #[must_use]
    pub fn member(&self, replica: ReplicaId) -> Option<&Member> {
        self.members.iter().find(|member| member.replica == replica)
    }
}

/// The broker that leads a shard, and what it reports of it. Of two that report that they lead, the
/// one of the higher term leads.
#[must_use]
pub fn newest_leader(reports: &[Arc<Report>], shard: ShardId) -> Option<(BrokerId, &LedShard)> {
    let led = reports.iter().flat_map(|report| report.led.iter().map(|led| (report.broker, led)));
    led.filter(|(_, led)| led.shard == shard).max_by_key(|(_, led)| led.term)
}

/// What the broker that leads a shard in a term reports of it; `None` if it has not reported in
/// this term.
#[must_use]
pub fn of_leader(
    reports: &[Arc<Report>],
    shard: ShardId,
    broker: BrokerId,
    term: u64,
) -> Option<&LedShard> {
    let report = reports.iter().find(|report| report.broker == broker)?;
    report.led.iter().find(|led| led.shard == shard && led.term == term)
}

/// What a broker knows of itself beside its replicas.
pub trait ReportSource: Send + Sync + fmt::Debug {
    /// The state of the broker.
    fn flags(&self) -> Flags;

    /// Record bytes that clients write to a shard which this broker leads and read from it, per
    /// second.
    fn bytes_per_second(&self, shard: ShardId) -> u64;
}

/// The shards that the node leads. Without a source their load is 0.
pub(super) fn led(node: &Node, source: Option<&dyn ReportSource>) -> Vec<LedShard> {
    let mut led = Vec::new();
    for held in node.shards().take(SHARDS_MAX) {
        let (Some(term), Some(replica)) = (held.leading(), held.replica()) else { continue };
        let members = held.progress().into_iter().take(MEMBERS_MAX);
        let members = members.map(|member| Member {
            replica: ReplicaId(member.replica),
            is_voter: member.is_voter,
            is_caught_up: member.is_caught_up,
            matched: member.matched,
        });
        led.push(LedShard {
            shard: held.id(),
            term,
            replica: ReplicaId(replica),
            bytes_per_second: source.map_or(0, |source| source.bytes_per_second(held.id())),
            members: members.collect(),
        });
    }
    led
}
