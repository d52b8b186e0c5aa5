//! The bounded queues between callers and the connection to a peer, one for each lane.
//!
//! A queue never waits: it takes a message or answers why not. It belongs to one connection at a
//! time, identified by its [`LinkId`]. When that ends, the queue is emptied: Raft sends again what
//! still matters, and old messages would only delay it.

use std::any::Any;
use std::sync::Arc;

use tokio::sync::Notify;

pub(crate) mod append;
pub(crate) mod bulk;
pub(crate) mod control;

/// Identifies a connection of this process, so that a task of an earlier connection takes nothing
/// from the queue of a later one.
pub(crate) type LinkId = u64;

/// Something of the caller's that is dropped when a message is no longer held here, because it was
/// handed to the connection or is lost.
pub type Held = Box<dyn Any + Send + Sync>;

/// Whether a message was taken. A message that was taken may still be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// The message waits to be sent.
    Taken,
    /// A bound of the lane is reached, or the message is larger than the lane allows.
    Full,
    /// There is no connection to the broker.
    NotConnected,
}

/// What the task that sends from a queue does next.
#[derive(Debug)]
pub(crate) enum Next<T> {
    /// Send this frame.
    Send(T),
    /// Wait for this, then ask again.
    Wait(Arc<Notify>),
    /// The queue belongs to another connection, or to none: the task ends.
    Ended,
}
