//! Segment files of a partition: write, index, read, retention, compaction.
//!
//! What a partition keeps beyond its tail in memory lies here as files of whole record batches, an index
//! beside each. [`Segments`] is the writer's side, owned by one thread at a time; any number of
//! [`Reader`]s read at the same time and never wait for a write.
//!
//! # Place in the walk
//!
//! The shard writes what is applied and durable in its log, in large pieces ([`Segments::append`]), makes
//! it durable at a checkpoint ([`Segments::sync`]) and keeps the [`DurableEnd`] in its snapshot. Small
//! tails go to a shared file instead ([`spill`]). A fetch that the tail cannot serve is a
//! [`Reader::plan_read`]. Raft, Kafka requests and clocks are unknown here; batches are
//! `ropewalk_batch`'s, files are `ropewalk_disk`'s.
//!
//! # Invariants
//!
//! - **D2.** A failed fsync is final: every later call of that [`Segments`] returns the same error.
//! - **D3.** Every byte that is returned was checked, prefixes included. What fails is an error that
//!   names file and position; nothing is skipped.
//! - **O4.** Segments follow one another without gap or repeat: each ends where the next begins.
//! - **R1.** A partition that is idle holds no file and no buffer; open files have one bound for all.
//! - Sealed segments never change, but that compaction replaces them as a whole.
//!
//! # After a crash
//!
//! [`Segments::open`] cuts everything at the durable end, whatever its checksum says, carries a committed
//! replacement through and removes an uncommitted one.

mod error;
mod durable_end;
mod files;
mod index;
mod segments;
mod view;
mod recover;
mod read;
mod lookup;
pub mod spill;
pub mod retention;
pub mod compaction;
mod repair;
pub mod salvage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use durable_end::DurableEnd;
pub use error::{Damage, Result, SegmentError};
pub use files::FileCache;
pub use index::BLOCK_BYTES_MAX;
pub use read::{READ_BYTES_MAX, ReadPlan, Reader, Span};
pub use segments::{SegmentConfig, Segments};
pub use view::SegmentInfo;

#[cfg(test)]
mod tests;
