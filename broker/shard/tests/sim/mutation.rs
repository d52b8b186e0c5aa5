//! Faults that a run can be made to contain, each of which the oracle has to notice.

/// One way in which the surroundings of the core could be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// A write is reported durable when it is submitted.
    AckBeforeFsync,
    /// The hard state is written without the vote.
    VoteNotWritten,
    /// The hard state is never written.
    HardStateNotWritten,
    /// Two writes in flight become durable in the wrong order, and are reported in the right one.
    WritesSwapped,
    /// A write that was refused for lack of space is reported durable.
    RefusedIsDurable,
    /// A snapshot is installed and the log is continued where it was.
    SnapshotKeepsLog,
    /// A replica whose log is damaged votes again, with a commit index that is clamped to its end.
    DamageTrusted,
    /// A replica starts with the members of its first snapshot.
    OldMembers,
}

impl Mutation {
    pub(crate) const ALL: [Self; 8] = [
        Self::AckBeforeFsync,
        Self::VoteNotWritten,
        Self::HardStateNotWritten,
        Self::WritesSwapped,
        Self::RefusedIsDurable,
        Self::SnapshotKeepsLog,
        Self::DamageTrusted,
        Self::OldMembers,
    ];

    /// The number of seeds within which it has to be noticed.
    pub(crate) fn seeds(self) -> u64 {
        match self {
            // Two candidates of one term and a crash of a voter between their requests.
            Self::VoteNotWritten => 4000,
            Self::DamageTrusted => 200,
            Self::AckBeforeFsync
            | Self::HardStateNotWritten
            | Self::WritesSwapped
            | Self::RefusedIsDurable
            | Self::SnapshotKeepsLog
            | Self::OldMembers => 50,
        }
    }
}
