//! Reads objects and manifest pages through a bounded cache.
//!
//! A reader of old records calls [`TierReader::read`] again and again, each time with the offset
//! behind what it got. The body of an object is fetched in *chunks*: adjacent blocks of about
//! [`limits::CHUNK_BYTES`]. A chunk is verified when it arrives, cached, and shared by all readers;
//! two readers that want it at the same time cause one request. When a reader continues where it or
//! another one was before, the next chunks are fetched in the background.
//!
//! # Memory
//!
//! The bounds are in [`ReaderLimits`]: chunks, footers and pages in caches, and the chunks that are
//! being fetched. What a caller holds of the records that it got
//! comes on top: see [`Stretch::pinned_bytes`]. The cache's policy withstands scans: a replay of
//! old records evicts its own chunks first.
//!
//! # Failures
//!
//! A chunk whose checksum is wrong is fetched a second time, because the network may have damaged
//! it; then the object counts as damaged. A failed read-ahead is only logged: the reader that needs
//! the chunk fetches it and gets the error.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use ropewalk_batch::{BatchError, OffsetAndTimestamp, StampedBatch, first_at_or_after};
use tokio::sync::Semaphore;

use crate::bucket::Bucket;
use crate::error::{Operation, TierError};
use crate::format::FormatError;
use crate::limits;
use crate::names::{Name, ObjectRef, PageRef, PartitionKey};
use crate::object::{Footer, Tail, batches, read_tail, tail_range};
use crate::page::Page;

mod cut;

pub use cut::Stretch;

/// Bounds of a reader in bytes. [`Default`] is for a broker with little memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReaderLimits {
    /// Chunks in the cache.
    pub chunk_bytes_max: u64,
    /// Footers in the cache.
    pub footer_bytes_max: u64,
    /// Manifest pages in the cache.
    pub page_bytes_max: u64,
    /// Chunks that are being fetched at one time, at least one.
    pub fetch_bytes_max: u64,
    /// Chunks that are fetched ahead of a sequential reader; 0 for none.
    pub ahead_chunks: u32,
}

impl Default for ReaderLimits {
    fn default() -> Self {
        Self {
            chunk_bytes_max: limits::CACHE_BYTES,
            footer_bytes_max: limits::FOOTER_CACHE_BYTES,
            page_bytes_max: limits::PAGE_CACHE_BYTES,
            fetch_bytes_max: limits::FETCH_BYTES,
            ahead_chunks: limits::AHEAD_CHUNKS,
        }
    }
}

/// Reads objects and pages. Clones share the cache.
#[derive(Debug, Clone)]
pub struct TierReader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bucket: Bucket,
    limits: ReaderLimits,
    chunks: Cache<(Name, u32), Bytes, ByBytes>,
    footers: Cache<Name, Arc<Chunked>, ByBytes>,
    pages: Cache<Name, Arc<Page>, ByBytes>,
    fetching: Semaphore,
    ahead: Arc<Semaphore>,
}

/// A footer, and how its blocks form chunks.
#[derive(Debug)]
struct Chunked {
    name: Name,
    footer: Arc<Footer>,
    /// First block of each chunk, ascending, and the number of blocks as the last element.
    starts: Vec<usize>,
}

/// Weighs what is cached by its memory.
#[derive(Debug, Clone)]
struct ByBytes;

/// Memory of a key and of the cache's own entry.
const ENTRY_BYTES: u64 = 256;

impl Weighter<(Name, u32), Bytes> for ByBytes {
    fn weight(&self, _: &(Name, u32), chunk: &Bytes) -> u64 {
        ENTRY_BYTES + chunk.len() as u64
    }
}

impl Weighter<Name, Arc<Chunked>> for ByBytes {
    fn weight(&self, _: &Name, chunked: &Arc<Chunked>) -> u64 {
        let starts = size_of::<usize>() * chunked.starts.capacity();
        ENTRY_BYTES + (chunked.footer.memory_bytes() + starts) as u64
    }
}

impl Weighter<Name, Arc<Page>> for ByBytes {
    fn weight(&self, _: &Name, page: &Arc<Page>) -> u64 {
        ENTRY_BYTES + page.memory_bytes() as u64
    }
}

