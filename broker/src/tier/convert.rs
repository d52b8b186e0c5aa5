//! References of objects and pages, as the state of a shard keeps them and as the bucket's formats
//! have them.

use ropewalk_shard::manifest::{ObjectRef, PageRef};
use ropewalk_shard::{HistoryId, PartitionId};
use ropewalk_tier::{ClusterId, Level, PartitionKey};

/// The partition, as part of the names of its objects.
pub(crate) fn key(cluster: &ClusterId, partition: PartitionId) -> PartitionKey {
    PartitionKey { cluster: cluster.clone(), topic: partition.topic.0, index: partition.index }
}

/// The reference of an object for the bucket.
pub(crate) fn object(object: &ObjectRef) -> ropewalk_tier::ObjectRef {
    let ObjectRef { base, end, history, term, size_bytes, digest, max_timestamp_ms, first_epoch } =
        *object;
    ropewalk_tier::ObjectRef {
        base,
        end,
        history: history.0,
        term,
        size_bytes,
        digest,
        max_timestamp_ms,
        first_epoch,
    }
}

/// The reference of an object for the state.
pub(crate) fn object_of(object: &ropewalk_tier::ObjectRef) -> ObjectRef {
    let ropewalk_tier::ObjectRef {
        base,
        end,
        history,
        term,
        size_bytes,
        digest,
        max_timestamp_ms,
        first_epoch,
    } = *object;
    let history = HistoryId(history);
    ObjectRef { base, end, history, term, size_bytes, digest, max_timestamp_ms, first_epoch }
}

/// The reference of a page for the bucket.
pub(crate) fn page(page: &PageRef) -> ropewalk_tier::PageRef {
    let PageRef {
        level,
        base,
        end,
        count,
        objects_bytes,
        max_timestamp_ms,
        history,
        term,
        size_bytes,
        digest,
    } = *page;
    ropewalk_tier::PageRef {
        level: if level == 0 { Level::Objects } else { Level::Pages },
        base,
        end,
        history: history.0,
        term,
        size_bytes,
        digest,
        max_timestamp_ms,
        count,
        objects_bytes,
    }
}

/// The reference of a page for the state.
pub(crate) fn page_of(page: &ropewalk_tier::PageRef) -> PageRef {
    let ropewalk_tier::PageRef {
        level,
        base,
        end,
        history,
        term,
        size_bytes,
        digest,
        max_timestamp_ms,
        count,
        objects_bytes,
    } = *page;
    PageRef {
        level: match level {
            Level::Objects => 0,
            Level::Pages => 1,
        },
        base,
        end,
        count,
        objects_bytes,
        max_timestamp_ms,
        history: HistoryId(history),
        term,
        size_bytes,
        digest,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_reference_is_the_same_there_and_back(
            (base, end, max_timestamp_ms) in any::<(i64, i64, i64)>(),
            (history, term, bytes, digest) in any::<(u64, u64, u64, u64)>(),
            (first_epoch, count, size_bytes) in any::<(i32, u32, u32)>(),
            level in 0_u8..2,
        ) {
            let history = HistoryId(history);
            let one = ObjectRef {
                base, end, history, term, size_bytes: bytes, digest, max_timestamp_ms, first_epoch,
            };
            prop_assert_eq!(object_of(&object(&one)), one);
            let one = PageRef {
                level, base, end, count, objects_bytes: bytes, max_timestamp_ms, history, term,
                size_bytes, digest,
            };
            prop_assert_eq!(page_of(&page(&one)), one);
        }
    }
}
