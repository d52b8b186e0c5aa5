//! The seam between the cluster and the connections to the other brokers.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use ropewalk_peer::{
    Class, Held, PeerAddress, PeerFigures, Peers, RequestError, Sent, ServiceError,
};
use ropewalk_shard::message::Message;
use ropewalk_shard::{BrokerId, HistoryId, Payload, ShardId};

/// The answer to a request, once it is there. Dropping it gives the request up.
pub type Reply = BoxFuture<'static, Result<Bytes, RequestError>>;

/// Serves connections until they are stopped.
pub type Run = BoxFuture<'static, Result<(), ServiceError>>;

/// The connections to the other brokers: those of [`Peers`], or simulated ones. What arrives is
/// given to an [`Inbox`](ropewalk_peer::Inbox).
pub trait Connections: Send + Sync + 'static {
    /// Replaces the brokers to connect to: see [`Peers::set_peers`].
    fn set_peers(&self, addresses: &BTreeMap<BrokerId, PeerAddress>);

    /// Sends a message without waiting: see [`Peers::send_held`].
    fn send_held(
        &self,
        to: BrokerId,
        of: (ShardId, HistoryId),
        message: &Message,
        held: Option<Held>,
    ) -> Sent;

    /// Sends the heartbeats that wait: see [`Peers::flush_heartbeats`].
    fn flush_heartbeats(&self);

    /// Looks whether the processes of the other brokers exist: see [`Peers::look`].
    fn look(&self) -> BoxFuture<'_, ()>;

    /// See [`Peers::request`].
    ///
    /// # Errors
    /// When the request is not taken.
    fn request(&self, to: BrokerId, request: Payload) -> Result<Reply, Sent>;

    /// See [`Peers::local_addr`]; `None` if there is no such socket.
    fn local_addr(&self, class: Class) -> Option<SocketAddr>;

    /// What is measured of each broker: see [`Peers::figures`].
    fn figures(&self) -> Vec<PeerFigures>;

    /// Connections of unknown brokers that were refused: see [`Peers::unknown_refused`].
    fn unknown_refused(&self) -> u64;

    /// Ends all connections: see [`Peers::stop`].
    fn stop(&self);
}

impl Connections for Peers {
    fn set_peers(&self, addresses: &BTreeMap<BrokerId, PeerAddress>) {
        Self::set_peers(self, addresses);
    }

    fn send_held(
        &self,
        to: BrokerId,
        (shard, history): (ShardId, HistoryId),
        message: &Message,
        held: Option<Held>,
    ) -> Sent {
        Self::send_held(self, to, (shard, history), message, held)
    }

    fn flush_heartbeats(&self) {
        Self::flush_heartbeats(self);
    }

    fn look(&self) -> BoxFuture<'_, ()> {
        Box::pin(Self::look(self))
    }

    fn request(&self, to: BrokerId, request: Payload) -> Result<Reply, Sent> {
        Self::request(self, to, request).map(|reply| Box::pin(reply) as Reply)
    }

    fn local_addr(&self, class: Class) -> Option<SocketAddr> {
        Self::local_addr(self, class).ok()
    }

    fn figures(&self) -> Vec<PeerFigures> {
        Self::figures(self)
    }

    fn unknown_refused(&self) -> u64 {
        Self::unknown_refused(self)
    }

    fn stop(&self) {
        Self::stop(self);
    }
}
