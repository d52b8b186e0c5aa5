//! Commands on the tier of a partition: which of its records are in the bucket, and which on disks.

use serde::{Deserialize, Serialize};

use crate::id::PartitionId;
use crate::manifest::{ObjectRef, PageRef, RestoredPartition};

/// A change of the tier of one partition. The state refuses one that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeTier {
    /// What changes in the tier. First, because the reserve for commands that free space depends
    /// on it.
    pub change: TierChange,
    /// The partition whose tier changes.
    pub partition: PartitionId,
}

/// What changes in the tier of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TierChange {
    /// The partition takes objects from its log start on, or again from the end of its tier on.
    Enable,
    /// The partition takes no further objects. Those that it has are read until retention removes
    /// them; then its tier is removed.
    Disable,
    /// An object is in the bucket, verified, and holds what follows the end of the tier.
    AddObject(ObjectRef),
    /// A page is in the bucket, verified, and lists the oldest objects, or the oldest pages of
    /// level 0, after those of the newest page of its own level if that has the same base: then it
    /// replaces that one.
    FoldObjects(PageRef),
    /// Replicas remove their records below this offset, all of which are in the bucket. A lower
    /// offset than the current one changes nothing.
    SetLocalStart(i64),
    /// Objects that end at this offset or before are no longer read, and may be deleted after a
    /// grace period. It is at most the log start.
    DropObjects {
        /// The end of the last object that is dropped.
        through: i64,
    },
    /// Dropped objects were deleted from the bucket, and pages that were replaced.
    ObjectsDeleted {
        /// All objects, and pages, that end at this offset or before were deleted.
        through: i64,
        /// The digests of the replaced pages that were deleted.
        pages: Vec<u64>,
    },
    /// An empty partition continues from objects that the bucket has, as a restore found them.
    /// Since format 9.
    Restore(Box<RestoredPartition>),
}
