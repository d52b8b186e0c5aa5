//! The bounds of a shard. Assertions at the end check at compile time that they fit together.
//!
//! The defaults of the `raft` crate are "unlimited" or "one entry per message"; all are replaced.

use std::time::Duration;

/// Waiting batches are joined into one entry of up to this size, bytes; a single larger batch is
/// an entry of its own.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;

/// The largest record batch that a topic may allow (`max.message.bytes`), bytes: a message of
/// 32 MiB and 4 KiB for the rest of its batch.
pub const BATCH_BYTES_MAX: usize = (32 << 20) + (4 << 10);

/// The largest payload of one entry, bytes. A proposal whose encoding is larger is refused before
/// it reaches the log, because an entry that fits no log file can never be written.
pub const ENTRY_BYTES_HARD_MAX: usize = BATCH_BYTES_MAX + ENTRY_OVERHEAD_BYTES;

/// The largest overhead of an entry's encoding over the one batch or command in it, bytes.
pub const ENTRY_OVERHEAD_BYTES: usize = 4 << 10;

/// The largest command other than record batches that callers should build, bytes. Bounds on the
/// wire (group metadata, batches of commits, configurations) are derived from it.
pub const COMMAND_BYTES_MAX: usize = 8 << 20;

/// Most entries that are proposed together and written to the log in one submission. Before the
/// last one is added, their payloads together are less than [`ENTRY_BYTES_MAX`] bytes.
pub const ENTRIES_PER_WRITE_MAX: usize = 64;

/// Most bytes that one submission takes in the log: the payloads of its entries and their overhead.
pub const WRITE_BYTES_MAX: usize =
    ENTRY_BYTES_MAX + ENTRY_BYTES_HARD_MAX + ENTRIES_PER_WRITE_MAX * ENTRY_OVERHEAD_BYTES;

/// Bytes of entries that the engine reports as committed at once.
pub const COMMITTED_BYTES_MAX: u64 = 8 << 20;

/// Bytes of entries that a replica which does not serve applies before it looks for memory again.
/// By so much, or by one larger entry, each shard may exceed the memory budget of the broker.
pub const APPLIED_AT_ONCE_BYTES_MAX: u64 = 1 << 20;

/// Bytes of committed entries that a replica keeps while they wait for memory, besides
/// [`LOG_WINDOW_BYTES`]. Above it, it takes no more entries of its leader.
pub const UNAPPLIED_BYTES_MAX: u64 = 8 << 20;

/// Most bytes of entries in one append message to a follower.
pub const MESSAGE_BYTES_MAX: u64 = 1 << 20;

/// Most append messages in flight to one follower.
pub const MESSAGES_INFLIGHT_MAX: usize = 64;

/// Most bytes of entries that a broker has on their way to one other broker, over all shards.
pub const PEER_BYTES_INFLIGHT_MAX: u64 = 48 << 20;

/// Most bytes of entries that a broker has on their way to all other brokers together.
pub const NODE_BYTES_INFLIGHT_MAX: u64 = 96 << 20;

/// Bytes that are proposed and not committed in one shard. Above it, proposals wait in the queue.
pub const UNCOMMITTED_BYTES_MAX: u64 = 16 << 20;

/// The part of [`UNCOMMITTED_BYTES_MAX`] that only commands that free space and changes of the
/// members use: they are proposed also while batches wait for full disks, bytes.
pub const UNCOMMITTED_RESERVE_BYTES: u64 = 2 << 20;

/// Most WAL writes in flight of one shard; batches that arrive meanwhile join the next entry.
pub const WRITES_INFLIGHT_MAX: usize = 2;

/// How long a proposal waits for space in the log, or for a busy engine, before it is refused.
pub const FULL_WAIT_MAX: Duration = Duration::from_secs(5);

/// Most idempotent producers whose last batches a partition keeps. Above it, the partition removes
/// those with the oldest last batch, and no longer recognises a retry of theirs.
pub const PARTITION_PRODUCERS_MAX: usize = 10_000;

/// How many producers a partition removes at once when it has too many.
pub const PRODUCERS_EVICTED_AT_ONCE: usize = PARTITION_PRODUCERS_MAX / 16;

/// Most producers that all partitions of a shard keep together. Above it, the leader's next
/// expiry pass expires those with the oldest last batch.
pub const SHARD_PRODUCERS_MAX: usize = 100_000;

/// The highest fencing epoch that the catalog adopts although it did not issue it. Later claims
/// count up from there, which leaves room before the largest integer that JSON carries exactly.
pub const FENCE_EPOCH_ADOPTED_MAX: u64 = 1 << 52;

/// Most tombstones of deleted topics in the catalog. Above it, the oldest are removed: partitions
/// of those topics that no shard has closed by then are kept as orphans.
pub const TOMBSTONES_MAX: usize = 200_000;

/// How many tombstones the catalog removes at once.
pub const TOMBSTONES_REMOVED_AT_ONCE: usize = TOMBSTONES_MAX / 16;

/// Payloads of applied entries that a shard keeps in memory for followers that are a little behind,
/// bytes. Older ones are read back from the write-ahead log.
pub const LOG_WINDOW_BYTES: u64 = 4 << 20;

/// Most entries of which a shard keeps index, term and length after they are applied (40 bytes
/// each). A follower that needs an older one gets a snapshot.
pub const LOG_ENTRIES_MAX: usize = 1 << 16;

