//! The bounds of a node's tasks.

/// Most inputs that a driver takes from its queue at once.
pub const INPUTS_MAX: usize = 1024;

/// Most tasks that the drivers of a broker share.
pub const DRIVER_TASKS_MAX: usize = 4;
