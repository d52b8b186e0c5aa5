//! Segment files of a partition: write, index, read, retention, compaction.
//!
//! The records of a partition that are not in its tail in memory are in segment files: whole record
//! batches, with an index beside each file. [`Segments`] is the writer, used by one thread at a
//! time. Any number of [`Reader`]s read concurrently and never wait for a write.
//!
//! The broker appends applied batches in large pieces ([`Segments::append`]). A checkpoint makes
//! them durable ([`Segments::pending_sync`]) and stores the [`DurableEnd`] in the shard's snapshot.
//! Small tails are written to a shared file instead ([`spill`]). A fetch that the tail cannot serve
//! uses [`Reader::plan_read`], and reads the [`Stretch`] that the plan resolves to piece by piece
//! while it sends it. This crate does not know Raft, Kafka requests or clocks; batches are
//! in [`ropewalk_batch`], file access in [`ropewalk_disk`].
//!
//! # Example
//!
//! Append batches, make them durable, and read them after a restart at the durable end:
//!
//! ```
//! use std::sync::Arc;
//!
//! use ropewalk_batch::{Builder, StampedBatch};
//! use ropewalk_disk::{Disk, Options, RealDisk};
//! use ropewalk_segment::{FileCache, SegmentConfig, Segments};
//!
//! let root = tempfile::tempdir()?;
//! let dir = root.path().join("partition-0");
//! let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(Options::default()));
//! let files = Arc::new(FileCache::new(64));
//! let now_ms = 1_700_000_000_000;
//!
//! let mut segments = Segments::open(disk.clone(), files.clone(), dir.clone(), None, 0)?;
//! let batch = |base_offset, value: &str| {
//!     let bytes = Builder::new().record(now_ms, Some(b"key"), Some(value.as_bytes())).build();
//!     StampedBatch::new(bytes, base_offset, 1)
//! };
//! segments.append(&[batch(0, "first")?, batch(1, "second")?], now_ms, &SegmentConfig::default())?;
//! let end = segments.sync()?;
//! assert_eq!(end.next_offset, 2);
//! drop(segments);
//!
//! // After a restart. A snapshot of the shard holds `end`; recovery cuts everything behind it.
//! let segments = Segments::open(disk, files, dir, Some(&end), 0)?;
//! assert!(segments.damages().is_empty());
//! let batches = segments.reader().read(1, 1 << 20, true)?;
//! assert_eq!(StampedBatch::read(batches[0].clone())?.base_offset, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Invariants
//!
//! - **D2.** A failed fsync is final: every later call of that [`Segments`] returns the same error.
//! - **D3.** All returned bytes were verified, including the prefixes of batches. Damage is an
//!   error with file and position; nothing is skipped.
//! - **O4.** Segments follow one another without gap or overlap: each ends where the next begins.
//! - **R1.** An idle partition has no open file and no buffer; the number of open files is bounded
//!   for all partitions together.
//! - Sealed segments never change. Compaction replaces whole segments.
//!
//! # After a crash
//!
//! [`Segments::open`] cuts everything behind the durable end, whatever its checksums are. It
//! completes a committed replacement of compaction and removes an uncommitted one.

mod error;
mod durable_end;
mod files;
mod index;
mod segments;
mod view;
mod recover;
mod read;
mod stretch;
mod suspects;
mod lookup;
pub mod spill;
pub mod retention;
pub mod compaction;
pub mod copy;
mod repair;
pub mod salvage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use durable_end::DurableEnd;
pub use error::{Damage, Result, SegmentError};
pub use files::FileCache;
pub use index::BLOCK_BYTES_MAX;
pub use lookup::EpochEnd;
pub use read::{READ_BYTES_MAX, ReadPlan, Reader, Span};
pub use segments::{PendingSync, SegmentConfig, Segments};
pub use stretch::{Piece, Stretch};
pub use view::SegmentInfo;

#[cfg(test)]
mod tests;