/// Most reads of older entries for followers that are under way in one shard.
pub const FETCHES_MAX: usize = 8;

/// Most bytes of entries in messages of a leader that wait for a shard's own writes. Later messages
/// are dropped, and the leader sends their entries again.
pub const INBOX_BYTES_MAX: usize = 4 << 20;

/// Most bytes of entries that a follower with a full disk is sent at once, so that it reaches a
/// command that frees space. They take the reserve of its write-ahead log. A follower that lacks
/// more gets a snapshot.
pub const RESERVE_CATCH_UP_BYTES_MAX: u64 = 2 << 20;

/// The largest command that frees space (closing partitions, retention), bytes: it fits the reserve
/// of the write-ahead log when everything else is used.
pub const FREEING_COMMAND_BYTES_MAX: usize = 256 << 10;

/// Most bytes of the context of a ReadIndex round in a heartbeat. Ours have 8.
pub const CONTEXT_BYTES_MAX: usize = 16;

/// A learner becomes a voter only when it lacks at most so many entries of the leader's log.
pub const CAUGHT_UP_ENTRIES_MAX: u64 = 64;

/// Most members of a shard, learners included.
pub const MEMBERS_MAX: usize = 9;

/// Most brokers of a cluster. Each holds a replica of the catalog.
pub const BROKERS_MAX: usize = MEMBERS_MAX;

/// Most removed brokers whose ids the catalog keeps, so that these ids are not used again.
pub const FORGOTTEN_BROKERS_MAX: usize = 10_000;

/// Most objects in the bucket that the state references itself, per partition. Above it, pages list
/// them. With the next two bounds, the tier of a partition takes at most 10 KiB of memory.
pub const TIER_OBJECTS_MAX: usize = 64;

/// Most pages that the state references, per partition.
pub const TIER_PAGES_MAX: usize = 64;

/// Most replaced pages that wait to be deleted, per partition.
pub const TIER_REPLACED_MAX: usize = 8;

/// Most objects, or pages, that one page lists. The pages of a partition list at least 250,000
/// objects, and sixteen million times as many if pages list pages.
pub const TIER_PAGE_ENTRIES_MAX: u32 = 4096;

/// Ticks between two checks of the state by the leader: one minute. A check encodes the whole state
/// on every replica.
pub const CHECK_TICKS: usize = 600;

/// One tick of the Raft engine's clock, milliseconds.
pub const TICK_MS: u64 = 100;

/// Ticks without a leader before an election.
pub const ELECTION_TICKS: usize = 10;

/// Ticks between the campaigns of two voters that have lost the same leader: the first of them is
/// elected meanwhile.
pub const TURN_TICKS: usize = 2;

/// Ticks between heartbeats.
pub const HEARTBEAT_TICKS: usize = 2;

const _: () = assert!(ENTRY_BYTES_MAX as u64 <= MESSAGE_BYTES_MAX, "an entry fits a message");
const _: () = assert!(ENTRY_BYTES_MAX <= BATCH_BYTES_MAX, "joined batches fit an entry");
const _: () = assert!(COMMAND_BYTES_MAX + ENTRY_OVERHEAD_BYTES <= ENTRY_BYTES_HARD_MAX);
const _: () = assert!(
    MESSAGE_BYTES_MAX <= COMMITTED_BYTES_MAX,
    "the entries of a message are committed at once"
);
const _: () = assert!(
    ENTRY_BYTES_HARD_MAX as u64 <= PEER_BYTES_INFLIGHT_MAX,
    "the largest entry fits what may be on its way to a broker"
);
const _: () = assert!(
    2 * PEER_BYTES_INFLIGHT_MAX <= NODE_BYTES_INFLIGHT_MAX,
    "a broker that takes nothing leaves room for another one"
);
const _: () = assert!(MESSAGE_BYTES_MAX <= UNAPPLIED_BYTES_MAX);
const _: () = assert!(APPLIED_AT_ONCE_BYTES_MAX <= UNAPPLIED_BYTES_MAX);
const _: () = assert!(UNAPPLIED_BYTES_MAX <= UNCOMMITTED_BYTES_MAX);
const _: () = assert!(COMMITTED_BYTES_MAX <= UNCOMMITTED_BYTES_MAX - UNCOMMITTED_RESERVE_BYTES);
const _: () = assert!(
    (FREEING_COMMAND_BYTES_MAX + ENTRY_OVERHEAD_BYTES) as u64 * 4 <= UNCOMMITTED_RESERVE_BYTES,
    "several commands that free space are proposed at once"
);
const _: () = assert!(MESSAGE_BYTES_MAX <= RESERVE_CATCH_UP_BYTES_MAX);
const _: () = assert!(PRODUCERS_EVICTED_AT_ONCE > 0);
const _: () = assert!(TOMBSTONES_REMOVED_AT_ONCE > 0);
const _: () = assert!(PARTITION_PRODUCERS_MAX <= SHARD_PRODUCERS_MAX);
const _: () = assert!(TIER_PAGES_MAX * TIER_PAGE_ENTRIES_MAX as usize >= 250_000);
const _: () = assert!(TIER_OBJECTS_MAX <= TIER_PAGE_ENTRIES_MAX as usize, "a page takes them all");
const _: () = assert!(HEARTBEAT_TICKS * 3 <= ELECTION_TICKS, "three heartbeats may be lost");
