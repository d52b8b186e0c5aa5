//! The bounds of the traffic between brokers. Assertions at the end check at compile time that they
//! fit together.
//!
//! The sum for one peer, with QUIC's windows in `transport`, is about 190 MiB. Only a peer that
//! stops in the middle of the largest messages of all lanes costs as much; payloads that wait are
//! shared with Raft's log. A peer that keeps up costs a few messages.
//!
//! The entries that wait for all peers together have a bound of the caller's, which it learns to
//! keep from [`Peers::send_held`](crate::Peers::send_held).

use std::time::Duration;

use ropewalk_shard::limits as shard;

/// Most bytes of a hello or of its answer. Until the hello is accepted, a connection may send no
/// more.
pub const HELLO_BYTES_MAX: usize = 1 << 10;

/// Most bytes of a cluster id.
pub const CLUSTER_ID_BYTES_MAX: usize = 63;

/// Most earlier starts of a broker in its hello.
pub const EARLIER_STARTS_MAX: usize = 16;

/// Most bytes of the text of a refusal.
pub const REFUSAL_TEXT_BYTES_MAX: usize = 256;

/// Time for the TLS handshake and the hello of a connection, both sides.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time for the other side to read a refusal and close the connection, before this side does.
pub const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection for messages over which nothing has come for so long, or for up to twice as long, is
/// probed. Brokers that share a shard send each other heartbeats more often.
pub const SILENCE_MAX: Duration =
    Duration::from_millis(shard::TICK_MS * shard::HEARTBEAT_TICKS as u64 * 3 / 4);

/// Time for the refusal of a probe to arrive: several round trips inside of a region.
pub const PROBE_TIMEOUT: Duration = Duration::from_millis(5);

/// Most incoming connections of one class whose hello is not answered yet. Later ones are refused
/// before any cryptography.
pub const HANDSHAKES_MAX: usize = 32;

/// Most other brokers of a cluster.
pub const PEERS_MAX: usize = 64;

/// Most bytes that a queued message costs in addition to its encoding: its place in a queue.
pub const MESSAGE_OVERHEAD_BYTES: usize = 128;

/// Most bytes of one frame of the control lane.
pub const CONTROL_FRAME_BYTES_MAX: usize = 512 << 10;

/// Most bytes that wait in the control lane of a peer, heartbeats apart.
pub const CONTROL_QUEUED_BYTES_MAX: usize = 1 << 20;

/// Frames of the control lane are written together up to so many bytes.
pub const CONTROL_WRITE_BYTES: usize = 64 << 10;

/// Most heartbeats and answers to heartbeats that wait for a peer, of all shards together.
pub const HEARTBEATS_MAX: usize = 4096;

/// Most bytes of one heartbeat, or of an answer to one, in the merged frame.
pub const HEARTBEAT_BYTES_MAX: usize = 96;

/// Most bytes of one frame of the append lane: the largest entry, or a message of many small ones,
/// with the headers of the entries.
pub const APPEND_FRAME_BYTES_MAX: usize = shard::ENTRY_BYTES_HARD_MAX + (4 << 20);

/// Most bytes that wait in the append lane of a peer, all shards together.
pub const APPEND_QUEUED_BYTES_MAX: usize = 48 << 20;

/// Most bytes that wait in the append lane of a peer for one shard, or one larger message. A busy
/// shard leaves the rest of [`APPEND_QUEUED_BYTES_MAX`] to the others.
pub const APPEND_SHARD_BYTES_MAX: usize = 8 << 20;

/// Most shards with a stream in the append lane of a peer. Messages of others are not taken.
pub const APPEND_SHARDS_MAX: usize = 1024;

/// How long the append lane of a shard waits for the receiver to take a message before it drops the
/// message. A quarter of an election timeout: unread messages of many shards would otherwise use up
/// the receive window of the connection, and heartbeats would wait with them.
pub const APPEND_DELIVERY_MAX: Duration =
    Duration::from_millis(shard::TICK_MS * shard::ELECTION_TICKS as u64 / 4);

/// Most bytes of the frames that one connection receives at once. A frame reserves its announced
/// length before it is read and gives it back when it is delivered.
pub const RECEIVED_BYTES_MAX: usize = 40 << 20;

/// Most bytes of a request or an answer in the bulk lane: a piece of a file and its header.
pub const BULK_FRAME_BYTES_MAX: usize = 2 << 20;

/// Most bytes of the requests to a peer that wait or are under way. Each counts its own length and
/// [`BULK_FRAME_BYTES_MAX`] for its answer.
pub const BULK_BYTES_MAX: usize = 16 << 20;

/// Most requests of one peer that are answered at the same time. Later ones wait at their sender.
pub const BULK_REQUESTS_MAX: usize = 8;

/// Most subjects whose last problem is remembered, so that a problem is logged once.
pub const NOTICES_MAX: usize = 256;

/// Interval at which the modification times of the certificate files are read.
pub const CERTIFICATE_POLL: Duration = Duration::from_secs(5);

/// Most bytes of a certificate file.
pub const CERTIFICATE_FILE_BYTES_MAX: u64 = 1 << 20;

/// How long a broker that stops waits until its peers have acknowledged that.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

const _: () = assert!(HEARTBEATS_MAX * HEARTBEAT_BYTES_MAX + 8 <= CONTROL_FRAME_BYTES_MAX);
const _: () = assert!(CONTROL_FRAME_BYTES_MAX <= CONTROL_QUEUED_BYTES_MAX);
const _: () = assert!(shard::MESSAGE_BYTES_MAX as usize <= APPEND_SHARD_BYTES_MAX);
const _: () = assert!(
    APPEND_FRAME_BYTES_MAX + MESSAGE_OVERHEAD_BYTES + APPEND_SHARD_BYTES_MAX
        <= APPEND_QUEUED_BYTES_MAX,
    "the largest message fits beside those of another shard"
);
const _: () = assert!(
    shard::PEER_BYTES_INFLIGHT_MAX <= APPEND_QUEUED_BYTES_MAX as u64,
    "the entries that a broker may have on their way to another one fit the queue, but for headers"
);
const _: () = assert!(APPEND_FRAME_BYTES_MAX <= RECEIVED_BYTES_MAX);
const _: () = assert!(
    BULK_REQUESTS_MAX * BULK_FRAME_BYTES_MAX + BULK_BYTES_MAX <= RECEIVED_BYTES_MAX,
    "requests of the peer and answers of the peer do not wait for each other"
);
const _: () = assert!(2 * BULK_FRAME_BYTES_MAX <= BULK_BYTES_MAX, "one request is always taken");
const _: () = assert!(RECEIVED_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(BULK_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(CLUSTER_ID_BYTES_MAX + EARLIER_STARTS_MAX * 16 < HELLO_BYTES_MAX / 2);
