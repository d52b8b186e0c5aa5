//! Every bound of a shard, and what they must hold against each other.
//!
//! The Raft engine's own defaults are "unlimited" or "one entry a message"; none is left as it is.

use std::time::Duration;

/// Batches that wait are joined into one entry up to this size; a single larger batch is an entry
/// of its own.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;

/// The largest record batch that a topic may allow (`max.message.bytes`), bytes: a message of 32 MiB
/// and what its batch adds.
pub const BATCH_BYTES_MAX: usize = (32 << 20) + (4 << 10);

/// The largest payload of one entry, bytes. A proposal whose encoding is larger is refused before it
/// reaches the log, because an entry that fits no log file can never be written.
pub const ENTRY_BYTES_HARD_MAX: usize = BATCH_BYTES_MAX + ENTRY_OVERHEAD_BYTES;

/// What an entry's encoding adds to the one batch or command that it carries, at most, bytes.
pub const ENTRY_OVERHEAD_BYTES: usize = 4 << 10;

/// The largest command other than record batches that callers should build, bytes. Bounds on the
/// wire (group metadata, batches of commits, configurations) are derived from it.
pub const COMMAND_BYTES_MAX: usize = 8 << 20;

/// Entries that are proposed one after the other and written as one submission, at most. Their
/// payloads together are [`ENTRY_BYTES_MAX`] bytes before the last one is added.
pub const ENTRIES_PER_WRITE_MAX: usize = 64;

/// What one submission takes in the log at most, bytes: the payloads of its entries, and what each
/// entry adds.
pub const WRITE_BYTES_MAX: usize =
    ENTRY_BYTES_MAX + ENTRY_BYTES_HARD_MAX + ENTRIES_PER_WRITE_MAX * ENTRY_OVERHEAD_BYTES;

/// Entries handed to `apply` at once. Recovery replays in pieces of this size.
pub const COMMITTED_BYTES_MAX: u64 = 8 << 20;

/// One append message to a follower.
pub const MESSAGE_BYTES_MAX: u64 = 1 << 20;

/// Append messages under way to one follower.
pub const MESSAGES_INFLIGHT_MAX: usize = 64;

/// Proposed and not yet committed in one shard. Above it proposals wait their turn.
pub const UNCOMMITTED_BYTES_MAX: u64 = 16 << 20;

/// WAL writes of one shard under way; what arrives meanwhile joins the next entry.
pub const WRITES_INFLIGHT_MAX: usize = 2;

/// How long batches wait for space in a full log before they are refused.
pub const FULL_WAIT_MAX: Duration = Duration::from_secs(5);

/// Producers of one partition whose last batches are remembered. Beyond it those that have been
/// silent for longest are forgotten: a retry of theirs is no longer recognised.
pub const PARTITION_PRODUCERS_MAX: usize = 10_000;

/// Producers that are forgotten together when a partition has too many.
pub const PRODUCERS_FORGOTTEN_AT_ONCE: usize = PARTITION_PRODUCERS_MAX / 16;

/// Producers of all partitions of a shard that are remembered. Beyond it the leader expires those
/// that have been silent for longest, at its next look.
pub const SHARD_PRODUCERS_MAX: usize = 100_000;

/// The newest fencing epoch that is adopted though it was not given out here. Epochs go on from
/// there one by one, so many more can be given out before a number is over what JSON can carry.
pub const FENCE_EPOCH_ADOPTED_MAX: u64 = 1 << 52;

/// One tick of the engine's clock, milliseconds.
pub const TICK_MS: u64 = 100;

/// Ticks without a leader before an election.
pub const ELECTION_TICKS: usize = 10;

/// Ticks between heartbeats.
pub const HEARTBEAT_TICKS: usize = 2;

const _: () = assert!(ENTRY_BYTES_MAX as u64 <= MESSAGE_BYTES_MAX, "an entry fits a message");
const _: () = assert!(ENTRY_BYTES_MAX <= BATCH_BYTES_MAX, "joined batches fit an entry");
const _: () = assert!(COMMAND_BYTES_MAX + ENTRY_OVERHEAD_BYTES <= ENTRY_BYTES_HARD_MAX);
const _: () =
    assert!(MESSAGE_BYTES_MAX <= COMMITTED_BYTES_MAX, "apply takes what a message brings");
const _: () = assert!(COMMITTED_BYTES_MAX <= UNCOMMITTED_BYTES_MAX);
const _: () = assert!(PRODUCERS_FORGOTTEN_AT_ONCE > 0);
const _: () = assert!(PARTITION_PRODUCERS_MAX <= SHARD_PRODUCERS_MAX);
const _: () = assert!(HEARTBEAT_TICKS * 3 <= ELECTION_TICKS, "three heartbeats may be lost");
