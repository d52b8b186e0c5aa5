//! Every bound of the broker in one place (R1), and the compile-time checks between them.
//!
//! At a bound there is back-pressure or a clear error, never growth. What an operator may want to
//! turn is a setting as well (see [`crate::settings`]); these are the defaults and the rest.

use std::time::Duration;

/// How far a batch may decompress while it is checked. It streams through a small window, so this
/// bounds the time that a bomb costs, not the memory.
pub const DECOMPRESSED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Connections at once, over all listeners, unless `max.connections` says less.
pub const CONNECTIONS_MAX: usize = 20_000;

/// File descriptors that are not for clients: the log, segments that are read, segments that wait for a sync,
/// the admin server.
pub const FILES_RESERVED: usize = 5120;
const _: () = assert!(2 * ropewalk_shard::limits::UNSYNCED_LOGS_MAX + 2048 <= FILES_RESERVED);

/// Bytes read at once into the thread's scratch buffer; a connection that is idle holds no buffer.
pub const READ_BYTES: usize = 16 * 1024;

/// What a connection reads ahead of the request that is being answered, so that it notices the
/// client going away.
pub const READ_AHEAD_BYTES_MAX: usize = 16 * 1024;

/// The first allocation for a frame that did not come whole; it doubles as the bytes arrive.
pub const FRAME_BYTES_FIRST: usize = 4 * 1024;

/// How large a first allocation a connection is trusted with that has sent such frames before.
pub const FRAME_BYTES_TRUSTED_MAX: usize = 1024 * 1024;

/// Requests of one connection under way at once; only Produce ever has more than one.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 64;

/// Bytes of requests of one connection under way at once; one larger request is let through alone.
pub const CONNECTION_BYTES_IN_FLIGHT_MAX: usize = 16 * 1024 * 1024;

/// Bytes of requests of all connections, from the first byte read until the answer is there, unless
/// `queued.max.request.bytes` says otherwise. One connection at a time may go beyond it, to finish
/// its frame, so that half-read frames never wait for each other.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of answers of all connections that are read from segments and not yet taken by the client.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A frame must be whole this long after its first byte, plus the time for its size at
/// [`TRANSFER_BYTES_PER_SECOND_MIN`].
pub const FRAME_TIME_MAX: Duration = Duration::from_secs(30);

/// A client must take an answer within this, plus the time for its size.
pub const WRITE_TIME_MAX: Duration = Duration::from_secs(30);

/// Slower than this over a whole frame or answer is as good as gone.
pub const TRANSFER_BYTES_PER_SECOND_MIN: usize = 256 * 1024;

/// Answers that are gathered into one write.
pub const GATHER_BYTES_MAX: usize = 1024 * 1024;

/// How long clients are kept out while a shard has no leader yet after a start.
pub const LEAD_TIME_MAX: Duration = Duration::from_secs(5);

/// How long requests under way may take to finish when the broker stops.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// How long the accept loop rests when the process is out of file descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Kafka's connections that the kernel may queue before they are accepted.
pub const BACKLOG: u32 = 1024;

/// Silence on a connection after which the kernel asks whether the client is still there.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// How often it asks again.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// The body of an admin request.
pub const ADMIN_BODY_BYTES_MAX: usize = 256 * 1024;

/// How long an admin request may take, its body included.
pub const ADMIN_TIME_MAX: Duration = Duration::from_secs(10);

/// Silence after which an admin connection is closed on which a request carried the token.
pub const ADMIN_IDLE_MAX: Duration = Duration::from_secs(75);

/// The same for any other admin connection.
pub const ADMIN_UNTRUSTED_IDLE_MAX: Duration = Duration::from_secs(15);

/// Admin connections at once. A new one closes the one that was silent for longest.
pub const ADMIN_CONNECTIONS_MAX: usize = 256;

/// Admin connections at once from one address.
pub const ADMIN_CONNECTIONS_PER_ADDRESS_MAX: usize = 64;
const _: () = assert!(
    2 * ADMIN_CONNECTIONS_PER_ADDRESS_MAX <= ADMIN_CONNECTIONS_MAX,
    "one address cannot take the places of all others"
);
const _: () = assert!(
    ADMIN_TIME_MAX.as_secs() < ADMIN_UNTRUSTED_IDLE_MAX.as_secs(),
    "a request that is being answered is no silence"
);
const _: () = assert!(ADMIN_UNTRUSTED_IDLE_MAX.as_secs() < ADMIN_IDLE_MAX.as_secs());

/// Reports over queues that are put together at once.
pub const ADMIN_REPORTS_MAX: usize = 8;

/// The message of one condition of `GET /v1/broker`, bytes.
pub const CONDITION_BYTES_MAX: usize = 1024;

/// Shards or partitions that one condition lists by name.
pub const CONDITION_PARTS_MAX: usize = 10;

/// The uid of an owner, the holder of a lease or its uid, bytes.
pub const OWNER_BYTES_MAX: usize = 253;

/// The name of a group that is bound, bytes.
pub const GROUP_BYTES_MAX: usize = 512;

/// Groups that are bound to one queue.
pub const BINDINGS_PER_TOPIC_MAX: usize = 1000;

/// The value of one configuration key that is stored in the catalog, bytes.
pub const CONFIG_VALUE_BYTES_MAX: usize = 4096;

/// How far a fencing epoch that this cluster never gave out may lie above the newest that it did.
pub const EPOCH_LEAP_MAX: u64 = 1 << 32;

/// Streams of signals at once: one operator needs one, and a second while it is replaced.
pub const SIGNAL_STREAMS_MAX: usize = 8;

/// The file with the admin server's token.
pub const TOKEN_BYTES_MAX: u64 = 4096;

/// The largest record batch that a topic may allow (`max.message.bytes`), bytes: less than one entry of a
/// shard's log can hold.
pub const MESSAGE_BYTES_MAX: i64 = 31 << 20;

/// Producer ids that a repaired catalog leaves out: more than can have been given out since any snapshot.
pub const PRODUCER_IDS_LEFT_OUT: i64 = 1 << 32;

/// Partitions of one topic.
pub const TOPIC_PARTITIONS_MAX: usize = 10_000;

/// Partitions of one broker.
pub const PARTITIONS_MAX: usize = 200_000;

/// How long a fetch may wait for records, whatever the client asks.
pub const FETCH_WAIT_MAX: Duration = Duration::from_secs(60);

/// What a fetch takes from the budget for answers before it is known how much there is to read.
pub const FETCH_RESERVE_BYTES: usize = 1024 * 1024;

/// The time a transfer of so many bytes is given.
#[must_use]
pub fn transfer_time_max(base: Duration, bytes: usize) -> Duration {
    base + Duration::from_secs((bytes / TRANSFER_BYTES_PER_SECOND_MIN) as u64)
}

const _: () = assert!(FRAME_BYTES_FIRST <= FRAME_BYTES_TRUSTED_MAX);
const _: () = assert!(FRAME_BYTES_TRUSTED_MAX <= CONNECTION_BYTES_IN_FLIGHT_MAX);
const _: () = assert!(CONNECTION_BYTES_IN_FLIGHT_MAX <= REQUEST_BYTES_MAX);
const _: () = assert!(REQUEST_BYTES_MAX <= u32::MAX as usize, "the semaphore counts in u32");
