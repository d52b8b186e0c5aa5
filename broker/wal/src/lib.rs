//! The broker's write-ahead log: group commit, recovery, recycling of files.
//!
//! One log holds the Raft logs of all shards of a broker, interleaved. All records that the shards
//! have ready are written as one *round* and made durable with one sync, so the cost of a sync is
//! shared. For the log, shards are keys and entries are bytes.
//!
//! The Raft engine of a shard submits [`Record`]s, the [`Writer`] thread collects them into rounds,
//! and [`Wal`] writes each round through [`ropewalk_disk`]. On start [`Wal::open`] returns the
//! durable records as [`RecoveredLog`]. After a checkpoint the caller reports with [`Wal::release`]
//! which entries it no longer needs.
//!
//! # Example
//!
//! Open a log, append entries, wait until they are durable, and read them after a restart:
//!
//! ```
//! use std::sync::{Arc, mpsc};
//!
//! use ropewalk_disk::{Disk, RealDisk};
//! use ropewalk_wal::{Answers, Options, Record, ReplicaKey, Submission, Wal, Writer};
//!
//! let dir = tempfile::tempdir()?;
//! let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(ropewalk_disk::Options::default()));
//! let options = Options { file_bytes: 4 << 20, first_file_bytes: 4 << 20, ..Options::default() };
//! let key = ReplicaKey { shard: 1, replica: 7 };
//!
//! let (wal, recovered) = Wal::open(Arc::clone(&disk), dir.path(), options)?;
//! assert!(recovered.replicas.is_empty());
//!
//! // The writer thread joins the submissions of all shards into rounds.
//! let wal = Writer::spawn(wal, Answers::give, |_round| {})?;
//! let created = Record::Created { key, index: 0, term: 0, conf_state: Default::default() };
//! let entry = |index, data: &'static str| Record::Entry {
//!     key,
//!     index,
//!     term: 1,
//!     kind: 0,
//!     data: bytes::Bytes::from(data).into(),
//! };
//! let (done, durable) = mpsc::channel();
//! let records = vec![created, entry(1, "first"), entry(2, "second")];
//! wal.submit(Submission::new(records, move |result| {
//!     let _ = done.send(result);
//! }));
//! durable.recv()??;
//! wal.close();
//!
//! // After a restart.
//! let (wal, recovered) = Wal::open(disk, dir.path(), options)?;
//! let replica = &recovered.replicas[&key];
//! assert_eq!(replica.damage, None);
//! assert_eq!(replica.entries.len(), 2);
//! assert_eq!(wal.read(&replica.entries[1].location)?, "second");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Invariants
//!
//! - **Durable before done (D1).** Round n + 1 is written only after round n is durable, and a
//!   round is reported only then.
//! - **A failed write or sync is final (D2).** The log refuses all further rounds. The process
//!   stops; nothing is retried.
//! - **Everything read is checked (D3).** Every file header, table, round and record has a
//!   checksum. The checksums of the headers of rounds and records are seeded with a random salt of
//!   the file. So neither the old content of a recycled file nor a client's payload that looks like
//!   a round is accepted as one. The body of a record has one checksum, without a seed, which its
//!   seeded header names with the length: a body is only looked for where a valid header says so.
//! - **Needed files are kept (D6).** A file is recycled only when every entry in it is covered by a
//!   durable `Truncated`, `SnapshotInstalled` or `ReplicaDestroyed` record *and* the caller has
//!   released it. Votes and configurations stay in the log: every file begins with a table of all
//!   replicas.
//!
//! # The format, version 2
//!
//! Numbers are little-endian, checksums CRC-32C. A log is a directory of files `<number, 16 hex
//! digits>.wal`. A file is preallocated and has the fixed size that its label states; a shorter one
//! is damaged. It gets its name when its label is durable, and keeps it.
//!
//! ```text
//! file      label (4096) · the same again (4096) · preamble (4096) · the same again (4096) ·
//!           table · the same again · rounds
//! label     magic "RWALFILE" · version u32 · crc u32 of the block without this field ·
//!           reservation u64 · salt u64 · file bytes u64 · number u64 · sequence u64, 0 while the
//!           file is reserved · sealed round u64 · purpose u32 (1 spare, 2 start) · zeroes
//! preamble  magic "RWALHEAD" · version u32 · crc u32 of the block without this field ·
//!           reservation u64 · salt u64 · file bytes u64 · sequence u64 · first round u64 ·
//!           table bytes u32 · table crc u32 · zeroes
//! table     rows u32 · rows; padded to 4096
//! row       shard u32 · replica u64 · term u64 · vote u64 · commit u64 · truncated index u64 ·
//!           truncated term u64 · last index u64 · damage (length u32, text) ·
//!           ConfState (length u32, bytes)
//! round     magic "RWRD" · header crc u32 of what follows up to 40, seeded (salt) ·
//!           file sequence u64 · round sequence u64 · length u32 · heads crc u32, seeded (salt,
//!           round), of the directory and the headers of all records · records u32 · zero u32;
//!           directory · records; padded to 4096
//! directory crc u32, seeded (salt, round) · keys u32 · round sequence u64 ·
//!           keys × { shard u32 · records u32 · replica u64 }
//! record    header crc u32, seeded (salt, round) · body crc u32 · body length u32 · kind u8 ·
//!           entry kind u8 · zero u16 · shard u32 · zero u32 · replica u64 · index u64 ·
//!           term u64; body; padded to 8
//! ```
//!
//! Magic, version and crc of the label have the same position in every later version. Padding is
//! zero. The table of a file is the state before its first round. Round sequences are dense over
//! all files. A file supersedes older ones from its first round on: recovery begins a new file with
//! a copy of the last round.
//!
//! Version 1 had the sequence in the name of a file, and renamed a file that began or was released.
//! It is refused.
//!
//! # How a file begins and is reserved again
//!
//! Only the header is written while a round waits; the rest is done by another thread. Of two valid
//! copies of a label, that with the higher reservation counts, then one with a sequence. A header
//! counts if a copy of the preamble and of the table are valid and its reservation and salt are
//! those of the label, or if its reservation is higher than that of the label.
//!
//! - *Created*: zeroes, then both copies of the label, then the name are made durable. The file is
//!   reserved.
//! - *Begins*: the header is written, in one write. If it is torn, the file is still reserved.
//! - *Marked*: the first copy of the label gets the sequence and the sealed round. From here on a
//!   header that does not count is damage.
//! - *Sealed*, once a second and when the log is idle or closed: the same with a higher sealed
//!   round.
//! - *Released*: the first copy of the label, then the second one, gets the next reservation and a
//!   new salt. The file is reserved: older headers and rounds no longer count.
//!
//! A file is released only after the records that cover its entries are durable, and oldest first,
//! so the files that have begun are always the newest ones without a gap. A start reserves every
//! reserved file again, because what an earlier start or the page cache left in it must not count.
//!
//! # After a crash
//!
//! [`Wal::open`] reads rounds in the order of writing; a later entry at index i replaces all
//! entries at or above i. At the end of the newest file, the first invalid round without a valid
//! one behind it is a torn tail and is cut: it was never reported as durable. Any other missing
//! round is damage. Recovery reads the intact records of a damaged round, using their checksums and
//! the round's directory, and sets [`RecoveredReplica::damage`] only for the replicas that lost a
//! record. This mark is kept in the tables, so it outlasts the damaged file, until the replica is
//! destroyed or [`Record::LossAccepted`] is written.
//!
//! Recovery then begins a new file, copies the last round to it, syncs it, and only then replays
//! that round: after a failed sync the page cache may have bytes that are not on the disk.
//!
//! The rounds at the end of the newest file have no later one that shows that they existed. So the
//! label says up to which round all were durable, and if one of these is missing, that is damage.
//! It is written every second with rounds, when the log becomes idle or is closed, and at each
//! start. Rounds that were written since, and that the disk then loses completely although it
//! reported them as durable, are not noticed.
//!
//! # Limits
//!
//! A round is at most as large as its file. Recovery keeps the locations of payloads in memory, not
//! the payloads.

mod record;
mod layout;
mod replicas;
mod label;
mod header;
mod frame;
mod usage;
mod files;
mod plan;
mod recovered;
mod located;
mod reader;
mod active;
mod aside;
mod log;
mod recover;
mod writer;

pub use aside::SetAside;
pub use files::Location;
pub use log::{
    FILE_BYTES, Options, RELEASE_BYTES, RESERVE_BYTES, Round, SetAsideError, Wal, WalError,
    round_records_bytes_max,
};
pub use reader::Reader;
pub use record::{Chunk, HardState, LogId, Payload, Record, ReplicaKey};
pub use recovered::{EntryMeta, OpenError, RecoveredLog, RecoveredReplica};
pub use writer::{
    Answers, Body, Completion, Guard, ROUND_BYTES_MAX, RoundReport, Stats, Submission, WalHandle,
    Writer,
};

#[cfg(test)]
mod tests;
