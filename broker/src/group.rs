//! Consumer groups: members, assignments and committed offsets.
//!
//! [`coordinator`] owns the groups whose shard leads here: it passes requests and the time to them,
//! and makes their decisions durable. [`classic`] is the state machine of one group, free of I/O
//! and clocks. Offsets are part of the shard's state; [`expiry`] decides which of them expire.
//!
//! Only timers and joins in progress are volatile: every generation and every offset is a command
//! in the group's shard, so no member loses its assignment at a restart.

pub mod coordinator;
pub(crate) mod classic;
pub(crate) mod subscription;
pub(crate) mod assignment;
pub(crate) mod expiry;

pub(crate) use coordinator::PendingCommit;
pub use coordinator::{Coordinator, Options};

use std::fmt;

use ropewalk_shard::state::group;

/// Why a group refuses a request. [`crate::handle::error`] maps these to Kafka's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The group has no such member: the client joins again as a new one.
    #[error("no such member")]
    UnknownMember,
    /// Another generation is current: the client joins again.
    #[error("another generation is current")]
    IllegalGeneration,
    /// The group is rebalancing: the client joins again with the same member id.
    #[error("the group is rebalancing")]
    RebalanceInProgress,
    /// A newer process took over the instance id: the client stops.
    #[error("another process took over this instance id")]
    FencedInstance,
    /// A new member must join again with the member id in the response (KIP-394).
    #[error("the member must join again with the member id in this response")]
    MemberIdRequired,
    /// The members have no common protocol.
    #[error("no common protocol with the other members")]
    InconsistentProtocol,
    /// The session timeout is outside its bounds.
    #[error(
        "session.timeout.ms is {asked_ms}, must be between {min_ms} (group.min.session.timeout.ms) and \
         {max_ms} (group.max.session.timeout.ms)"
    )]
    InvalidSessionTimeout {
        /// The requested timeout, milliseconds.
        asked_ms: i32,
        /// The lower bound, milliseconds.
        min_ms: i32,
        /// The upper bound, milliseconds.
        max_ms: i32,
    },
    /// The group has its maximum number of members.
    #[error("the group has {members_max} members already, the maximum (group.max.size)")]
    GroupFull {
        /// The value of `group.max.size`.
        members_max: usize,
    },
    /// A member or a group exceeds a size limit.
    #[error("{what} takes {size} {}, at most {size_max} are allowed", what.unit())]
    TooLarge {
        /// The limit that is exceeded.
        what: SizeLimit,
        /// The size that the request would need.
        size: usize,
        /// The largest allowed size.
        size_max: usize,
    },
    /// The metadata of the members of all groups is at its memory limit. The client may retry
    /// later.
    #[error(
        "the metadata of all group members takes {size_max} bytes of this broker's memory, the maximum"
    )]
    NoMemory {
        /// The memory limit, bytes.
        size_max: usize,
    },
    /// The broker has its maximum number of groups.
    #[error("there are {groups_max} groups already, the maximum of one broker; delete some")]
    TooManyGroups {
        /// The largest number of groups.
        groups_max: usize,
    },
    /// The committed offsets of the group's shard are at their size limit. Deleting groups or
    /// offsets frees space.
    #[error(
        "the committed offsets of the group's shard take {size_max} bytes, the maximum; delete groups or \
         offsets that are not needed"
    )]
    TooManyOffsets {
        /// The size limit, bytes.
        size_max: usize,
    },
    /// The group id is empty or too long.
    #[error("a group id has 1 to {} bytes", crate::limits::GROUP_ID_BYTES_MAX)]
    InvalidGroupId,
    /// The group does not exist.
    #[error("no such group")]
    NoSuchGroup,
    /// The group has members.
    #[error("the group has members")]
    NotEmpty,
    /// Another broker coordinates this group: the client looks up the coordinator.
    #[error("another broker coordinates this group")]
    NotCoordinator,
    /// A change that cannot be repeated may or may not be made.
    #[error("the outcome is not known: the change may or may not be made")]
    OutcomeUnknown,
    /// The group cannot be coordinated now: the client looks up the coordinator again.
    #[error("the group cannot be coordinated now")]
    NotAvailable,
}

/// The size limits of a group. The values are in [`crate::limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeLimit {
    /// A member's client id, instance id or protocol type.
    Name,
    /// The protocol list of a member.
    Protocols,
    /// All metadata of a member.
    Member,
    /// The metadata of all members of a group.
    Group,
    /// The assignments of all members of a group.
    Assignment,
}

impl SizeLimit {
    fn check(self, size: usize, size_max: usize) -> Result<(), Refusal> {
        if size > size_max {
            return Err(Refusal::TooLarge { what: self, size, size_max });
        }
        Ok(())
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Protocols => "protocols",
            Self::Name | Self::Member | Self::Group | Self::Assignment => "bytes",
        }
    }
}

impl fmt::Display for SizeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "the longest of client id, group.instance.id and protocol type",
            Self::Protocols => "the member's list of protocols",
            Self::Member => "the member's metadata",
            Self::Group => "the metadata of all members of the group",
            Self::Assignment => "the assignment of all members of the group",
        })
    }
}

impl Refusal {
    /// Whether a person has to change something before the client can continue. All other refusals
    /// are part of normal group operation.
    #[must_use]
    pub(crate) fn needs_attention(self) -> bool {
        match self {
            Self::InconsistentProtocol
            | Self::InvalidSessionTimeout { .. }
            | Self::GroupFull { .. }
            | Self::TooLarge { .. }
            | Self::NoMemory { .. }
            | Self::TooManyGroups { .. }
            | Self::TooManyOffsets { .. }
            | Self::InvalidGroupId => true,
            Self::UnknownMember
            | Self::IllegalGeneration
            | Self::RebalanceInProgress
            | Self::FencedInstance
            | Self::MemberIdRequired
            | Self::OutcomeUnknown
            | Self::NoSuchGroup
            | Self::NotEmpty
            | Self::NotCoordinator
            | Self::NotAvailable => false,
        }
    }
}

/// Maps a refusal at apply: the command was valid when it was proposed and no longer is.
impl From<group::Refusal> for Refusal {
    fn from(refusal: group::Refusal) -> Self {
        match refusal {
            group::Refusal::NoSuchGroup => Self::NoSuchGroup,
            group::Refusal::UnknownMember => Self::UnknownMember,
            group::Refusal::IllegalGeneration => Self::IllegalGeneration,
            group::Refusal::FencedInstance => Self::FencedInstance,
            group::Refusal::NotEmpty => Self::NotEmpty,
        }
    }
}