impl TierReader {
    /// A reader with an empty cache.
    #[must_use]
    pub fn new(bucket: Bucket, limits: ReaderLimits) -> Self {
        let fetching = limits.fetch_bytes_max.clamp(1 << 10, u64::from(u32::MAX)) >> 10;
        let shared = Shared {
            bucket,
            chunks: cache(limits.chunk_bytes_max, limits::CHUNK_BYTES),
            footers: cache(limits.footer_bytes_max, limits::TAIL_BYTES),
            pages: cache(limits.page_bytes_max, limits::PAGE_BYTES_MAX),
            fetching: Semaphore::new(fetching as usize),
            ahead: Arc::new(Semaphore::new(limits::AHEAD_FETCHES_MAX)),
            limits,
        };
        Self { shared: Arc::new(shared) }
    }

    /// The bucket that it reads.
    #[must_use]
    pub fn bucket(&self) -> &Bucket {
        &self.shared.bucket
    }

    /// Bytes of chunks, footers and pages in the cache.
    #[must_use]
    pub fn cached_bytes(&self) -> u64 {
        self.shared.chunks.weight() + self.shared.footers.weight() + self.shared.pages.weight()
    }

    /// Whole batches of an object, from the one that contains `offset`, or the one behind it in a
    /// gap. At most `bytes_max` and [`limits::READ_BYTES_MAX`], but always the first batch. Empty
    /// when the object has no batch at or behind `offset`; the caller continues with the next
    /// object at [`Stretch::next_offset`].
    ///
    /// # Errors
    /// As [`Bucket::get_range`]; [`TierError::Damaged`] when the object is damaged.
    #[tracing::instrument(level = "debug", skip_all, fields(%partition, offset))]
    pub async fn read(
        &self,
        partition: &PartitionKey,
        object: &ObjectRef,
        offset: i64,
        bytes_max: u64,
    ) -> Result<Stretch, TierError> {
        let chunked = self.chunked(partition, object).await?;
        let Some(first) = chunked.footer.block_at_offset(offset) else {
            return Ok(Stretch::empty(object.end));
        };
        let bytes_max = bytes_max.min(limits::READ_BYTES_MAX);
        let blocks = chunked.footer.run(first, bytes_max);
        let chunks = chunked.chunk_of(blocks.start)..chunked.chunk_of(blocks.end - 1) + 1;
        let follows =
            chunks.start == 0 || self.is_cached(&chunked, chunks.start - 1..chunks.start + 1);
        let fetched = chunks.clone().map(|number| self.chunk(&chunked, number));
        let fetched = try_join_all(fetched).await?;
        if follows {
            self.fetch_ahead(&chunked, chunks.end);
        }
        let runs = chunks.zip(fetched).map(|(number, chunk)| chunked.part(number, &blocks, &chunk));
        let damaged = |error| self.context(&chunked.name.to_string()).damaged(error);
        Stretch::cut(runs.collect(), offset, bytes_max)
            .map(|stretch| stretch.ending_at_most(object.end))
            .map_err(|error| damaged(FormatError::invalid("object", error.to_string())))
    }

    /// The first record of an object at or behind `offset` with a timestamp of `timestamp_ms` or
    /// later; `None` if there is none.
    ///
    /// # Errors
    /// As [`TierReader::read`].
    #[tracing::instrument(level = "debug", skip_all, fields(%partition, offset))]
    pub async fn offset_at(
        &self,
        partition: &PartitionKey,
        object: &ObjectRef,
        offset: i64,
        timestamp_ms: i64,
    ) -> Result<Option<OffsetAndTimestamp>, TierError> {
        let chunked = self.chunked(partition, object).await?;
        let mut from = chunked.footer.block_at_offset(offset);
        while let Some(block) =
            from.and_then(|from| chunked.footer.block_at_timestamp(from, timestamp_ms))
        {
            let number = chunked.chunk_of(block);
            let chunk = self.chunk(&chunked, number).await?;
            let run = chunked.part(number, &(block..block + 1), &chunk);
            // It may decompress a batch: not on a thread of the runtime.
            let search = move || search(run, offset, timestamp_ms);
            let found = tokio::task::spawn_blocking(search).await.expect("a search does not panic");
            match found {
                Ok(Some(found)) => return Ok(Some(found)),
                // The record may be before `offset`.
                Ok(None) => from = Some(block + 1),
                Err(error) => {
                    let error = FormatError::invalid("object", error.to_string());
                    return Err(self.context(&chunked.name.to_string()).damaged(error));
                }
            }
        }
        Ok(None)
    }

    /// Begins to fetch the first records of an object in the background: for a reader that comes to
    /// the end of the object before it. Does nothing when enough is being fetched already.
    pub fn warm(&self, partition: &PartitionKey, object: &ObjectRef) {
        let (reader, partition, object) = (self.clone(), partition.clone(), *object);
        self.in_background(async move {
            let chunked = reader.chunked(&partition, &object).await?;
            reader.chunk(&chunked, 0).await.map(drop)
        });
    }

