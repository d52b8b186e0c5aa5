//! The receiving side of the caller.

use std::pin::Pin;

use bytes::Bytes;
use ropewalk_shard::{BrokerId, Payload, ShardId};

/// A future of [`Inbox`].
pub type Delivery<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Takes what other brokers send. The sender is the broker that the certificate names; nothing
/// else in a message is verified.
pub trait Inbox: Send + Sync + 'static {
    /// A message of the control lane: a vote, a heartbeat, or an answer of a follower. It is called
    /// on a task of the runtime and must not block; a message that cannot be taken is dropped.
    fn control(&self, from: BrokerId, shard: ShardId, message: Bytes);

    /// A message of the append lane. The next message of the same shard is delivered when the
    /// future has ended, or after [`crate::limits::APPEND_DELIVERY_MAX`]; the future is then
    /// dropped, and the message with it.
    fn append(&self, from: BrokerId, shard: ShardId, message: Bytes) -> Delivery<'_, ()>;

    /// A request of the bulk lane. The future ends with the answer, which may be empty, or with
    /// `None` if there is none. It is dropped when the connection ends or the other side no longer
    /// waits.
    fn request(&self, from: BrokerId, request: Bytes) -> Delivery<'_, Option<Payload>>;

    /// A connection for messages exists. This and [`Self::disconnected`] are called in the order of
    /// the changes, with a lock held: they must neither block nor wait for a connection. If the
    /// peer connects again before the end of its earlier connection is noticed, there is no
    /// [`Self::disconnected`] in between.
    fn connected(&self, peer: Connected);

    /// There is no connection for messages any more: messages to the peer are lost.
    fn disconnected(&self, peer: BrokerId);

    /// The process of the peer, to which there was a connection for messages, has ended: its port
    /// is closed. Its connections end now. This is not called for each process that ends, and it
    /// may be wrong about a peer whose packets are refused on their way.
    fn ended(&self, peer: BrokerId);
}

/// A peer that has connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connected {
    /// Id of the peer.
    pub broker: BrokerId,
    /// Number of its start.
    pub incarnation: u64,
    /// Its feature level.
    pub features: u32,
    /// The version of the protocol that both sides use.
    pub protocol: u16,
}
