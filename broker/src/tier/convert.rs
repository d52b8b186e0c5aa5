//! References to objects and pages, as the state of a shard has them and as the bucket's formats
//! have them.

use ropewalk_shard::manifest;
use ropewalk_tier::{Level, ObjectRef, PageRef};

/// A reference to an object, from the state of a shard.
pub(crate) fn object(object: &manifest::ObjectRef) -> ObjectRef {
    let manifest::ObjectRef {
        base,
        end,
        history,
        term,
        size_bytes,
        digest,
        max_timestamp_ms,
        first_epoch,
    } = *object;
    let history = history.0;
    ObjectRef { base, end, history, term, size_bytes, digest, max_timestamp_ms, first_epoch }
}

/// A reference to a page, from the state of a shard.
pub(crate) fn page(page: &manifest::PageRef) -> PageRef {
    let manifest::PageRef {
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
    let level = if level == 0 { Level::Objects } else { Level::Pages };
    PageRef {
        level,
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