    /// The footer of an object, without its producers.
    ///
    /// # Errors
    /// As [`TierReader::read`].
    pub async fn footer(
        &self,
        partition: &PartitionKey,
        object: &ObjectRef,
    ) -> Result<Arc<Footer>, TierError> {
        Ok(self.chunked(partition, object).await?.footer.clone())
    }

    /// A manifest page.
    ///
    /// # Errors
    /// As [`Bucket::get`]; [`TierError::Damaged`] when the page is damaged.
    pub async fn page(
        &self,
        partition: &PartitionKey,
        page: &PageRef,
    ) -> Result<Arc<Page>, TierError> {
        let name = page.name(partition);
        let fetched = async {
            let text = name.to_string();
            let bytes = self.bucket().get(&text, limits::PAGE_BYTES_MAX).await?;
            let page = Page::decode(&bytes, &name);
            page.map(Arc::new).map_err(|error| self.context(&text).damaged(error))
        };
        self.shared.pages.get_or_insert_async(&name, fetched).await
    }

    /// The object of a page, or of the pages below it, that contains `offset`.
    ///
    /// # Errors
    /// As [`TierReader::page`].
    pub async fn object_at(
        &self,
        partition: &PartitionKey,
        page: &PageRef,
        offset: i64,
    ) -> Result<Option<ObjectRef>, TierError> {
        let mut page = self.page(partition, page).await?;
        if let Some(below) = page.page_at(offset).copied() {
            page = self.page(partition, &below).await?;
        }
        Ok(page.object_at(offset).copied())
    }

    async fn chunked(
        &self,
        partition: &PartitionKey,
        object: &ObjectRef,
    ) -> Result<Arc<Chunked>, TierError> {
        let name = object.name(partition);
        let fetched = async {
            let footer = fetch_footer(self.bucket(), &name, object.size_bytes).await?;
            Ok(Arc::new(Chunked::new(name.clone(), footer.without_producers())))
        };
        self.shared.footers.get_or_insert_async(&name, fetched).await
    }

    /// A chunk of an object, verified.
    async fn chunk(&self, chunked: &Chunked, number: usize) -> Result<Bytes, TierError> {
        let fetched = self.fetch_chunk(chunked, number);
        self.shared.chunks.get_or_insert_async(&chunked.key(number), fetched).await
    }

    async fn fetch_chunk(&self, chunked: &Chunked, number: usize) -> Result<Bytes, TierError> {
        let blocks = chunked.blocks(number);
        let positions = chunked.footer.positions(blocks.clone());
        let most = self.shared.limits.fetch_bytes_max.clamp(1 << 10, u64::from(u32::MAX)) >> 10;
        let kib = ((positions.end - positions.start) >> 10).clamp(1, most);
        let permits = self.shared.fetching.acquire_many(kib as u32).await;
        let _permits = permits.expect("the semaphore is never closed");
        let name = chunked.name.to_string();
        let mut is_second = false;
        loop {
            let bytes = self.bucket().get_range(&name, positions.clone()).await?;
            match chunked.footer.verify_blocks(blocks.clone(), &bytes) {
                Ok(()) => return Ok(bytes),
                Err(error) if is_second => return Err(self.context(&name).damaged(error)),
                Err(error) => {
                    tracing::warn!(name, %error, "damaged answer of the bucket, will read again");
                    is_second = true;
                }
            }
        }
    }

    fn is_cached(&self, chunked: &Chunked, mut numbers: Range<usize>) -> bool {
        numbers.any(|number| self.shared.chunks.contains_key(&chunked.key(number)))
    }

    /// Fetches the chunks from `next` on in the background.
    fn fetch_ahead(&self, chunked: &Arc<Chunked>, next: usize) {
        let last = chunked.chunks().min(next + self.shared.limits.ahead_chunks as usize);
        for number in next..last {
            if !self.is_cached(chunked, number..number + 1) {
                let (reader, chunked) = (self.clone(), chunked.clone());
                self.in_background(async move { reader.chunk(&chunked, number).await.map(drop) });
            }
        }
    }

    /// Runs a fetch that only fills the cache, unless too many run already.
    fn in_background(&self, fetch: impl Future<Output = Result<(), TierError>> + Send + 'static) {
        let Ok(permit) = self.shared.ahead.clone().try_acquire_owned() else { return };
        tokio::spawn(async move {
            if let Err(error) = fetch.await {
                tracing::debug!(%error, "read-ahead failed, the reader will fetch it");
            }
            drop(permit);
        });
    }

