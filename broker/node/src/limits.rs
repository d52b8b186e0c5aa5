//! The bounds of a node's tasks.

/// Most inputs that a driver takes from its queue at once.
pub const INPUTS_MAX: usize = 1024;
