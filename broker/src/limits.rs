//! Every bound of the broker in one place (R1), and the compile-time checks between them.
//!
//! At a bound there is back-pressure or a clear error, never unbounded growth. Bounds that an
//! operator may want to change are settings as well (see [`crate::settings`]); the constants here
//! are their defaults.

use std::time::Duration;

/// Most bytes that a batch may decompress to while it is checked. It is decompressed in a stream
/// with a small window, so this bounds the CPU time of a decompression bomb, not the memory.
pub const DECOMPRESSED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Most connections at once, over all listeners, unless `max.connections` is lower.
pub const CONNECTIONS_MAX: usize = 20_000;

/// File descriptors that are not for clients: the write-ahead log, open segments, segments that
/// wait for an fsync, the admin server.
pub const FILES_RESERVED: usize = 5120;
const _: () = assert!(2 * ropewalk_store::limits::UNSYNCED_LOGS_MAX + 2048 <= FILES_RESERVED);

/// The broker warns at start if the process has file descriptors for fewer connections than this.
pub const CONNECTIONS_EXPECTED: usize = 1024;

/// Most connections of a process with this many file descriptors. Below [`FILES_RESERVED`] it is a
/// quarter of them: most brokers need far fewer than the reserve.
#[must_use]
pub const fn connections_for(files: usize) -> usize {
    let quarter = if files < 4 { 1 } else { files / 4 };
    let beyond = files.saturating_sub(FILES_RESERVED);
    if beyond > quarter { beyond } else { quarter }
}

/// Bytes read at once into the thread's scratch buffer. An idle connection holds no buffer. Larger
/// frames are read into their own buffers.
pub const READ_BYTES: usize = 16 * 1024;

/// Bytes read into the scratch buffer where another large frame is expected: the length and the
/// header of the request, or a whole small request.
pub const READ_BYTES_BEFORE_LARGE: usize = 1024;

/// Bytes that are read together with the rest of a large frame: the length of the next one. The
/// frame's buffer is larger by them, and they are not counted.
pub const READ_BYTES_BEYOND: usize = 64;

/// Bytes that a connection reads ahead of the request in progress, to detect that the client closed
/// the connection.
pub const READ_AHEAD_BYTES_MAX: usize = 16 * 1024;

/// The first allocation for a frame that did not arrive in one read. It doubles as bytes arrive.
pub const FRAME_BYTES_FIRST: usize = 4 * 1024;

/// The largest first allocation for a connection that has completed frames of that size before.
pub const FRAME_BYTES_TRUSTED_MAX: usize = 1024 * 1024;

/// Most requests of one connection in progress at once; only Produce ever has more than one.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 64;

/// Most bytes of requests in progress on one connection; one larger request is accepted alone.
pub const CONNECTION_BYTES_IN_FLIGHT_MAX: usize = 16 * 1024 * 1024;

/// Bytes of requests of all connections, from the first byte read until the response is ready,
/// unless `queued.max.request.bytes` is set. The frame of a Produce with several batches counts
/// until all of them are in segments; such frames take at most half of this. One connection at a
/// time may exceed it to finish its frame, so that half-read frames never wait for each other.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A batch of a Produce with several keeps the memory of its frame only if the frame is at most
/// this many times as large; a smaller batch is copied.
pub const FRAME_PER_BATCH_MAX: usize = 32;

/// The largest frame that does not count as bulk. Requests up to this size never wait behind larger
/// ones or behind Produce, which may wait for the disk.
pub const SMALL_FRAME_BYTES_MAX: usize = 16 * 1024;

/// Bytes of requests of all connections that are small and answered without waiting.
pub const SMALL_REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of incomplete small frames of all connections.
pub const PARTIAL_FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of small fetch requests of all connections. They may wait for [`FETCH_WAIT_MAX`].
pub const SMALL_FETCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of responses to fetches of all connections that are in memory and not yet received by the
/// client: pieces of segments, small files, and the parts of tails that they name.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of a response that are read from a segment at once, unless one batch is larger. One piece
/// is read while the one before it is sent.
pub const ANSWER_PIECE_BYTES: usize = 256 * 1024;

/// Most buffers of [`ANSWER_PIECE_BYTES`] that are kept while no response needs them.
pub const IDLE_BUFFERS_MAX: usize = 16;

/// Most stretches of segments in one response, each of which holds a file open until it is sent.
pub const ANSWER_STRETCHES_MAX: usize = 16;
const _: () = assert!(
    ANSWER_BYTES_MAX / (2 * ANSWER_PIECE_BYTES) * ANSWER_STRETCHES_MAX <= 2048,
    "the files of slow clients are within FILES_RESERVED"
);

/// Bytes of records of the bucket that are in memory for fetches of all connections, until their
/// clients have received them. The cache of the bucket's reader comes on top.
pub const COLD_BYTES_MAX: usize = 48 * 1024 * 1024;

