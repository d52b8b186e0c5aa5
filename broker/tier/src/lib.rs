//! Older records in a bucket of S3 or in a directory, and back.
//!
//! The crate knows formats, names and the bucket. It decides nothing: which range is uploaded, what
//! a shard's manifest contains, and what is deleted when, is decided by the caller.
//!
//! # Contents, in the order of an upload
//!
//! 1. [`ClusterId`], [`PartitionKey`], [`Name`]: what an object is called. [`ObjectRef`] and
//!    [`PageRef`] are what a manifest keeps; together with the partition they give the name.
//! 2. [`Encoder`] makes an [`EncodedObject`] from the batches of a range.
//! 3. [`Bucket::open`] opens a bucket from [`BucketSettings`], [`probe()`] refuses a store that
//!    would lose data, [`hold_claim`] makes sure that one cluster writes to a prefix.
//! 4. [`Bucket::put_if_absent`] puts the object and verifies it. Only then may the caller add the
//!    [`ObjectRef`] to its manifest, and only when that is committed delete local records (T1).
//! 5. [`Page`] is a part of a manifest in the bucket, for partitions with many objects.
//! 6. [`TierReader`] reads records through a bounded cache, finds offsets by timestamp, and objects
//!    by page. [`fetch_footer`] also reads the producers of an object, for a restore.
//! 7. [`verify`] checks every byte of an object, and [`check`](mod@check) a whole bucket, as a
//!    scrubber does.
//! 8. [`Checkpoint`] is what a restore of a lost cluster needs beside the objects: the topics, and
//!    for each shard the offsets of groups and the manifests of its partitions.
//! 9. [`rebuild`](mod@rebuild) finds what a partition can be restored from.
//!
//! Errors are a [`TierError`], whose [`Remedy`] says what the caller does next, or a
//! [`FormatError`] of bytes that the caller gave. All bounds are in [`limits`].
//!
//! # Example
//!
//! A leader uploads a range, and a consumer reads it:
//!
//! ```
//! use ropewalk_batch::{Builder, StampedBatch};
//! use ropewalk_tier::{
//!     Bucket, Claim, ClusterId, Encoder, Origin, PartitionKey, Push, ReaderLimits, TierReader,
//!     hold_claim, probe,
//! };
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bucket = Bucket::memory();
//! let cluster = ClusterId::new("5L6g3nShT-eMCtK--X86sw")?;
//! probe(&bucket).await?;
//! hold_claim(&bucket, &Claim { cluster: cluster.clone(), epoch: 1, holder: 0x5eed }).await?;
//!
//! // Batches as they are stored: with offset and leader epoch.
//! let batch = |offset, text: &[u8]| {
//!     let bytes = Builder::new().record(1_700_000_000_000 + offset, None, Some(text)).build();
//!     StampedBatch::new(bytes, offset, 3)
//! };
//! let partition = PartitionKey { cluster, topic: uuid::Uuid::from_u128(7), index: 0 };
//! let mut encoder = Encoder::new(partition.clone(), Origin { history: 1, term: 3 }, 0);
//! for batch in [batch(0, b"first")?, batch(1, b"second")?] {
//!     assert_eq!(encoder.push(&batch)?, Push::Added);
//! }
//! let end = encoder.next_offset();
//! let object = encoder.finish(end)?;
//! bucket.put_if_absent(&object.name.to_string(), &object.content).await?;
//! let manifest = object.reference; // Now it may be proposed to the shard.
//!
//! let reader = TierReader::new(bucket, ReaderLimits::default());
//! let stretch = reader.read(&partition, &manifest, 1, 1 << 20).await?;
//! assert_eq!(stretch.next_offset, 2);
//! let found = reader.offset_at(&partition, &manifest, 0, 1_700_000_000_001).await?;
//! assert_eq!(found.map(|found| found.offset), Some(1));
//! # Ok(())
//! # }
//! ```
//!
//! # Invariants
//!
//! - Nothing in a bucket is replaced: names depend on contents, and puts are conditional.
//! - Every byte that is read is verified before it is returned.
//! - **R1.** No length from a bucket sizes an allocation beyond its bound, no operation is repeated
//!   without a bound, and caches and fetches have bounds in bytes.

mod bucket;
mod chain;
pub mod check;
mod checkpoint;
mod claim;
mod content;
mod error;
mod folders;
#[cfg(any(test, feature = "testing"))]
pub mod faulty;
mod format;
mod identity;
pub mod limits;
mod manifest;
mod names;
mod newest;
mod object;
mod page;
mod probe;
mod reader;
pub mod rebuild;
#[cfg(feature = "testing")]
pub mod testing;

pub use bucket::{
    AddressStyle, Bucket, BucketCounts, BucketSettings, BucketUrl, Credentials, Listed, PutOutcome,
};
pub use checkpoint::{
    CatalogCheckpoint, Checkpoint, CheckpointOrigin, Configs, ConfigsOf, Contents,
    EncodedCheckpoint, GroupOffset, GroupOffsets, ListedCheckpoint, PartitionCheckpoint,
    PartitionHome, ShardCheckpoint, TierCheckpoint, TopicCheckpoint, list_checkpoints,
    read_checkpoint,
};
pub use claim::{Claim, check_owner, current as current_claim, hold as hold_claim};
pub use content::Content;
pub use error::{Operation, Remedy, TierError};
pub use folders::{Folder, Folders, Found, list_folders};
pub use format::FormatError;
pub use identity::{Identity, Origin};
pub use manifest::Manifest;
pub use names::{
    CheckpointName, CheckpointOf, ClusterId, Kind, Level, Name, NameError, ObjectRef, PageRef,
    PartitionKey,
};
pub use newest::{NewestCheckpoints, newest_checkpoints};
pub use object::{
    Block, EncodeError, EncodedObject, Encoder, EpochStart, Footer, Producer, ProducerBatch, Push,
    Tail, batches, read_tail, tail_range, verify,
};
pub use page::{EncodedPage, Entries, Page};
pub use probe::{ProbeReport, probe};
pub use reader::{ReaderLimits, Stretch, TierReader, fetch_footer};
