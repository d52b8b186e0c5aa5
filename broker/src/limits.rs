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
const _: () = assert!(2 * ropewalk_store::limits::UNSYNCED_LOGS_MAX + 2048 <= FILES_RESERVED);

/// A process that has file descriptors for fewer connections than this says so when it starts.
pub const CONNECTIONS_EXPECTED: usize = 1024;

/// Connections that a process with so many file descriptors takes. Below [`FILES_RESERVED`] it is a
/// quarter of them: most brokers need far fewer than the reserve.
#[must_use]
pub const fn connections_for(files: usize) -> usize {
    let quarter = if files < 4 { 1 } else { files / 4 };
    let beyond = files.saturating_sub(FILES_RESERVED);
    if beyond > quarter { beyond } else { quarter }
}

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

/// The largest frame that does not count as bulk. Requests up to this size never wait behind larger
/// ones or behind Produce, which may wait for the disk.
pub const SMALL_FRAME_BYTES_MAX: usize = 16 * 1024;

/// Bytes of requests of all connections that are small and answered at once.
pub const SMALL_REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of small frames of all connections that have not come whole.
pub const PARTIAL_FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of fetches of all connections that are small. They may wait for [`FETCH_WAIT_MAX`].
pub const SMALL_FETCH_BYTES_MAX: usize = 16 * 1024 * 1024;

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

/// How far a fencing epoch that this cluster never gave out may lie above the newest that it did.
pub const EPOCH_LEAP_MAX: u64 = 1 << 32;

/// Streams of signals at once: one operator needs one, and a second while it is replaced.
pub const SIGNAL_STREAMS_MAX: usize = 8;

/// The file with the admin server's token.
pub const TOKEN_BYTES_MAX: u64 = 4096;

/// Producer ids that a repaired catalog leaves out: more than can have been given out since any snapshot.
pub const PRODUCER_IDS_LEFT_OUT: i64 = 1 << 32;
/// Parts of a shard's state (partitions, producers, groups) that a periodic look goes through before it
/// lets go of the state: apply waits for it.
pub const STATE_VISITS_MAX: usize = 4_096;

/// Groups whose offsets are looked at before the timers of all groups have their turn again.
pub const GROUPS_LOOKED_AT_ONCE: usize = 256;

/// Partitions of one topic.
pub const TOPIC_PARTITIONS_MAX: usize = 10_000;

/// Partitions of one broker.
pub const PARTITIONS_MAX: usize = 200_000;

/// What the members of one group may say about themselves together (ids, protocols with their
/// subscriptions), bytes. Kafka's bound is what fits a record of 1 MiB.
pub const GROUP_METADATA_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The same for one member: a group has room for several of the largest.
pub const MEMBER_METADATA_BYTES_MAX: usize = 1024 * 1024;

/// Protocols that one member may name; what a group has in common is looked up pair by pair.
pub const MEMBER_PROTOCOLS_MAX: usize = 64;

/// Each of a member's names: client id, `group.instance.id`, the protocol type. A member id is made
/// from one of them and has to fit the protocol's strings.
pub const MEMBER_NAME_BYTES_MAX: usize = 4 * 1024;

/// What the leader of a group may assign to all members together, bytes.
pub const GROUP_ASSIGNMENT_BYTES_MAX: usize = 3 * 1024 * 1024;

/// What the members of all groups of a broker may say about themselves together, bytes.
pub const GROUPS_METADATA_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The largest JoinGroup or SyncGroup that is read. One that is larger than a group takes is
/// answered; a connection that sends more than this is closed.
pub const GROUP_FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The longest name of a group, bytes.
pub const GROUP_ID_BYTES_MAX: usize = 1024;

/// Groups of one broker that have members, offsets or both.
pub const GROUPS_MAX: usize = 100_000;

/// What the committed offsets of one shard take together, bytes: [`OFFSET_BYTES`] and the note of each.
pub const SHARD_OFFSETS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What a committed offset counts as beside its note, bytes.
pub const OFFSET_BYTES: usize = 128;

/// Groups of one cluster that have configuration of their own.
pub const CONFIGURED_GROUPS_MAX: usize = 10_000;

/// The longest value of one configuration key, bytes: what a string of the protocol holds, so that
/// it can be described.
pub const CONFIG_VALUE_BYTES_MAX: usize = 0x7fff;

/// Configuration that one request sets for one resource, keys and values, bytes.
pub const CONFIGS_BYTES_MAX: usize = 1024 * 1024;

/// Offsets of one commit that are written as one entry, bytes; a larger commit is several.
pub const COMMIT_BYTES_MAX: usize = 1024 * 1024;

/// Partitions that are named in one entry.
pub const ENTRY_PARTITIONS_MAX: usize = 10_000;

/// How long a fetch may wait for records, whatever the client asks.
pub const FETCH_WAIT_MAX: Duration = Duration::from_secs(60);

/// Addresses, topics or groups that have a line in the log because of a client within one minute.
pub const LOG_SUBJECTS_MAX: usize = 1024;

/// How long a change may take before a client that names no time (`timeout_ms` of 0 or less) is
/// answered REQUEST_TIMED_OUT. Kafka's `request.timeout.ms` of a client, by default.
pub const CHANGE_TIME_DEFAULT: Duration = Duration::from_secs(30);

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
const _: () = assert!(1024 * SMALL_FRAME_BYTES_MAX <= SMALL_REQUEST_BYTES_MAX);
const _: () = assert!(1024 * SMALL_FRAME_BYTES_MAX <= SMALL_FETCH_BYTES_MAX);
const _: () = assert!(1024 * SMALL_FRAME_BYTES_MAX <= PARTIAL_FRAME_BYTES_MAX);
const _: () = assert!(REQUEST_BYTES_MAX <= u32::MAX as usize, "the semaphore counts in u32");
const _: () = assert!(MEMBER_METADATA_BYTES_MAX * 4 <= GROUP_METADATA_BYTES_MAX);
const _: () = assert!(MEMBER_NAME_BYTES_MAX + 64 <= 0x7fff, "a member id is a string");
const _: () = assert!(GROUP_METADATA_BYTES_MAX <= GROUPS_METADATA_BYTES_MAX);
const _: () = assert!(GROUP_METADATA_BYTES_MAX <= GROUP_FRAME_BYTES_MAX);
const _: () = assert!(
    GROUP_METADATA_BYTES_MAX + GROUP_ASSIGNMENT_BYTES_MAX + 4 * GROUP_ID_BYTES_MAX
        <= ropewalk_shard::limits::COMMAND_BYTES_MAX,
    "a generation is one entry"
);
const _: () = assert!(2 * CONFIGS_BYTES_MAX <= ropewalk_shard::limits::COMMAND_BYTES_MAX);
const _: () = assert!(2 * COMMIT_BYTES_MAX <= ropewalk_shard::limits::COMMAND_BYTES_MAX);
const _: () = assert!(64 * ENTRY_PARTITIONS_MAX <= ropewalk_shard::limits::COMMAND_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_file_descriptors_leave_room_for_clients() {
        assert_eq!(connections_for(0), 1);
        assert_eq!(connections_for(1024), 256);
        assert_eq!(connections_for(5121), 1280);
        assert_eq!(connections_for(100_000), 100_000 - FILES_RESERVED);
    }
}