/// Most bytes of one partition that a fetch gets from the bucket, unless one batch is larger.
pub const COLD_READ_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Memory that records of the bucket may hold beyond their size, because the first and the last of
/// them are slices of a chunk each.
pub const COLD_EXCESS_BYTES: usize = 2 * ropewalk_tier::limits::CHUNK_BYTES as usize;
const _: () = assert!(
    8 * (COLD_READ_BYTES_MAX + COLD_EXCESS_BYTES) <= COLD_BYTES_MAX,
    "one reader does not use all of it"
);

/// Most reads of the bucket that one fetch begins.
pub const COLD_READS_PER_FETCH: usize = 8;

/// The next object is read ahead when a reader has this many bytes left of the one before it.
pub const TIER_WARM_BYTES: u64 = 4 * 1024 * 1024;

/// Time from the first byte of a frame until it must be complete, plus the time for its size at
/// [`TRANSFER_BYTES_PER_SECOND_MIN`].
pub const FRAME_TIME_MAX: Duration = Duration::from_secs(30);

/// Time within which a client must receive a response, plus the time for its size.
pub const WRITE_TIME_MAX: Duration = Duration::from_secs(30);

/// Lowest transfer rate over a whole frame or response; a slower connection is closed.
pub const TRANSFER_BYTES_PER_SECOND_MIN: usize = 256 * 1024;

/// Most bytes of responses that are gathered into one write.
pub const GATHER_BYTES_MAX: usize = 1024 * 1024;

/// Longest delay of accepting clients after a start while a shard has no leader.
pub const LEAD_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a broker that stops serves clients after it has handed its leaderships over, so that
/// those who send to it are informed who leads now. A client whose connection just ends asks for
/// metadata, and franz-go only once in five seconds.
pub const NEXT_LEADER_TOLD: Duration = Duration::from_millis(500);

/// Longest time that requests in progress may take to finish when the broker stops.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// Pause of the accept loop when the process has no free file descriptor.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Kafka connections that the kernel may queue before they are accepted.
pub const BACKLOG: u32 = 1024;

/// Idle time after which the kernel sends the first TCP keepalive probe.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// Interval of further keepalive probes.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Most bytes of the body of an admin request.
pub const ADMIN_BODY_BYTES_MAX: usize = 256 * 1024;

/// Longest time of an admin request, including the transfer of its body.
pub const ADMIN_TIME_MAX: Duration = Duration::from_secs(10);

/// Idle time after which an admin connection that has presented the token is closed.
pub const ADMIN_IDLE_MAX: Duration = Duration::from_secs(75);

/// Idle time after which any other admin connection is closed.
pub const ADMIN_UNTRUSTED_IDLE_MAX: Duration = Duration::from_secs(15);

/// Most admin connections at once. A new one closes the one that has been idle longest.
pub const ADMIN_CONNECTIONS_MAX: usize = 256;

/// Most admin connections at once from one address.
pub const ADMIN_CONNECTIONS_PER_ADDRESS_MAX: usize = 64;
const _: () = assert!(
    2 * ADMIN_CONNECTIONS_PER_ADDRESS_MAX <= ADMIN_CONNECTIONS_MAX,
    "one address cannot use all connections"
);
const _: () = assert!(
    ADMIN_TIME_MAX.as_secs() < ADMIN_UNTRUSTED_IDLE_MAX.as_secs(),
    "a request in progress must not count as idle"
);
const _: () = assert!(ADMIN_UNTRUSTED_IDLE_MAX.as_secs() < ADMIN_IDLE_MAX.as_secs());

/// Most queue reports that are computed at once.
pub const ADMIN_REPORTS_MAX: usize = 8;

/// Longest message of one condition of `GET /v1/broker`, bytes.
pub const CONDITION_BYTES_MAX: usize = 1024;

/// Most shards or partitions that one condition lists by name.
pub const CONDITION_PARTS_MAX: usize = 10;

/// Longest uid of an owner, and longest name or uid of a lease holder, bytes.
pub const OWNER_BYTES_MAX: usize = 253;

/// Longest name of a group that is bound, bytes.
pub const GROUP_BYTES_MAX: usize = 512;

/// Most groups that are bound to one queue.
pub const BINDINGS_PER_TOPIC_MAX: usize = 1000;

/// Largest step from the newest fencing epoch of this cluster to one that it did not issue.
pub const EPOCH_LEAP_MAX: u64 = 1 << 32;

/// Most signal streams at once: one operator needs one, and a second while it is replaced.
pub const SIGNAL_STREAMS_MAX: usize = 8;

/// Largest file of the admin server's token, bytes.
pub const TOKEN_BYTES_MAX: u64 = 4096;

