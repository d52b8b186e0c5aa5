//! Reads records from the bucket for request handlers.
//!
//! ```text
//! offset ─▶ manifest (state of the shard, then pages) ─▶ object ─▶ its batches, through a cache
//! ```
//! The crate `ropewalk-tier` reads objects and pages, verifies them (D3), and has the caches and
//! their bounds (R1). This module finds the object of an offset.
//!
//! # Invariants
//!
//! - Reads of the bucket run on the tier's runtime, never on that of the caller. What is cached is
//!   returned without a switch of threads.
//! - A caller that gives up ends no read: its result is in the cache when the caller asks again.
//! - **O4** a read returns whole batches of one object, and the next one begins where it ended.

use std::sync::Arc;

use futures_util::FutureExt;
use ropewalk_shard::PartitionId;
use ropewalk_store::remote::{RemoteError, RemoteFuture, RemoteLog, RemoteRange, RemoteRecords};
use ropewalk_tier::{ClusterId, ObjectRef, PartitionKey, TierError, TierReader};
use tokio::runtime::Handle;

use crate::limits;

mod manifest;
mod timestamps;

pub(crate) use manifest::{Entry, Manifests, ShardManifests};

/// What a [`RemoteReader`] is made of.
#[derive(Debug)]
pub(crate) struct RemoteParts {
    /// Reads the bucket through its cache.
    pub(crate) reader: TierReader,
    /// The applied manifests.
    pub(crate) manifests: Arc<dyn Manifests>,
    /// The cluster that wrote the objects.
    pub(crate) cluster: ClusterId,
    /// Where reads of the bucket run.
    pub(crate) runtime: Handle,
}

/// Reads records from the bucket. Clones share the caches.
#[derive(Debug, Clone)]
pub(crate) struct RemoteReader(Arc<RemoteParts>);

impl RemoteReader {
    /// A reader of the bucket.
    pub(crate) fn new(parts: RemoteParts) -> Self {
        Self(Arc::new(parts))
    }

    fn key(&self, partition: PartitionId) -> PartitionKey {
        let PartitionId { topic, index } = partition;
        PartitionKey { cluster: self.0.cluster.clone(), topic: topic.0, index }
    }

    /// The object that has the offset.
    async fn object_at(
        &self,
        partition: PartitionId,
        offset: i64,
    ) -> Result<ObjectRef, RemoteError> {
        let found = match self.0.manifests.entry_at(partition, offset) {
            Some(Entry::Object(object)) => Some(object),
            Some(Entry::Page(page)) => {
                let found = self.0.reader.object_at(&self.key(partition), &page, offset).await;
                found.map_err(remote_error)?
            }
            None => None,
        };
        found.ok_or(RemoteError::NoObject(offset))
    }

    async fn records(
        &self,
        partition: PartitionId,
        range: RemoteRange,
        bytes_max: usize,
    ) -> Result<RemoteRecords, RemoteError> {
        let key = self.key(partition);
        let mut offset = range.from;
        loop {
            let object = self.object_at(partition, offset).await?;
            let read = self.0.reader.read(&key, &object, offset, bytes_max as u64).await;
            let stretch = read.map_err(remote_error)?;
            offset = stretch.next_offset;
            if offset < range.until {
                self.warm(partition, &object, offset).await;
            }
            // An object may end with offsets that have no records.
            if !stretch.pieces.is_empty() || offset >= range.until {
                let size_bytes = stretch.pieces.iter().map(|piece| piece.len()).sum();
                let pinned_bytes = usize::try_from(stretch.pinned_bytes()).unwrap_or(usize::MAX);
                let (pieces, next_offset) = (stretch.pieces, offset);
                return Ok(RemoteRecords { pieces, size_bytes, pinned_bytes, next_offset });
            }
        }
    }

    /// Begins to read the next object when a reader is close to the end of this one.
    async fn warm(&self, partition: PartitionId, object: &ObjectRef, offset: i64) {
        let key = self.key(partition);
        // What fails here is read, and reported, when it is needed.
        let Ok(footer) = self.0.reader.footer(&key, object).await else { return };
        let rest_bytes = footer.block_at_offset(offset).map_or(0, |block| {
            let (from, last) = (&footer.blocks[block], footer.blocks.last());
            last.map_or(0, |last| last.position - from.position)
        });
        if rest_bytes <= limits::TIER_WARM_BYTES
            && let Ok(next) = self.object_at(partition, object.end).await
        {
            self.0.reader.warm(&key, &next);
        }
    }

    /// Runs a read on the tier's runtime, to its end, unless its first step completes it.
    async fn run<T: Send + 'static>(
        &self,
        read: impl Future<Output = Result<T, RemoteError>> + Send + 'static,
    ) -> Result<T, RemoteError> {
        let mut read = Box::pin(read);
        let first = {
            // Connections that this step opens belong to the tier's runtime as well.
            let _inside = self.0.runtime.enter();
            (&mut read).now_or_never()
        };
        match first {
            Some(result) => result,
            None => {
                let ended = self.0.runtime.spawn(read).await;
                ended.unwrap_or_else(|error| Err(RemoteError::Unavailable(error.to_string())))
            }
        }
    }
}

impl RemoteLog for RemoteReader {
    fn read(
        &self,
        partition: PartitionId,
        range: RemoteRange,
        bytes_max: usize,
    ) -> RemoteFuture<'_, RemoteRecords> {
        let me = self.clone();
        Box::pin(self.run(async move { me.records(partition, range, bytes_max).await }))
    }

    fn offset_for_timestamp(
        &self,
        partition: PartitionId,
        range: RemoteRange,
        timestamp_ms: i64,
    ) -> RemoteFuture<'_, Option<(i64, i64)>> {
        let me = self.clone();
        let search = async move { me.first_at_or_after(partition, range, timestamp_ms).await };
        Box::pin(self.run(search))
    }

    fn max_timestamp(
        &self,
        partition: PartitionId,
        range: RemoteRange,
    ) -> RemoteFuture<'_, Option<(i64, i64)>> {
        let me = self.clone();
        Box::pin(self.run(async move { me.youngest(partition, range).await }))
    }
}

/// What a failure of the bucket means for a reader of records.
fn remote_error(error: TierError) -> RemoteError {
    let reason = error.to_string();
    match error {
        TierError::Damaged { .. } | TierError::Missing { .. } | TierError::OtherContent { .. } => {
            tracing::error!(%error, "object of the manifest cannot be read");
            RemoteError::Damaged(reason)
        }
        TierError::Settings(_)
        | TierError::Unavailable { .. }
        | TierError::Denied { .. }
        | TierError::Unsuitable { .. }
        | TierError::Unready { .. }
        | TierError::Fenced { .. }
        | TierError::OtherCluster { .. } => {
            tracing::warn!(%error, "bucket cannot be read");
            RemoteError::Unavailable(reason)
        }
    }
}

#[cfg(test)]
mod tests;
