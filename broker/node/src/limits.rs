//! The bounds of a node's tasks. Assertions at the end check at compile time that they fit
//! together.

use ropewalk_shard::limits as shard;

/// Most inputs that a driver takes from its queue at once.
pub const INPUTS_MAX: usize = 1024;

/// Most bytes of messages from other replicas that wait for a shard's driver. More are dropped, and
/// their senders send again.
pub const MESSAGES_BYTES_MAX: usize = 8 << 20;

/// Most bytes of messages with entries that wait for all drivers of the broker together, besides
/// one message of each shard. More are dropped, and their senders send again.
pub const NODE_MESSAGES_BYTES_MAX: usize = 64 << 20;

/// What a message without entries counts as, bytes.
pub const MESSAGE_BYTES_MIN: usize = 256;

/// Most tasks that the drivers of a broker share.
pub const DRIVER_TASKS_MAX: usize = 4;

const _: () = assert!(shard::MESSAGE_BYTES_MAX as usize <= MESSAGES_BYTES_MAX);
const _: () = assert!(
    MESSAGES_BYTES_MAX <= NODE_MESSAGES_BYTES_MAX,
    "what one shard may have in its queue fits what all may have"
);
const _: () = assert!(
    shard::ENTRY_BYTES_HARD_MAX <= NODE_MESSAGES_BYTES_MAX,
    "the largest entry fits what all shards may have"
);