/// Producer ids that a repaired catalog skips: more than can have been issued since any snapshot.
pub const PRODUCER_IDS_LEFT_OUT: i64 = 1 << 32;

/// Leader epochs that a restore leaves out above those of the checkpoints and objects: more than a
/// shard has elections between a checkpoint and the loss of its brokers.
pub const EPOCHS_LEFT_OUT: i32 = 1 << 16;

/// Objects of a restored partition that no page lists, if there are too many for the state: there
/// is room for as many more.
pub const RESTORE_OBJECTS_KEPT: usize = ropewalk_shard::limits::TIER_OBJECTS_MAX / 2;

/// Most parts of a shard's state (partitions, producers, groups) that a periodic scan visits before
/// it unlocks the state, because apply waits for it.
pub const STATE_VISITS_MAX: usize = 4_096;

/// Most groups whose offsets are checked for expiry before the timers of all groups run again.
pub const GROUPS_LOOKED_AT_ONCE: usize = 256;

/// Most partitions of one topic.
pub const TOPIC_PARTITIONS_MAX: usize = 10_000;

/// Most partitions of one broker.
pub const PARTITIONS_MAX: usize = 200_000;

/// Metadata of all members of one group together (ids, protocols with their subscriptions), bytes.
/// Kafka's bound is what fits a record of 1 MiB.
pub const GROUP_METADATA_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Metadata of one member, bytes. A group has room for several of the largest.
pub const MEMBER_METADATA_BYTES_MAX: usize = 1024 * 1024;

/// Most protocols of one member. Finding the common protocols of a group compares pairs.
pub const MEMBER_PROTOCOLS_MAX: usize = 64;

/// Longest of a member's names: client id, `group.instance.id`, the protocol type. A member id is
/// made from one of them and must fit the protocol's strings.
pub const MEMBER_NAME_BYTES_MAX: usize = 4 * 1024;

/// Assignments of all members of a group together, bytes.
pub const GROUP_ASSIGNMENT_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Metadata of the members of all groups of a broker together, bytes.
pub const GROUPS_METADATA_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The largest JoinGroup or SyncGroup that is read. A request that exceeds a group's bounds is
/// answered with an error; a connection that sends more than this is closed.
pub const GROUP_FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Longest name of a group, bytes.
pub const GROUP_ID_BYTES_MAX: usize = 1024;

/// Most groups of one broker with members, offsets or both.
pub const GROUPS_MAX: usize = 100_000;

/// Committed offsets of one shard together, bytes: [`OFFSET_BYTES`] and the metadata of each.
pub const SHARD_OFFSETS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Size of a committed offset without its metadata string, bytes.
pub const OFFSET_BYTES: usize = 128;

/// Most groups of one cluster with configuration of their own.
pub const CONFIGURED_GROUPS_MAX: usize = 10_000;

/// Longest value of one configuration key, bytes: the longest string of the protocol, so that it
/// can be described.
pub const CONFIG_VALUE_BYTES_MAX: usize = 0x7fff;

/// Most configuration that one request sets for one resource, keys and values, bytes.
pub const CONFIGS_BYTES_MAX: usize = 1024 * 1024;

/// Offsets of one commit that are written as one entry, bytes; a larger commit is split.
pub const COMMIT_BYTES_MAX: usize = 1024 * 1024;

/// Most partitions that one entry names.
pub const ENTRY_PARTITIONS_MAX: usize = 10_000;

/// Longest wait of a fetch for records, whatever `max.wait.ms` the client sends.
pub const FETCH_WAIT_MAX: Duration = Duration::from_secs(60);

/// Longest wait of a refused Produce for a leader that it can name. A transfer of leadership takes
/// milliseconds, and an election after the end of a process less than this. A broker that was cut
/// off waits in vain.
pub const LEADER_HINT_WAIT_MAX: Duration = Duration::from_millis(500);

/// How long a request for metadata waits at most until the leaders of its topics are known: while
/// the process of a leader has ended, the others elect the next one in less. Later requests of the
/// connection wait with it.
pub const LEADER_KNOWN_WAIT_MAX: Duration = Duration::from_millis(500);

/// Most partitions of one fetch session. A fetch of more is answered without a session.
pub const FETCH_SESSION_PARTITIONS_MAX: usize = 10_000;

/// Memory of one partition of a fetch session, and of a session itself, bytes: the entry with its
/// topic's name, its places in the tables, and the registration in the log.
pub const FETCH_SESSION_PARTITION_BYTES: usize = 832;

/// Memory of all fetch sessions, bytes.
pub const FETCH_SESSIONS_BYTES_MAX: usize = 64 * 1024 * 1024;
const _: () = assert!(
    4 * FETCH_SESSION_PARTITIONS_MAX * FETCH_SESSION_PARTITION_BYTES <= FETCH_SESSIONS_BYTES_MAX,
    "there is room for several of the largest"
);

