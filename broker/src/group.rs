//! Consumer groups: who reads which partition, and how far they have got.
//!
//! [`coordinator`] owns the groups whose shard leads here: it gives them requests and time, and makes
//! durable what they decide. [`classic`] is the machine of one group, free of I/O and clocks. Offsets live in the shard; [`expiry`] says which of them go.
//!
//! Only timers and joins in progress are volatile: every generation and every offset is a command
//! in the group's shard, so that a restart costs no member its place.

pub mod coordinator;
pub(crate) mod classic;
pub(crate) mod subscription;
pub(crate) mod assignment;
pub(crate) mod expiry;

pub use coordinator::{Coordinator, Options};

use std::fmt;

use ropewalk_shard::state::group;

/// Why a group does not do what was asked. [`crate::handle::error`] turns these into Kafka's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such member: join again, as a new one.
    #[error("no such member")]
    UnknownMember,
    /// Another generation is current: join again.
    #[error("another generation is current")]
    IllegalGeneration,
    /// The group is changing: join again, under the same id.
    #[error("the group is rebalancing")]
    RebalanceInProgress,
    /// A newer process took over the instance id: give up.
    #[error("another process took over this instance id")]
    FencedInstance,
    /// Come back with the id that was given.
    #[error("the member is to come back with the id it is given")]
    MemberIdRequired,
    /// The members have no protocol in common.
    #[error("no protocol in common with the other members")]
    InconsistentProtocol,
    /// The session timeout is out of bounds.
    #[error(
        "session.timeout.ms is {asked_ms}, must be between {min_ms} (group.min.session.timeout.ms) and \
         {max_ms} (group.max.session.timeout.ms)"
    )]
    InvalidSessionTimeout {
        /// What the member asks.
        asked_ms: i32,
        /// The shortest.
        min_ms: i32,
        /// The longest.
        max_ms: i32,
    },
    /// The group has as many members as it may.
    #[error("the group has {members_max} members already, as many as group.max.size allows")]
    GroupFull {
        /// `group.max.size`.
        members_max: usize,
    },
    /// More than is kept of a member or a group.
    #[error("{what} takes {size} {}, at most {size_max} are allowed", what.unit())]
    TooLarge {
        /// Of what.
        what: Bounded,
        /// How much there would be.
        size: usize,
        /// How much there may be.
        size_max: usize,
    },
    /// The members of all groups together say as much as is kept of them. Later there may be room.
    #[error(
        "the members of all groups take {size_max} bytes of this broker's memory, as many as are allowed"
    )]
    NoMemory {
        /// How much there may be.
        size_max: usize,
    },
    /// There are as many groups as there may be.
    #[error("there are {groups_max} groups already, as many as one broker keeps; delete some")]
    TooManyGroups {
        /// How many there may be.
        groups_max: usize,
    },
    /// The offsets of the group's shard take as much as is kept of them. Room is made by deleting groups or offsets.
    #[error(
        "the committed offsets of the group's shard take {size_max} bytes, as many as are allowed; delete groups or \
         offsets that nobody needs"
    )]
    TooManyOffsets {
        /// How much there may be.
        size_max: usize,
    },
    /// The group's name is not one.
    #[error("a group id has 1 to {} bytes", crate::limits::GROUP_ID_BYTES_MAX)]
    InvalidGroupId,
    /// No such group.
    #[error("no such group")]
    NoSuchGroup,
    /// The group has members.
    #[error("the group has members")]
    NotEmpty,
    /// Another broker coordinates this group: look for it.
    #[error("another broker coordinates this group")]
    NotCoordinator,
    /// Not now: look for the coordinator again.
    #[error("the group cannot be coordinated now")]
    NotAvailable,
}

/// What is bounded in a group. The sizes are in [`crate::limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bounded {
    /// A member's client id, instance id or protocol type.
    Name,
    /// A member's list of protocols.
    Protocols,
    /// All that a member says about itself.
    Member,
    /// All that the members of a group say about themselves.
    Group,
    /// What the leader assigns to all members of a group.
    Assignment,
}

impl Bounded {
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

impl fmt::Display for Bounded {
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
    /// Whether somebody has to change something before the client can go on. The others are part of
    /// the life of a group.
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
            | Self::NoSuchGroup
            | Self::NotEmpty
            | Self::NotCoordinator
            | Self::NotAvailable => false,
        }
    }
}

/// What a replica found out of date when it applied a command that was right when it was proposed.
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
