//! Notices that the process of the peer has ended without a goodbye.
//!
//! A process that is killed sends nothing, so its peers would wait for an idle timeout. Its kernel
//! however refuses datagrams to a port that no socket is bound to any more, and says so by ICMP. A
//! connection over which nothing comes is therefore probed with a datagram of one byte, which QUIC
//! discards. So is each connection when the caller needs to know now. A peer that is suspended, or
//! cannot be reached, refuses nothing.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::UdpSocket;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Shared;
use crate::limits;

/// What is sent as a probe. No packet of QUIC begins so.
const PROBE: [u8; 1] = [0];

/// Ends the connections to the peer when its process has ended.
pub(super) async fn watch(shared: Shared) {
    let mut looks = interval(limits::SILENCE_MAX);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut received = None;
    loop {
        let is_asked = tokio::select! {
            _ = looks.tick() => false,
            () = shared.peer.look.notified() => true,
        };
        let now = shared.connection.stats().udp_rx.datagrams;
        let is_silent = !is_asked && received.replace(now) == Some(now);
        if (is_asked || is_silent) && refuses(shared.connection.remote_address()).await {
            return shared.peer_ended();
        }
    }
}

/// Whether no socket is bound to the port. It cannot be known if nothing answers.
async fn refuses(address: SocketAddr) -> bool {
    // An error means that there is no probe, for example for lack of a socket.
    matches!(timeout(limits::PROBE_TIMEOUT, probe(address)).await, Ok(Ok(true)))
}

async fn probe(address: SocketAddr) -> io::Result<bool> {
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    socket.send(&PROBE).await?;
    // Nothing is ever sent to this socket: what comes is the error.
    match socket.recv(&mut [0]).await {
        Ok(_) => Ok(false),
        Err(error) => Ok(error.kind() == io::ErrorKind::ConnectionRefused),
    }
}
