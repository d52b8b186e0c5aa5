//! The reasons why the process ends, and their exit codes.

use std::io;
use std::path::PathBuf;

use ropewalk_broker::boot::StartError;
use ropewalk_broker::boot::restore::RestoreFailure;
use ropewalk_broker::restore::RestoreError;
use ropewalk_broker::settings::Invalid;
use ropewalk_node::NodeError;
use ropewalk_store::directory::DirectoryError;
use ropewalk_store::repair::RepairError;
use ropewalk_tier::{Remedy, TierError};

/// The reason why the process ends other than by a signal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    /// Settings with invalid values.
    #[error("{}", lines(.0))]
    Settings(Vec<Invalid>),
    /// The configuration file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Config {
        /// The path of the file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// Flags or settings that contradict each other.
    #[error("{0}")]
    Usage(String),
    /// The broker did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The data directory cannot be inspected or repaired.
    #[error(transparent)]
    Repair(#[from] RepairError),
    /// The data directory has damage that was not repaired.
    #[error("{0}")]
    Damaged(String),
    /// A bucket has problems that a check found.
    #[error("{0}")]
    TierProblems(String),
    /// A bucket cannot be used.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// A restore failed.
    #[error(transparent)]
    Restore(#[from] RestoreFailure),
    /// A basic call to the operating system failed.
    #[error("{0}")]
    System(#[from] io::Error),
    /// A broker of the cluster that `dev` runs cannot run.
    #[error("{0}")]
    Cluster(String),
    /// No message went through, or a broker did not answer.
    #[error("{0:#}")]
    Probe(#[from] anyhow::Error),
}

fn lines(all: &[Invalid]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl Stop {
    /// The exit code: one for each reaction that a supervisor or a person can choose.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::Config { .. } | Self::Usage(_) | Self::Tier(_) => 2,
            Self::Start(error) | Self::Restore(RestoreFailure::Start(error)) => of_start(error),
            Self::Restore(RestoreFailure::Restore(error)) => of_restore(error),
            Self::Repair(RepairError::Directory(DirectoryError::InUse(_))) => 3,
            Self::Repair(RepairError::OtherVoters { .. }) => 8,
            Self::Repair(_) => 4,
            Self::Damaged(_) => 8,
            Self::System(_) | Self::Cluster(_) | Self::Probe(_) | Self::TierProblems(_) => 1,
        }
    }
}

fn of_start(error: &StartError) -> u8 {
    match error {
        StartError::Node(error) if is_in_use(error) => 3,
        StartError::Bind { .. } => 6,
        StartError::Peers(_) | StartError::Tier(_) => 2,
        StartError::System(_) => 1,
        StartError::Node(NodeError::Empty(_)) => 7,
        StartError::Node(_)
        | StartError::OtherBroker { .. }
        | StartError::Opening(_)
        | StartError::Join(_)
        | StartError::UnfinishedRestore(_)
        | StartError::CatalogDamaged(_) => 4,
    }
}

fn of_restore(error: &RestoreError) -> u8 {
    match error {
        RestoreError::Tier(error) => match error.remedy() {
            Remedy::RetryLater => 1,
            Remedy::Report => 2,
            Remedy::Object => 8,
        },
        RestoreError::NoClaim(_) => 2,
        RestoreError::NoCatalog { .. }
        | RestoreError::Losses(_)
        | RestoreError::TooManyPages { .. } => 8,
        RestoreError::Empty(_) => 7,
        RestoreError::Directory { .. } => 4,
        RestoreError::Proposed(_) | RestoreError::Refused { .. } | RestoreError::System(_) => 1,
    }
}

fn is_in_use(error: &NodeError) -> bool {
    matches!(error, NodeError::Directory(DirectoryError::InUse(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_to_end_has_its_code() {
        let code = |stop: Stop| stop.code();
        let in_use = DirectoryError::InUse("/d".into());
        assert_eq!(code(Stop::Settings(Vec::new())), 2);
        assert_eq!(code(Stop::Start(StartError::Node(in_use.into()))), 3);
        assert_eq!(code(Stop::Start(StartError::Node(NodeError::Empty("/d".into())))), 7);
        assert_eq!(code(Stop::Start(StartError::CatalogDamaged("x".into()))), 4);
        assert_eq!(code(Stop::Start(StartError::Opening("x".into()))), 4);
        let voters = "replica 2".to_owned();
        let others = RepairError::OtherVoters { shard: ropewalk_shard::ShardId(1), voters };
        assert_eq!(code(Stop::Repair(others)), 8);
        assert_eq!(code(Stop::Start(StartError::UnfinishedRestore("/d".into()))), 4);
        assert_eq!(code(Stop::TierProblems("x".into())), 1);
        let restore = |error: RestoreError| Stop::Restore(error.into()).code();
        assert_eq!(restore(RestoreError::Empty("/d".into())), 7);
        assert_eq!(restore(RestoreError::Losses(Vec::new())), 8);
        assert_eq!(restore(RestoreError::NoClaim("x".into())), 2);
        let missing = TierError::Missing { bucket: "b".into(), name: "n".into() };
        assert_eq!(restore(missing.into()), 8);
        let in_use = StartError::Node(DirectoryError::InUse("/d".into()).into());
        assert_eq!(code(Stop::Restore(in_use.into())), 3);
        let source = io::Error::from(io::ErrorKind::AddrInUse);
        assert_eq!(code(Stop::Start(StartError::Bind { address: "x".into(), source })), 6);
    }
}
