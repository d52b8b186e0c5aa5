//! Sockets: accepts connections, cuts frames, and sends answers in the order of the requests.
//!
//! # Place in the walk
//!
//! The first room a batch enters. A frame leaves here as its bytes and comes back as the
//! chunks of an answer; what they mean is the business of a [`Service`] (the route table in
//! [`crate::handle`]).
//!
//! # Invariants
//!
//! - **O2** answers on one connection leave in the order of its requests. A Produce may begin while
//!   others of its connection are under way ([`Turn::Pipelined`]); anything else begins when
//!   all before it are answered.
//! - **R1** no length from the wire sizes an allocation; the bytes under way are bounded, for a
//!   connection and for all; an idle connection holds no buffer; who is too slow to send a frame
//!   or to take an answer is cut.
//!
//! # After a crash
//!
//! Nothing is kept here. Clients connect again and repeat what was not answered.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
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
pub use lanes::{Lane, Lanes, Share};
pub use options::{ConnectionLimits, Options};

/// The other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The name of the listener it came through: it decides which address clients are told.
    pub listener: Arc<str>,
    /// The order of the batches that come on the connection. When it ends, nothing more is begun, and the
    /// connection ends after the answers that are due: the client sends what was not taken again, in order, on another.
    pub order: SendOrder,
}

/// When a request may begin, relative to the others of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// As soon as the one before has begun, if that one is pipelined as well.
    Pipelined,
    /// When all before it are answered. Runs to its end even if the client goes away meanwhile.
    Alone,
    /// The same, but it may wait long for something to happen, and is dropped when the client
    /// goes away.
    Parked,
}

/// An answer, ready for the socket.
#[derive(Debug, Default)]
pub struct Reply {
    /// Its frame, length included; none if the request is never answered.
    pub chunks: Vec<Bytes>,
    /// Shares of a budget, given back when the client has taken the answer.
    pub held: Vec<Permit>,
}

/// An answer to come.
pub type Answer = BoxFuture<'static, Result<Reply, Close>>;

/// A frame that was recognised as a request.
pub struct Request {
    /// When it may begin.
    pub turn: Turn,
    /// Which budget its frame counts against.
    pub lane: Lane,
    /// Its first stage. The next request of the connection begins only after this has resolved, so
    /// that what is proposed here keeps the order of the requests.
    pub begin: BoxFuture<'static, Result<Answer, Close>>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("turn", &self.turn).finish_non_exhaustive()
    }
}

/// What makes answers out of frames.
pub trait Service: Send + Sync + fmt::Debug {
    /// Reads the head of a frame (it comes without its length) and says how to answer it. The frame
    /// counts against its budget until the request is answered, or for longer or shorter by `share`.
    ///
    /// # Errors
    /// When the stream cannot be trusted any more, or speaks what is not served here.
    fn accept(&self, peer: &Arc<Peer>, frame: Bytes, share: Share) -> Result<Request, Close>;

    /// Refuses a frame by its first two bytes (the API's key) and its size, before the rest of it is
    /// read.
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