    fn context<'a>(&'a self, name: &'a str) -> crate::error::Context<'a> {
        self.bucket().context(Operation::Get, name)
    }
}

impl Chunked {
    fn new(name: Name, footer: Footer) -> Self {
        let mut starts = vec![0];
        let mut next = 0;
        while next < footer.blocks.len() {
            next = footer.run(next, limits::CHUNK_BYTES).end;
            starts.push(next);
        }
        Self { name, footer: Arc::new(footer), starts }
    }

    fn key(&self, number: usize) -> (Name, u32) {
        (self.name.clone(), number as u32)
    }

    fn chunks(&self) -> usize {
        self.starts.len() - 1
    }

    fn blocks(&self, number: usize) -> Range<usize> {
        self.starts[number]..self.starts[number + 1]
    }

    fn chunk_of(&self, block: usize) -> usize {
        self.starts.partition_point(|start| *start <= block) - 1
    }

    /// The bytes of those of the blocks that are in this chunk.
    fn part(&self, number: usize, blocks: &Range<usize>, chunk: &Bytes) -> Bytes {
        let own = self.blocks(number);
        let wanted = blocks.start.max(own.start)..blocks.end.min(own.end);
        let start = self.footer.blocks[own.start].position;
        let positions = self.footer.positions(wanted);
        chunk.slice((positions.start - start) as usize..(positions.end - start) as usize)
    }
}

/// Reads the footer of the object that is called `name`, with its producers; nothing is cached. One
/// request, or two if the footer is large.
///
/// # Errors
/// As [`Bucket::get_range`]; [`TierError::Damaged`] when the object is damaged.
pub async fn fetch_footer(
    bucket: &Bucket,
    name: &Name,
    size_bytes: u64,
) -> Result<Footer, TierError> {
    let text = name.to_string();
    let damaged = |error| bucket.context(Operation::Get, &text).damaged(error);
    let mut range = tail_range(size_bytes);
    if range.is_empty() {
        return Err(damaged(FormatError::Short { what: "object" }));
    }
    loop {
        let tail = bucket.get_range(&text, range.clone()).await?;
        match read_tail(&tail, name, size_bytes).map_err(damaged)? {
            Tail::Footer(footer) => return Ok(*footer),
            // Always before the range, so this ends after the second request.
            Tail::From(position) => range.start = position,
        }
    }
}

/// The first record of a run of batches at or behind `offset` with this timestamp or a later one.
fn search(
    run: Bytes,
    offset: i64,
    timestamp_ms: i64,
) -> Result<Option<OffsetAndTimestamp>, BatchError> {
    for batch in batches(run) {
        let batch = batch?;
        let found = if batch.max_timestamp_ms < timestamp_ms || batch.last_offset() < offset {
            None
        } else if batch.base_offset < offset {
            search_behind(&batch, offset, timestamp_ms)?
        } else {
            first_at_or_after(&batch, timestamp_ms, limits::RECORDS_BYTES_MAX)?
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The same in a batch that begins before `offset`.
fn search_behind(
    batch: &StampedBatch,
    offset: i64,
    timestamp_ms: i64,
) -> Result<Option<OffsetAndTimestamp>, BatchError> {
    let bytes = batch.bytes.clone();
    for record in ropewalk_batch::records(&batch.header(), bytes, limits::RECORDS_BYTES_MAX)? {
        let record = record?;
        let at = batch.base_offset + i64::from(record.offset_delta);
        if at >= offset && record.timestamp_ms >= timestamp_ms {
            return Ok(Some(OffsetAndTimestamp { offset: at, timestamp_ms: record.timestamp_ms }));
        }
    }
    Ok(None)
}

/// A cache in one shard, so that its bound is not divided among shards.
fn cache<K, V>(bytes_max: u64, bytes_each: u64) -> Cache<K, V, ByBytes>
where
    K: Eq + std::hash::Hash,
    V: Clone,
    ByBytes: Weighter<K, V>,
{
    let options = OptionsBuilder::new()
        .shards(1)
        .weight_capacity(bytes_max)
        .estimated_items_capacity((bytes_max / bytes_each).max(1) as usize)
        .build()
        .expect("both capacities are set");
    Cache::with_options(
        options,
        ByBytes,
        DefaultHashBuilder::default(),
        DefaultLifecycle::default(),
    )
}

#[cfg(test)]
mod tests;
