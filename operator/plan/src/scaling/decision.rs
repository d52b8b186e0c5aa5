//! The result of the scaling policy: an action with its reason, what limits it, and the metrics it
//! was made from.
//!
//! Every text here is shown in a condition or an Event.

use super::hot::HotPartition;
use std::fmt;
use std::time::Duration;

/// One decision about one consumer.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What the caller has to do.
    pub action: Action,
    /// Whether the policy evaluated a new interval or a command, and did not only repeat its last
    /// decision.
    pub is_weighed: bool,
    /// Why fewer replicas run than are wanted.
    pub limit: Option<Limit>,
    /// Replicas whose members do not consume.
    pub missing_members: Option<MissingMembers>,
    /// The metrics that the decision is based on.
    pub metrics: DecisionMetrics,
}

/// What to do with the replica count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// No change: the count is right, or it is too early for a change.
    Keep {
        /// The present count.
        replicas: u32,
        /// Why it stays.
        why: String,
    },
    /// Write another count.
    Set {
        /// The count that the decision is based on; if the target has another, the decision is
        /// void.
        from: u32,
        /// The count to write.
        to: u32,
        /// Why, with the metrics.
        reason: String,
    },
    /// No change, because too little is known.
    Frozen {
        /// The present count.
        replicas: u32,
        /// Which signal is missing.
        why: String,
    },
}

impl Action {
    /// The count after the action.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        match self {
            Self::Keep { replicas, .. } | Self::Frozen { replicas, .. } => *replicas,
            Self::Set { to, .. } => *to,
        }
    }
}

/// Why fewer replicas run than are wanted.
#[derive(Debug, Clone, PartialEq)]
pub enum Limit {
    /// More messages arrive on one partition than one replica can process.
    HotPartition(HotPartition),
    /// More replicas did not process more.
    DownstreamSaturated {
        /// The count at which replicas stay.
        replicas: u32,
        /// Throughput at that count, messages per second.
        takes_per_second: f64,
        /// Time until more replicas are tried again.
        retry_in: Duration,
    },
    /// `maxReplicas` or the number of partitions allows no more.
    AtMaximum {
        /// Most replicas that are allowed.
        replicas_max: u32,
        /// Replicas that the load needs.
        wanted: u32,
    },
}

impl Limit {
    /// The reason of the condition `ScalingLimited`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::HotPartition(_) => "HotPartition",
            Self::DownstreamSaturated { .. } => "DownstreamSaturated",
            Self::AtMaximum { .. } => "AtMaximum",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HotPartition(hot) => write!(
                f,
                "partition {} gets {}/s and one consumer processes {}/s: more replicas cannot help it; \
                 spread its keys, or make processing faster",
                hot.partition,
                Rate(hot.arrival_per_second),
                Rate(hot.per_member),
            ),
            Self::DownstreamSaturated { replicas, takes_per_second, retry_in } => write!(
                f,
                "more replicas than {replicas} did not process more than {}/s: what the consumers call is \
                 saturated; tried again in {} min",
                Rate(*takes_per_second),
                // In minutes, so that the status is not written with every decision.
                retry_in.as_secs().div_ceil(60),
            ),
            Self::AtMaximum { replicas_max, wanted } => write!(
                f,
                "{wanted} replicas would be needed and {replicas_max} are the most allowed: raise \
                 `maxReplicas`, or `partitions` if there are no more of them",
            ),
        }
    }
}

/// Replicas whose members have not joined the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingMembers {
    /// Replicas that the target should have.
    pub replicas: u32,
    /// Members of the group.
    pub members: u32,
    /// How long members have been missing.
    pub missing_for: Duration,
}

impl fmt::Display for MissingMembers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} replicas are asked for and the group has {} members, for more than {} min: check the pods of the target, \
             and whether they use this `groupId`",
            self.replicas,
            self.members,
            self.missing_for.as_secs() / 60,
        )
    }
}

/// The metrics that a decision is based on.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct DecisionMetrics {
    /// Messages that arrive, per second.
    pub arrival_per_second: f64,
    /// Messages per second that one replica can process, if known.
    pub per_replica_per_second: Option<f64>,
    /// Whether that rate was measured; otherwise it is the user's hint.
    pub is_measured: bool,
    /// Messages that wait, without those in transit.
    pub waiting: f64,
    /// Replicas that the load needs, before limits and stabilization.
    pub wanted: u32,
}

/// Formats a rate with a useful number of digits.
pub(super) struct Rate(pub(super) f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.0 >= 10.0 || self.0 == 0.0 {
            0
        } else if self.0 >= 0.1 {
            1
        } else {
            3
        };
        write!(f, "{:.digits$}", self.0)
    }
}
