//! The bounds of a node's tasks.

/// Most inputs that a driver takes from its queue at once.
pub const INPUTS_MAX: usize = 1024;

/// Most bytes of messages from other replicas that wait for a shard's driver. More are dropped, and
/// their senders send again.
pub const MESSAGES_BYTES_MAX: usize = 8 << 20;

/// What a message without entries counts as, bytes.
pub const MESSAGE_BYTES_MIN: usize = 256;

/// Most tasks that the drivers of a broker share.
pub const DRIVER_TASKS_MAX: usize = 4;
