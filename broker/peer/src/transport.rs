//! QUIC's settings, each as a constant with its reason, and the UDP sockets.
//!
//! Datagrams of QUIC are not used: a vote must arrive, and merged heartbeats are one small frame on
//! the stream with the highest priority.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig,
    ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use ropewalk_shard::limits as shard;
use socket2::{Domain, Protocol, Socket, Type};

use crate::certificates::Credentials;
use crate::hello::Class;
use crate::limits;

/// A connection without any packet for so long is dead: a process that is killed sends nothing, and
/// its peers dial the next one only when this connection has ended. Two election timeouts.
pub const IDLE_TIMEOUT: Duration =
    Duration::from_millis(2 * shard::TICK_MS * shard::ELECTION_TICKS as u64);

/// Interval of keep-alive packets on an idle connection. Three may be lost before
/// [`IDLE_TIMEOUT`].
pub const KEEP_ALIVE: Duration = Duration::from_millis(500);

/// Round-trip time before the first measurement: brokers are in one region. With the default
/// (333 ms), a lost packet of a handshake costs a second.
pub const INITIAL_RTT: Duration = Duration::from_millis(50);

/// Size of UDP payloads that every path takes, bytes: IPv6 requires an MTU of 1280, of which the
/// headers of IPv6 and UDP take 48. Packets have this size at first, and again when the path stops
/// taking the size that was found.
pub const MTU_MIN: u16 = 1232;

/// Largest UDP payload that is tried, bytes. On networks with jumbo frames it more than halves the
/// CPU time per byte. Above 6,553 a batch of ten packets exceeds 64 KiB, and the kernel refuses it.
pub const MTU_MAX: u16 = 6500;

/// How often a larger packet size is searched for.
pub const MTU_INTERVAL: Duration = Duration::from_secs(120);

/// How long after a fall to [`MTU_MIN`] a larger size is searched for. Congestion looks like a path
/// that takes no large packets, so the fall is often an error.
pub const MTU_COOLDOWN: Duration = Duration::from_secs(10);

/// Bytes in flight before the first acknowledgement: a path inside of a region carries far more
/// than QUIC's default of ten packets.
pub const INITIAL_WINDOW: u64 = 256 << 10;

/// Size of the buffers of a UDP socket, bytes, as far as the kernel allows. With its default,
/// thousands of packets are lost when a task runs late.
pub const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Bytes that a peer may send before its hello is accepted.
pub const RECEIVE_WINDOW_BEFORE_HELLO: u32 = 16 << 10;

/// Bytes that a peer may send before they are read.
pub const fn receive_window(class: Class) -> u32 {
    match class {
        Class::Raft => 16 << 20,
        Class::Bulk => 12 << 20,
    }
}

/// Bytes that a peer may send on one stream before they are read.
///
/// On an append stream four messages of the usual largest size, so that the sender does not wait
/// for each. On a bulk stream a whole frame.
pub const fn stream_receive_window(class: Class) -> u32 {
    match class {
        Class::Raft => 4 * shard::MESSAGE_BYTES_MAX as u32,
        Class::Bulk => limits::BULK_FRAME_BYTES_MAX as u32 + (64 << 10),
    }
}

/// Bytes that are handed to QUIC and not acknowledged yet. Slices of larger allocations count with
/// their own length.
pub const fn send_window(class: Class) -> u64 {
    match class {
        Class::Raft => 8 << 20,
        Class::Bulk => 4 << 20,
    }
}

/// Whether streams of equal priority take turns.
///
/// In the bulk class they do not: a piece that is complete is of use, two halves are not. In the
/// raft class they must: without turns, quinn sends a stream that it has begun until all of its
/// data is sent, even if a stream of higher priority has data; a busy shard would hold up the
/// heartbeats and the other shards.
pub const fn send_fairness(class: Class) -> bool {
    matches!(class, Class::Raft)
}

/// Priority of the stream of the control lane. All other streams have 0.
pub const CONTROL_PRIORITY: i32 = 100;

const _: () = assert!(KEEP_ALIVE.as_millis() * 4 <= IDLE_TIMEOUT.as_millis());
const _: () = assert!(10 * MTU_MAX as u32 <= u16::MAX as u32, "a batch of packets is sent at once");
const _: () = assert!(limits::HELLO_BYTES_MAX as u32 <= RECEIVE_WINDOW_BEFORE_HELLO);
const _: () = assert!(stream_receive_window(Class::Raft) <= receive_window(Class::Raft) / 4);
const _: () = assert!(stream_receive_window(Class::Bulk) <= receive_window(Class::Bulk) / 4);

/// The settings of connections of a class before the hello.
fn settings(class: Class) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MTU_MAX).interval(MTU_INTERVAL).black_hole_cooldown(MTU_COOLDOWN);
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW);
    let idle = IdleTimeout::try_from(IDLE_TIMEOUT).expect("it is a few seconds");
    let mut settings = TransportConfig::default();
    settings
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .initial_mtu(MTU_MIN)
        .min_mtu(MTU_MIN)
        .mtu_discovery_config(Some(mtu))
        .congestion_controller_factory(Arc::new(congestion))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW_BEFORE_HELLO))
        .stream_receive_window(VarInt::from_u32(stream_receive_window(class)))
        .send_window(send_window(class))
        .send_fairness(send_fairness(class))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .datagram_receive_buffer_size(None);
    settings
}

/// Lets the peer use the connection: its hello is accepted.
pub(crate) fn widen(connection: &Connection, class: Class) {
    let (one_way, both_ways) = match class {
        // One stream for each shard, and that of the control lane.
        Class::Raft => (limits::APPEND_SHARDS_MAX + 1, 1),
        Class::Bulk => (0, limits::BULK_REQUESTS_MAX + 1),
    };
    let count = |streams: usize| VarInt::try_from(streams).expect("it is bounded");
    connection.set_max_concurrent_uni_streams(count(one_way));
    connection.set_max_concurrent_bi_streams(count(both_ways));
    connection.set_receive_window(VarInt::from_u32(receive_window(class)));
}

/// QUIC's configuration of both sides of a class.
#[derive(Clone)]
pub(crate) struct Configs {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: ClientConfig,
}

impl Configs {
    pub(crate) fn new(credentials: &Credentials, class: Class) -> Self {
        let settings = Arc::new(settings(class));
        let mut server = ServerConfig::with_crypto(credentials.server.clone());
        server.transport_config(settings.clone()).max_incoming(limits::HANDSHAKES_MAX);
        let mut client = ClientConfig::new(credentials.client.clone());
        client.transport_config(settings);
        Self { server: Arc::new(server), client }
    }
}

/// An endpoint with its own UDP socket, which dials and accepts connections. It needs a runtime.
pub(crate) fn endpoint(address: SocketAddr, server: &ServerConfig) -> io::Result<Endpoint> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(MTU_MAX).map_err(io::Error::other)?;
    let socket = socket(address)?;
    Endpoint::new(config, Some(server.clone()), socket, Arc::new(TokioRuntime))
}

fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    tracing::debug!(
        %address,
        receive_bytes = socket.recv_buffer_size().unwrap_or_default(),
        send_bytes = socket.send_buffer_size().unwrap_or_default(),
        "UDP socket bound"
    );
    Ok(socket.into())
}
