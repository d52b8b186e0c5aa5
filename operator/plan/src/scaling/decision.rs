//! What the scaling policy says: how many replicas, why, what stands in the way, and the figures it looked at.
//!
//! Every text here ends up in a condition or an Event and is read by whoever is woken at night.

use super::hot::HotPartition;
use std::fmt;
use std::time::Duration;

/// One decision about one consumer.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// Whether it says more than that there was nothing new since the last one.
    pub is_weighed: bool,
    /// Why there are not more replicas, though more are wanted.
    pub limit: Option<Limit>,
    /// Pods that were asked for and do not consume.
    pub not_joining: Option<NotJoining>,
    /// What was looked at.
    pub figures: Figures,
}

/// What to do with the replica count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing: it is right, or the time has not come.
    Keep {
        /// The count that stays.
        replicas: u32,
        /// Why.
        why: String,
    },
    /// Write another count.
    Set {
        /// The count that was decided on; if it is another by now, the decision is void.
        from: u32,
        /// The count to write.
        to: u32,
        /// Why, with the figures.
        reason: String,
    },
    /// Nothing, because too little is known.
    Frozen {
        /// The count that stays.
        replicas: u32,
        /// What is missing.
        why: String,
    },
}

impl Action {
    /// The count that is wanted now.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        match self {
            Self::Keep { replicas, .. } | Self::Frozen { replicas, .. } => *replicas,
            Self::Set { to, .. } => *to,
        }
    }
}

/// Why more replicas are wanted than there will be.
#[derive(Debug, Clone, PartialEq)]
pub enum Limit {
    /// One partition gets more than one replica can process.
    HotPartition(HotPartition),
    /// More replicas did not process more.
    DownstreamSaturated {
        /// Replicas stay at this count.
        replicas: u32,
        /// What gets through with them, messages per second.
        takes_per_second: f64,
        /// When more are tried again.
        retry_in: Duration,
    },
    /// The user, or the number of partitions, allows no more.
    AtMaximum {
        /// The most there may be.
        replicas_max: u32,
        /// How many it would take.
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
                // Minutes, so that a status that shows it is not written every time.
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

/// Replicas that were asked for and whose members do not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotJoining {
    /// Replicas asked for.
    pub replicas: u32,
    /// Members of the group.
    pub members: u32,
    /// For how long some have been missing.
    pub missing_for: Duration,
}

impl fmt::Display for NotJoining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} replicas are asked for and the group has {} members, for more than {} min: look at the pods of the target, \
             and whether they use this `groupId`",
            self.replicas,
            self.members,
            self.missing_for.as_secs() / 60,
        )
    }
}

/// What a decision was made from.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Figures {
    /// Messages that arrive, per second.
    pub arrival_per_second: f64,
    /// What one replica can process, per second, if it is known.
    pub per_replica_per_second: Option<f64>,
    /// Whether that was measured; otherwise it is the user's hint.
    pub is_measured: bool,
    /// Messages that wait, beyond those in transit.
    pub waiting: f64,
    /// Replicas that the figures ask for, before limits and patience.
    pub wanted: u32,
}

/// A rate as people read it.
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
