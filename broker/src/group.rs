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
    #[error("the session timeout is out of bounds")]
    InvalidSessionTimeout,
    /// The group has as many members as it may.
    #[error("the group is full")]
    GroupFull,
    /// The group's name is not one.
    #[error("the group id is invalid")]
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
