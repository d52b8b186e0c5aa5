//! Faults that a run can contain, each of which the oracle has to notice.

/// The variable that names the mutation of a run.
pub(crate) const MUTATION: &str = "ROPEWALK_MUTATION";

/// One way in which the surroundings of the brokers could be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// Rounds of the write-ahead log are reported durable and are not.
    RoundNotSynced,
    /// Labels of files of the write-ahead log are not durable.
    LabelNotSynced,
    /// Snapshots are not durable when the log before them is released.
    SnapshotNotSynced,
    /// Batches that a checkpoint spills are not durable.
    SpillNotSynced,
    /// The names of spilled files are not durable.
    SpillNameNotSynced,
    /// The files of a shard that were received are not durable.
    TransferNotSynced,
    /// A message is taken for one of another broker.
    SendersMixedUp,
}

impl Mutation {
    pub(crate) const ALL: [Self; 7] = [
        Self::RoundNotSynced,
        Self::LabelNotSynced,
        Self::SnapshotNotSynced,
        Self::SpillNotSynced,
        Self::SpillNameNotSynced,
        Self::TransferNotSynced,
        Self::SendersMixedUp,
    ];

    /// The number of seeds within which it has to be noticed.
    pub(crate) fn seeds(self) -> u64 {
        match self {
            // The power has to fail between the write and the next sync of the same files.
            Self::SpillNotSynced | Self::SpillNameNotSynced => 15,
            // The broker has to be needed, too.
            Self::TransferNotSynced => 40,
            Self::RoundNotSynced
            | Self::LabelNotSynced
            | Self::SnapshotNotSynced
            | Self::SendersMixedUp => 5,
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutation| format!("{mutation:?}") == name)
    }

    /// The reason of the syncs that have no effect.
    pub(crate) fn ignored_sync(self) -> Option<&'static str> {
        match self {
            Self::RoundNotSynced => Some("wal-round"),
            Self::LabelNotSynced => Some("wal-label"),
            Self::SnapshotNotSynced => Some("snapshot"),
            Self::SpillNotSynced => Some("spill"),
            Self::SpillNameNotSynced => Some("spill-directory"),
            Self::TransferNotSynced => Some("transfer"),
            Self::SendersMixedUp => None,
        }
    }
}