/// Most addresses, topics or groups with a client-caused log line within one minute.
pub const LOG_SUBJECTS_MAX: usize = 1024;

/// Time limit of a change for a client that sends none (`timeout_ms` of 0 or less); then the answer
/// is REQUEST_TIMED_OUT. Equal to the default of Kafka's client setting `request.timeout.ms`.
pub const CHANGE_TIME_DEFAULT: Duration = Duration::from_secs(30);

/// Longest time of a lookup by timestamp, whatever time limit the client sends.
pub const LOOKUP_TIME_MAX: Duration = Duration::from_secs(120);

/// Bytes that a fetch acquires from the response budget before it is known what it needs. It
/// returns the rest when that is known, before it sends anything.
pub const FETCH_RESERVE_BYTES: usize = 1024 * 1024;
const _: () = assert!(2 * ANSWER_PIECE_BYTES < FETCH_RESERVE_BYTES);

/// Interval between two looks for records to upload.
pub const TIER_INTERVAL: Duration = Duration::from_secs(2);

/// Most steps of the tier at once, each for one partition: uploads, folds, deletions.
pub const TIER_STEPS_AT_ONCE: usize = 8;

/// Most objects that a partition uploads before the others have their turn.
pub const TIER_OBJECTS_PER_PASS: usize = 4;

/// Bytes of objects that are being uploaded, over all partitions. The last batch of each may exceed
/// it.
pub const TIER_UPLOAD_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Bytes of records that are read at once for an upload, unless one batch is larger.
pub const TIER_READ_BYTES: usize = 4 * 1024 * 1024;

/// Most dropped objects of one partition that are deleted at once.
pub const TIER_DELETES_MAX: usize = 1000;

/// Pause of the tier after the first failure of the bucket. It doubles with each further one.
pub const TIER_PAUSE: Duration = Duration::from_secs(2);

/// Longest pause of the tier after a failure.
pub const TIER_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Longest time that a start waits for the bucket. The broker then starts without it, and tries
/// again.
pub const TIER_START_TIME_MAX: Duration = Duration::from_secs(10);

/// Longest time that uploads continue without a comparison of the claim in the bucket.
pub const TIER_CLAIM_CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Longest time between a comparison of the claim and a deletion that it permits.
pub const TIER_CLAIM_DELETE_AGE: Duration = Duration::from_secs(5);

/// Interval between two looks for changes that need a checkpoint in the bucket. A change of the
/// catalog is there after this time.
pub const TIER_CHECKPOINT_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest pause between two checkpoints of a shard.
pub const TIER_CHECKPOINT_PAUSE: Duration = Duration::from_secs(5);

/// Bytes per second that checkpoints of one shard may take: the pause is longer after a large one.
pub const TIER_CHECKPOINT_BYTES_PER_SECOND: u64 = 4 * 1024 * 1024;

/// Memory that is taken for a checkpoint of unknown size, bytes.
pub const TIER_CHECKPOINT_BYTES: u64 = 1024 * 1024;

/// Checkpoints of a shard that stay in the bucket.
pub const TIER_CHECKPOINTS_KEPT: usize = 2;

/// Longest time that a stop waits for the last checkpoints.
pub const TIER_STOP_TIME_MAX: Duration = Duration::from_secs(5);

/// Interval between two checks whether orphans may be due.
pub const TIER_ORPHANS_LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Shortest time between two listings of a shard's folders, also if its leadership changes often.
pub const TIER_ORPHANS_PAUSE: Duration = Duration::from_secs(3600);

/// Most names of one partition's folder that are examined for orphans: the last ones listed.
pub const TIER_ORPHANS_LISTED_MAX: usize = 100_000;

/// Most deleted topics whose folders wait to be deleted. Further ones are found by a later listing.
pub const TIER_DELETED_TOPICS_MAX: usize = 10_000;

/// Longest interval between checks of local retention while the disk is full.
pub const TIER_FULL_DISK_INTERVAL: Duration = Duration::from_secs(10);

/// The time limit for a transfer of this many bytes.
#[must_use]
pub fn transfer_time_max(base: Duration, bytes: usize) -> Duration {
    base + Duration::from_secs((bytes / TRANSFER_BYTES_PER_SECOND_MIN) as u64)
}

const _: () =
    assert!(TIER_UPLOAD_BYTES_MAX >> 10 <= u32::MAX as usize, "permits are counted in u32");
const _: () = assert!(FRAME_BYTES_FIRST <= FRAME_BYTES_TRUSTED_MAX);
const _: () = assert!(READ_BYTES_BEFORE_LARGE <= READ_BYTES);
const _: () = assert!(16 * READ_BYTES_BEYOND <= READ_BYTES_BEFORE_LARGE);
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
