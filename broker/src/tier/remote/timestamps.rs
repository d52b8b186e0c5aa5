//! Finds records in the bucket by timestamp. Manifests and footers have the largest timestamp of
//! each page, object and block, so few blocks are read.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use ropewalk_batch::StampedBatch;
use ropewalk_shard::PartitionId;
use ropewalk_store::log::{first_in, youngest_in};
use ropewalk_store::remote::{RemoteError, RemoteRange};
use ropewalk_tier::{Block, Footer, ObjectRef, Stretch};

use super::manifest::{Entry, entries_of};
use super::{RemoteReader, remote_error};

/// A part of the bucket that may have the largest timestamp. The order is that of the search: the
/// largest timestamp is last, and of equal ones the lowest offset.
#[derive(Debug)]
struct Candidate {
    max_timestamp_ms: i64,
    base: i64,
    part: Part,
}

#[derive(Debug)]
enum Part {
    Entry(Entry),
    Block(ObjectRef, Block),
    /// The record at the base of the candidate.
    Record,
}

impl Candidate {
    fn of(entry: Entry) -> Self {
        let (max_timestamp_ms, base) = (entry.max_timestamp_ms(), entry.base());
        Self { max_timestamp_ms, base, part: Part::Entry(entry) }
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_time = self.max_timestamp_ms.cmp(&other.max_timestamp_ms);
        by_time.then(other.base.cmp(&self.base))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

impl RemoteReader {
    /// Offset and timestamp of the first record from the start of the range on that is not older.
    pub(super) async fn first_at_or_after(
        &self,
        partition: PartitionId,
        range: RemoteRange,
        timestamp_ms: i64,
    ) -> Result<Option<(i64, i64)>, RemoteError> {
        let key = self.key(partition);
        let may_have =
            |entry: &Entry| entry.overlaps(range) && entry.max_timestamp_ms() >= timestamp_ms;
        let mut left = self.0.manifests.entries(partition, range);
        left.retain(may_have);
        left.reverse();
        while let Some(entry) = left.pop() {
            match entry {
                Entry::Page(page) => {
                    let page = self.0.reader.page(&key, &page).await.map_err(remote_error)?;
                    left.extend(entries_of(&page).into_iter().rev().filter(may_have));
                }
                Entry::Object(object) => {
                    let from = range.from.max(object.base);
                    let found = self.0.reader.offset_at(&key, &object, from, timestamp_ms).await;
                    if let Some(found) = found.map_err(remote_error)? {
                        return Ok(Some((found.offset, found.timestamp_ms)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Offset and timestamp of the first record with the largest timestamp in the range. The record
    /// may be behind the range, if an object is longer.
    pub(super) async fn youngest(
        &self,
        partition: PartitionId,
        range: RemoteRange,
    ) -> Result<Option<(i64, i64)>, RemoteError> {
        let key = self.key(partition);
        let entries = self.0.manifests.entries(partition, range);
        let mut left: BinaryHeap<Candidate> = entries.into_iter().map(Candidate::of).collect();
        while let Some(Candidate { max_timestamp_ms, base, part }) = left.pop() {
            match part {
                Part::Record => return Ok(Some((base, max_timestamp_ms))),
                Part::Entry(Entry::Page(page)) => {
                    let page = self.0.reader.page(&key, &page).await.map_err(remote_error)?;
                    let entries = entries_of(&page).into_iter();
                    left.extend(entries.filter(|entry| entry.overlaps(range)).map(Candidate::of));
                }
                Part::Entry(Entry::Object(object)) => {
                    let footer = self.0.reader.footer(&key, &object).await.map_err(remote_error)?;
                    left.extend(blocks(object, &footer, range));
                }
                Part::Block(object, block) => {
                    let from = range.from.max(block.first_offset).max(object.base);
                    let bytes = u64::from(block.length);
                    let read = self.0.reader.read(&key, &object, from, bytes).await;
                    let found = self.youngest_of(read.map_err(remote_error)?, from).await?;
                    left.extend(found.map(|(offset, max_timestamp_ms)| Candidate {
                        max_timestamp_ms,
                        base: offset,
                        part: Part::Record,
                    }));
                }
            }
        }
        Ok(None)
    }

    /// Searches batches. They may have to be decompressed, which takes a while.
    async fn youngest_of(
        &self,
        stretch: Stretch,
        from: i64,
    ) -> Result<Option<(i64, i64)>, RemoteError> {
        let search = move || {
            let batches = stretch.pieces.into_iter().flat_map(ropewalk_tier::batches);
            let batches: Result<Vec<StampedBatch>, _> = batches.collect();
            let batches = batches.map_err(|error| RemoteError::Damaged(error.to_string()))?;
            let found = match youngest_in(&batches, from) {
                Ok(Some(ms)) => first_in(&batches, ms, from),
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            };
            found.map_err(|error| RemoteError::Damaged(error.to_string()))
        };
        let ended = self.0.runtime.spawn_blocking(search).await;
        ended.map_err(|error| RemoteError::Unavailable(error.to_string()))?
    }
}

/// The blocks of an object with offsets of the range.
fn blocks(object: ObjectRef, footer: &Footer, range: RemoteRange) -> Vec<Candidate> {
    let inside = |block: &&Block| block.first_offset < range.until && block.end_offset > range.from;
    let candidate = |block: &Block| Candidate {
        max_timestamp_ms: block.max_timestamp_ms,
        base: block.first_offset,
        part: Part::Block(object, *block),
    };
    footer.blocks.iter().filter(inside).map(candidate).collect()
}
