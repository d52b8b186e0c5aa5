//! The count that one consumer asks for on behalf of its group.

/// What a consumer wants of its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vote {
    /// The current count of the target that the vote is for.
    pub(super) at: u32,
    /// The count that it asks for.
    pub(super) to: u32,
    /// The reason, for the user.
    pub(super) reason: String,
}
