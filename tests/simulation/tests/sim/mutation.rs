//! Faults of a host that a run can contain, each of which the oracle has to notice.

/// One way in which the surroundings of the core could be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// A write is reported durable when it is submitted.
    AckBeforeFsync,
    /// A sync fails, the write is gone, and it is reported durable.
    FailedSyncIsDurable,
    /// The hard state is written without the vote.
    VoteNotWritten,
    /// The hard state is never written.
    HardStateNotWritten,
    /// Two writes in flight become durable in the wrong order, and are reported in the right one.
    WritesSwapped,
    /// A write that was refused for lack of space is reported durable.
    RefusedIsDurable,
    /// A snapshot is installed and the log continues where it was.
    SnapshotKeepsLog,
    /// A snapshot lacks what is known of the idempotent producers.
    SnapshotForgetsProducers,
    /// A replica whose log is known to be damaged votes if the commit index allows it.
    DamageTrusted,
    /// A replica whose log is known to be damaged votes, and its commit index is lowered to the end
    /// of what is left.
    CommitClamped,
    /// A replica with an empty disk runs under the id that it had before.
    EmptyDiskKeepsId,
    /// A replica starts with the members of its first snapshot.
    OldMembers,
    /// A replica that restarts takes learners for voters.
    LearnerVotes,
    /// Two calls that are answered together get the answers of each other.
    AnswersSwapped,
    /// A bit in the state of a replica flips. The oracle does not compare that state: another
    /// replica has to notice it.
    StateFlipped,
    /// A hard state without entries is written with a commit index that the log may not have.
    CommitAheadOfLog,
    /// Writes that were refused are submitted again in the reverse order.
    RefusedWritesReversed,
    /// A replica that takes itself for the leader answers a read without asking the others.
    ReadWithoutRound,
    /// A leader removes its records when the bucket has answered the put, before the manifest names
    /// the object.
    TrimBeforeManifest,
    /// A leader proposes an object before the bucket has answered the put.
    PutNotVerified,
    /// Names of objects have neither term nor digest, and a put replaces what is there.
    PutOverwrites,
    /// Objects are deleted when retention is proposed, before the command is committed.
    DeleteBeforeCommand,
    /// A snapshot lacks the tier.
    SnapshotForgetsTier,
}

impl Mutation {
    pub(crate) const ALL: [Self; 23] = [
        Self::AckBeforeFsync,
        Self::FailedSyncIsDurable,
        Self::VoteNotWritten,
        Self::HardStateNotWritten,
        Self::WritesSwapped,
        Self::RefusedIsDurable,
        Self::SnapshotKeepsLog,
        Self::SnapshotForgetsProducers,
        Self::DamageTrusted,
        Self::CommitClamped,
        Self::EmptyDiskKeepsId,
        Self::OldMembers,
        Self::LearnerVotes,
        Self::AnswersSwapped,
        Self::StateFlipped,
        Self::CommitAheadOfLog,
        Self::RefusedWritesReversed,
        Self::ReadWithoutRound,
        Self::TrimBeforeManifest,
        Self::PutNotVerified,
        Self::PutOverwrites,
        Self::DeleteBeforeCommand,
        Self::SnapshotForgetsTier,
    ];

    /// Whether a run needs a tier to show it.
    pub(crate) fn is_of_tier(self) -> bool {
        match self {
            Self::TrimBeforeManifest
            | Self::PutNotVerified
            | Self::PutOverwrites
            | Self::DeleteBeforeCommand
            | Self::SnapshotForgetsTier => true,
            Self::AckBeforeFsync
            | Self::FailedSyncIsDurable
            | Self::VoteNotWritten
            | Self::HardStateNotWritten
            | Self::WritesSwapped
            | Self::RefusedIsDurable
            | Self::SnapshotKeepsLog
            | Self::SnapshotForgetsProducers
            | Self::DamageTrusted
            | Self::CommitClamped
            | Self::EmptyDiskKeepsId
            | Self::OldMembers
            | Self::LearnerVotes
            | Self::AnswersSwapped
            | Self::StateFlipped
            | Self::CommitAheadOfLog
            | Self::RefusedWritesReversed
            | Self::ReadWithoutRound => false,
        }
    }

    /// The number of seeds within which it has to be noticed.
    pub(crate) fn seeds(self) -> u64 {
        match self {
            // A disk is lost once in a run at most, and its replica must then be needed.
            Self::DamageTrusted | Self::CommitClamped | Self::EmptyDiskKeepsId => 400,
            // A leader that is cut off, while another one acknowledges, and a read of the first.
            Self::ReadWithoutRound => 400,
            // Two candidates of one term; an election between a refusal and a crash.
            Self::VoteNotWritten | Self::CommitAheadOfLog => 100,
            Self::AckBeforeFsync
            | Self::FailedSyncIsDurable
            | Self::HardStateNotWritten
            | Self::WritesSwapped
            | Self::RefusedIsDurable
            | Self::SnapshotKeepsLog
            | Self::SnapshotForgetsProducers
            | Self::OldMembers
            | Self::LearnerVotes
            | Self::AnswersSwapped
            | Self::StateFlipped
            | Self::RefusedWritesReversed
            | Self::TrimBeforeManifest
            | Self::PutNotVerified
            | Self::PutOverwrites
            | Self::DeleteBeforeCommand
            | Self::SnapshotForgetsTier => 50,
        }
    }
}
