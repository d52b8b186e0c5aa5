//! What a broker reads from the bucket: records of its partitions that are no longer on its disk.
//!
//! A log answers a read between its log start and its local start with a [`RemoteRange`]. The
//! handler of a request then asks a [`RemoteLog`], which is implemented above this crate, because
//! it needs the network. It is asynchronous: a read from the bucket never occupies the thread of a
//! shard.

use std::fmt;
use std::pin::Pin;

use bytes::Bytes;
use ropewalk_shard::PartitionId;

/// Offsets of a partition that are in the bucket and not on this broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteRange {
    /// The first offset that was asked for.
    pub from: i64,
    /// The local start of the partition: the first offset that is on this broker.
    pub until: i64,
}

/// Whole batches, the first of which contains the offset that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteRecords {
    /// The batches in order, in pieces that end between batches. None if the objects have no batch
    /// between the offset that was asked for and `next_offset`.
    pub pieces: Vec<Bytes>,
    /// Total size of `pieces`.
    pub size_bytes: usize,
    /// Most memory that `pieces` hold, bytes: each may be a slice of something larger.
    pub pinned_bytes: usize,
    /// The offset after the last batch.
    pub next_offset: i64,
}

/// Why records in the bucket cannot be read now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// The manifest has no object with the offset any more: the log start has passed it, or this
    /// replica has not applied the manifest's last entries yet.
    #[error("no object has offset {0}")]
    NoObject(i64),
    /// The bucket did not answer, or refused. The same read may succeed later.
    #[error("the bucket cannot be read: {0}")]
    Unavailable(String),
    /// The object lacks what the manifest says, or is damaged (D3).
    #[error("an object is damaged: {0}")]
    Damaged(String),
}

/// The result of a read from the bucket.
pub type RemoteFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, RemoteError>> + Send + 'a>>;

/// Reads the records of partitions from the bucket.
pub trait RemoteLog: Send + Sync + fmt::Debug {
    /// Reads whole batches from the one with `range.from` on, at most `bytes_max` bytes, but at
    /// least one batch. The last one may end after `range.until`.
    fn read(
        &self,
        partition: PartitionId,
        range: RemoteRange,
        bytes_max: usize,
    ) -> RemoteFuture<'_, RemoteRecords>;

    /// Offset and timestamp of the first record in the range that is not older than `timestamp_ms`.
    fn offset_for_timestamp(
        &self,
        partition: PartitionId,
        range: RemoteRange,
        timestamp_ms: i64,
    ) -> RemoteFuture<'_, Option<(i64, i64)>>;

    /// Offset and timestamp of the first record in the range with the largest timestamp.
    fn max_timestamp(
        &self,
        partition: PartitionId,
        range: RemoteRange,
    ) -> RemoteFuture<'_, Option<(i64, i64)>>;
}
