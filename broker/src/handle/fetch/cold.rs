//! Records of a fetch that are in the bucket only.
//!
//! They are read in tasks of their own, each of which wakes its fetch. Meanwhile the fetch waits
//! for the other partitions as well, and is answered as soon as there is enough, or at the end of
//! its wait, without the records that are not here yet. The bucket's reader keeps what it has read,
//! so that the next fetch has them.
//!
//! # Invariants
//!
//! - **R1** records of the bucket that are in memory for fetches, until their clients have received
//!   them, count against a budget of their own: `Context::cold`. Produces and fetches of what is on
//!   the disk never wait for it. A fetch begins at most [`limits::COLD_READS_PER_FETCH`] reads.
//! - A fetch that ends gives up its reads, and their shares of the budget.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::FutureExt;
use ropewalk_batch::Header;
use ropewalk_shard::PartitionId;
use ropewalk_store::log::{Part, Planned, Waiter};
use ropewalk_store::remote::{RemoteError, RemoteLog, RemoteRange, RemoteRecords};
use tokio::task::AbortHandle;

use crate::limits;
use crate::listen::{Budget, Permit};

/// What a fetch has of a partition in the bucket.
#[derive(Debug, Default)]
pub(super) enum Cold {
    /// Nothing: the partition is read from its log.
    #[default]
    No,
    /// Its read has not begun, because others of the fetch come first.
    Queued,
    /// The read that has begun.
    Begun(ColdRead),
}

/// A read from the bucket. It is given up when this is dropped.
#[derive(Debug)]
pub(super) struct ColdRead {
    outcome: Arc<OnceLock<Result<ColdRecords, RemoteError>>>,
    task: Option<AbortHandle>,
}

/// Records of the bucket, and their share of the budget.
#[derive(Debug)]
pub(super) struct ColdRecords {
    records: RemoteRecords,
    pub(super) share: Arc<Permit>,
}

/// What is read from the bucket, and who waits for it.
#[derive(Debug)]
pub(super) struct ColdRequest {
    /// The partition that is read.
    pub(super) partition: PartitionId,
    /// The offsets that the bucket has.
    pub(super) range: RemoteRange,
    /// Most bytes, unless the first batch is larger.
    pub(super) bytes_max: usize,
    /// The fetch, and its token for the partition.
    pub(super) waiter: (Arc<Waiter>, u32),
}

impl Cold {
    /// Whether the partition is read from its log.
    pub(super) fn is_no(&self) -> bool {
        matches!(self, Self::No)
    }

    /// Whether the records are not here yet.
    pub(super) fn is_pending(&self) -> bool {
        match self {
            Self::No => false,
            Self::Queued => true,
            Self::Begun(read) => read.outcome.get().is_none(),
        }
    }

    /// The outcome of the read, if there is one.
    pub(super) fn outcome(&self) -> Option<&Result<ColdRecords, RemoteError>> {
        match self {
            Self::No | Self::Queued => None,
            Self::Begun(read) => read.outcome.get(),
        }
    }
}

impl ColdRead {
    /// Begins a read. What is cached is here when this returns.
    pub(super) fn begin(remote: Arc<dyn RemoteLog>, budget: Budget, asked: ColdRequest) -> Self {
        let outcome = Arc::new(OnceLock::new());
        let ColdRequest { partition, range, bytes_max, waiter: (waiter, token) } = asked;
        let mut read = Box::pin(read(remote, budget, (partition, range, bytes_max)));
        if let Some(result) = (&mut read).now_or_never() {
            let _ = outcome.set(result);
            return Self { outcome, task: None };
        }
        let done = Arc::clone(&outcome);
        let task = tokio::spawn(async move {
            let result = AssertUnwindSafe(read).catch_unwind().await;
            let panicked = |_| Err(RemoteError::Unavailable("the read panicked".to_owned()));
            let _ = done.set(result.unwrap_or_else(panicked));
            waiter.wake(token);
        });
        Self { outcome, task: Some(task.abort_handle()) }
    }
}

impl Drop for ColdRead {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn read(
    remote: Arc<dyn RemoteLog>,
    budget: Budget,
    (partition, range, bytes_max): (PartitionId, RemoteRange, usize),
) -> Result<ColdRecords, RemoteError> {
    let bytes_max = bytes_max.clamp(1, limits::COLD_READ_BYTES_MAX);
    let mut share = budget.acquire(bytes_max + limits::COLD_EXCESS_BYTES).await;
    let records = remote.read(partition, range, bytes_max).await?;
    share.shrink_to(records.pinned_bytes);
    // One batch may be larger than what was asked for.
    let missing = records.pinned_bytes.saturating_sub(share.bytes());
    budget.extend(&mut share, missing).await;
    Ok(ColdRecords { records, share: Arc::new(share) })
}

impl ColdRecords {
    /// The offset after the last batch.
    pub(super) fn next_offset(&self) -> i64 {
        self.records.next_offset
    }

    /// Whether there is no batch, because the bucket has none between the offsets.
    pub(super) fn is_empty(&self) -> bool {
        self.records.pieces.is_empty()
    }

    /// Whole batches up to `bytes`, but at least one if `at_least_one`. `from` is the offset that
    /// was asked for.
    pub(super) fn planned(&self, from: i64, bytes: usize, at_least_one: bool) -> Planned {
        let RemoteRecords { pieces, size_bytes, next_offset, .. } = &self.records;
        if *size_bytes <= bytes {
            let parts = pieces.iter().cloned().map(Part::Memory).collect();
            let (size_bytes, next_offset) = (*size_bytes, *next_offset);
            return Planned { parts, size_bytes, next_offset, ..Planned::default() };
        }
        let mut planned = Planned { next_offset: from, ..Planned::default() };
        for piece in pieces {
            let taken_bytes = take(&mut planned, piece, bytes, at_least_one);
            if taken_bytes > 0 {
                planned.parts.push(Part::Memory(piece.slice(..taken_bytes)));
            }
            if taken_bytes < piece.len() {
                break;
            }
        }
        planned
    }
}

/// Counts the batches of a piece that fit. Returns their size.
fn take(planned: &mut Planned, piece: &Bytes, bytes: usize, at_least_one: bool) -> usize {
    let mut at = 0;
    while let Ok(header) = Header::parse(&piece[at..]) {
        let size_bytes = header.size_bytes();
        let is_first = at_least_one && planned.size_bytes == 0;
        let fits = is_first || planned.size_bytes + size_bytes <= bytes;
        if !fits || at + size_bytes > piece.len() {
            break;
        }
        at += size_bytes;
        planned.size_bytes += size_bytes;
        planned.next_offset = header.last_offset() + 1;
    }
    at
}
