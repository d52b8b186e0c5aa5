//! Every bound of a node's tasks.

/// Inputs taken from the queue at once.
pub const INPUTS_MAX: usize = 1024;
