//! Sockets: accepts connections, splits the stream into frames, and sends responses in request
//! order.
//!
//! A frame leaves this module as its bytes, and its response comes back as chunks of bytes. A
//! [`Service`] (the route table in [`crate::handle`]) interprets them. Nothing is stored here:
//! after a crash, clients reconnect and repeat requests without a response.
//!
//! # Invariants
//!
//! - **O2** responses on one connection leave in the order of its requests. A Produce or an
//!   OffsetCommit may begin while others of its connection are in progress ([`Turn::Pipelined`]);
//!   any other request begins when all before it are answered.
//! - **R1** no length from the network sizes an allocation; the bytes in progress are bounded, per
//!   connection and in total; an idle connection holds no buffer; a client that is too slow to send
//!   a frame or to receive a response is disconnected. Of a response that is read while it is sent,
//!   the next piece is asked for when the one before has left.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use ropewalk_shard::proposal::SendOrder;

mod options;
mod accept;
mod connection;
mod frame;
mod budget;
mod lanes;
mod outbox;
mod close;
pub(crate) mod metrics;

pub use accept::Acceptor;
pub use budget::{Budget, Permit};
pub use close::Close;
pub(crate) use lanes::KeptShare;
pub use lanes::{Lane, Lanes, Share};
pub use options::{ConnectionLimits, Options};

/// The client side of a connection.
#[derive(Debug)]
pub struct Peer {
    /// The client's address.
    pub address: SocketAddr,
    /// The name of the listener; it decides which address clients are given.
    pub listener: Arc<str>,
    /// The order of the batches of the connection. When it is closed, no further request begins,
    /// and the connection is closed after the pending responses: the client sends the remaining
    /// batches again, in order, on a new connection.
    pub order: SendOrder,
    /// Which of the partitions of the connection's next fetch is read first.
    pub fetch_turn: AtomicUsize,
}

/// When a request may begin, relative to the other requests of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// When the first stage of the previous request is done, if that one is pipelined as well.
    Pipelined,
    /// When all previous requests are answered. Runs to its end even if the client disconnects.
    Alone,
    /// Like `Alone`, but the request may wait long for an event, and is dropped when the client
    /// disconnects.
    Parked,
}

/// A response, ready for the socket.
#[derive(Debug, Default)]
pub struct Reply {
    /// The frame, length included, or its beginning; empty if the request is never answered.
    pub chunks: Vec<Bytes>,
    /// The rest of the frame. Only a request that is alone has one.
    pub rest: Option<Rest>,
    /// Shares of a budget, returned when the client has received the response.
    pub held: Vec<Arc<Permit>>,
}

/// The rest of a response, which is read while it is sent.
pub struct Rest {
    /// Its size, bytes.
    pub size_bytes: usize,
    /// Its chunks, some at a time. They are asked for when those before are sent. An error ends the
    /// connection.
    pub pieces: BoxStream<'static, Result<Vec<Bytes>, Close>>,
}

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rest").field("size_bytes", &self.size_bytes).finish_non_exhaustive()
    }
}

/// A pending response.
pub type Answer = BoxFuture<'static, Result<Reply, Close>>;

/// A frame that was parsed as a request.
pub struct Request {
    /// When the request may begin.
    pub turn: Turn,
    /// The budget that the frame counts against.
    pub lane: Lane,
    /// The first stage. The next request of the connection begins only after this has resolved, so
    /// that proposals keep the order of the requests.
    pub begin: BoxFuture<'static, Result<Answer, Close>>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("turn", &self.turn).finish_non_exhaustive()
    }
}

/// Parses frames and answers them.
pub trait Service: Send + Sync + fmt::Debug {
    /// Parses the header of a frame (without its length) and returns how to answer it. The frame
    /// counts against its budget until the request is answered; `share` can change that.
    ///
    /// # Errors
    /// When the frame is malformed, or its API or version is not served.
    fn accept(&self, peer: &Arc<Peer>, frame: Bytes, share: Share) -> Result<Request, Close>;

    /// Checks the size of a frame by its first two bytes (the API key), before the rest is read.
    ///
    /// # Errors
    /// When a request of this API is never as large.
    fn check_size(&self, key: i16, size_bytes: usize) -> Result<(), Close> {
        let _ = (key, size_bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
