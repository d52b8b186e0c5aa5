//! Transfers the files of a shard to a replica on another broker, outside of Raft.
//!
//! A replica that lacks entries which the leader's log no longer has (a new learner, or a follower
//! that was away for long) is brought up by files. Raft learns only the end of it: the snapshot is
//! installed and the log begins behind it. The last entries then come through Raft as usual.
//!
//! ```text
//! leader's broker: Source                          receiver's broker: Receiver
//!   pins the newest snapshot and its files
//!                         Offer: index, term, members, set  ->
//!                    <-  Fetch: the list, then piece by piece
//!                         Piece                             ->
//!                                                    verifies all of it
//!                                                    installs: segments, snapshot, log
//!                    <-  Stop: installed
//! ```
//!
//! Both sides are driven from outside: messages and the time in, messages out. [`send`] decides
//! without files; [`Source`] reads them. [`manifest`] says what a receiver has and lacks;
//! [`Receiver`] writes it.
//!
//! # A set that ends, and restarts
//!
//! A set ends when its sender restarts, when no receiver uses it, or when a full disk needs its
//! files. The receiver then asks for another set, of a newer snapshot or even of another replica,
//! and fetches only the blocks that differ: each block of a segment is identified by the checksum
//! in the segment's index. What is installed is always exactly one set. So a receiver never has an
//! old record of a key without the newer one or the tombstone, however often sets changed
//! meanwhile.
//!
//! # Invariants
//!
//! - **D1** a replica whose log has the last entry of a set does not install it.
//! - **D3** each message has a checksum; each block, spill extent and snapshot is verified when it
//!   is received, and again on the disk before it is installed. What does not match is fetched
//!   again.
//! - **D4** a replica that is being received does not exist for Raft before it is installed.
//! - **O4** a set holds every record from the log start on, at offsets that do not change. The log
//!   may start in the middle of a batch.
//! - **R1** at most [`limits::TRANSFERS_MAX`] transfers are sent, and as many received, at once;
//!   each has one piece in memory and the list of its files. Each direction has a rate.
//!
//! # After a crash
//!
//! Received files are in directories of new incarnations, which no snapshot names. The manifest
//! names them, so recovery keeps them as long as the manifest exists, and the transfer continues
//! where it was. Once `transfers/<shard>/install` is durable, recovery completes the installation.
//! Without a manifest or when the shard no longer needs it, recovery removes everything.

pub mod message;
pub mod limit;
pub mod manifest;
pub mod send;
mod pin;
mod source;
mod incoming;
mod check;
mod receive;
mod verify;
mod receiver;
mod install;
mod leftovers;

pub(crate) use install::{CompleteError, complete, hard_state_after};
pub use install::{LogRestart, Position};
pub(crate) use leftovers::{Transfers, forget};
pub use receiver::{Claim, Need, Receiver};
pub use source::Source;

use crate::limits;

/// Bounds of the transfers of a broker, in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Most bytes per second.
    pub bytes_per_second: u64,
    /// A receiver takes no file that would leave less free space on the disk.
    pub disk_free_bytes_min: u64,
    /// What was received is made durable after so many bytes at the latest. A restart loses no
    /// more.
    pub unsynced_bytes_max: u64,
    /// A receiver asks for at most so many bytes at once, and has so many in memory; at most
    /// [`limits::TRANSFER_PIECE_BYTES_MAX`].
    pub piece_bytes_max: u32,
}

impl Default for Options {
    fn default() -> Self {
        let (bytes_per_second, unsynced_bytes_max) = (64 << 20, 64 << 20);
        Self {
            bytes_per_second,
            disk_free_bytes_min: 256 << 20,
            unsynced_bytes_max,
            piece_bytes_max: limits::TRANSFER_PIECE_BYTES_MAX,
        }
    }
}

#[cfg(test)]
mod tests;
