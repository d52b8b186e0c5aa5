//! The count that one consumer asks for on behalf of its group.

/// What a consumer wants of its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vote {
    /// The count that it was cast for.
    pub(super) at: u32,
    /// The count that it asks for.
    pub(super) to: u32,
    /// Why, in words for people.
    pub(super) reason: String,
}
