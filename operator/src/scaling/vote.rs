//! The vote of a consumer on the replicas of its target.

/// A vote for a number of replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vote {
    /// Current count of the target for which the vote was computed.
    pub(super) at: u32,
    /// Requested number of replicas.
    pub(super) to: u32,
    /// Reason as shown in Events and the status.
    pub(super) reason: String,
}
