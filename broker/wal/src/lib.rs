//! The broker's write-ahead log: group commit, recovery, recycling.
//!
//! One log holds the Raft logs of all shards of a broker, interleaved. What all shards have
//! ready is written as one *round* and made durable at once; that is what makes durability
//! cheap. The log knows shards only as keys, and entries only as bytes.
//!
//! # Place in the walk
//!
//! The shard's Raft engine hands over [`Record`]s, the [`Writer`] gathers them into rounds,
//! [`Wal`] writes a round and says that it is durable, [`ropewalk_disk`] moves the bytes.
//! At the start [`Wal::open`] gives back what survived as [`RecoveredLog`]; a checkpoint tells
//! [`Wal::release`] what is no longer needed.
//!
//! # Invariants
//!
//! - **Durable before done.** Round n + 1 is written only after round n is durable, and a round is
//!   reported only then (D1).
//! - **A failed write or sync is final (D2).** The log refuses all further rounds. The process
//!   stops; nothing is retried.
//! - **Nothing unchecked is believed (D3).** Every file header, table, round and record has a
//!   checksum. Those of rounds and records are seeded with a random salt of the file, so that
//!   neither what a recycled file held before, nor a client's payload that looks like a round,
//!   is ever taken for one.
//! - **The log outlives what needs it (D6).** A file is recycled only when every entry in it is
//!   covered by a durable `Truncated`, `SnapshotInstalled` or `ReplicaDestroyed` record *and*
//!   the caller has released it. Votes and configurations live on: every file begins with
//!   a table of all replicas.
//!
//! # The format, version 1
//!
//! Numbers are little-endian, checksums CRC-32C. A log is a directory of files
//! `<sequence, 16 hex digits>.wal`. A file has a fixed size, which its header tells, and is
//! preallocated; a shorter one is damaged. It gets its name only after its header is durable.
//!
//! ```text
//! file      preamble (4096) · the same again (4096) · table · the same again · rounds
//! preamble  magic "RWALFILE" · version u32 · crc u32 of the block without this field ·
//!           sequence u64 · salt u64 · file bytes u64 · first round u64 · table bytes u32 ·
//!           table crc u32 · zeroes
//! table     rows u32 · rows; padded to 4096
//! row       shard u32 · replica u64 · term u64 · vote u64 · commit u64 · truncated index u64 ·
//!           truncated term u64 · last index u64 · damage (length u32, text) ·
//!           ConfState (length u32, bytes)
//! round     magic "RWRD" · header crc u32 of what follows up to 40, seeded (salt) ·
//!           file sequence u64 · round sequence u64 · length u32 · body crc u32, seeded (salt,
//!           round), of all after the first 40 bytes · records u32 · zero u32;
//!           directory · records; padded to 4096
//! directory crc u32, seeded (salt, round) · keys u32 · round sequence u64 ·
//!           keys × { shard u32 · records u32 · replica u64 }
//! record    header crc u32, seeded (salt, round) · body crc u32 · body length u32 · kind u8 ·
//!           entry kind u8 · zero u16 · shard u32 · zero u32 · replica u64 · index u64 ·
//!           term u64; body; padded to 8
//! ```
//!
//! Magic, version and crc of the preamble stay where they are in every version to come.
//! The table of a file is the state before its first round. Round sequences are dense over
//! all files. A file supersedes older ones from its first round on: recovery begins a fresh file
//! with a copy of the last round.
//!
//! # After a crash
//!
//! [`Wal::open`] reads rounds in the order of writing; a later entry at index i drops all at or
//! above i. At the end of the newest file the first round that does not check out and has no
//! valid one after it is a torn tail and is cut: it was never reported. Anything else that is
//! missing is damage. A damaged round is taken apart by the checksums of its records and its
//! directory, and only the replicas that lost a record carry [`RecoveredReplica::damage`]; that
//! mark is kept in the tables, so it outlives the damaged file, until the replica
//! is destroyed or [`Record::LossAccepted`] is written. Then a fresh file is begun, the last
//! round is copied there and synced, and only then anything is believed: after a failed sync
//! the page cache shows what the disk does not have.
//!
//! # Limits
//!
//! A round is as large as its file at most. Recovery keeps locations, never payloads.

mod record;
mod layout;
mod replicas;
mod header;
mod frame;
mod usage;
mod files;
mod plan;
mod recovered;
mod active;
mod aside;
mod log;
mod recover;
mod writer;

pub use aside::SetAside;
pub use files::{Location, Reader};
pub use log::{FILE_BYTES, Options, Round, SetAsideError, Wal, WalError, round_records_bytes_max};
pub use record::{HardState, Payload, Record, ReplicaKey};
pub use recovered::{EntryMeta, OpenError, RecoveredLog, RecoveredReplica};
pub use writer::{
    Answers, Body, Completion, Guard, ROUND_BYTES_MAX, RoundReport, Stats, Submission, WalHandle,
    Writer,
};

#[cfg(test)]
mod tests;
