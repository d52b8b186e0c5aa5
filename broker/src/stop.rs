//! Why the process ends, and with which exit code.

use std::io;
use std::path::PathBuf;

use ropewalk_broker::boot::StartError;
use ropewalk_broker::settings::Invalid;
use ropewalk_node::NodeError;
use ropewalk_store::directory::DirectoryError;
use ropewalk_store::repair::RepairError;

/// Why the process ends, other than being asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    /// Settings that cannot be.
    #[error("{}", lines(.0))]
    Settings(Vec<Invalid>),
    /// The configuration file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Config {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Flags or settings that do not go together.
    #[error("{0}")]
    Usage(String),
    /// The broker did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A directory cannot be looked through or repaired.
    #[error(transparent)]
    Repair(#[from] RepairError),
    /// There is damage, and it stays.
    #[error("{0}")]
    Damaged(String),
    /// The operating system refuses something basic.
    #[error("{0}")]
    System(#[from] io::Error),
    /// No message went through.
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
            Self::Settings(_) | Self::Config { .. } | Self::Usage(_) => 2,
            Self::Start(StartError::Node(error)) if is_in_use(error) => 3,
            Self::Start(StartError::Bind { .. }) => 6,
            Self::Start(StartError::Node(NodeError::Empty(_))) => 7,
            Self::Repair(RepairError::Directory(DirectoryError::InUse(_))) => 3,
            Self::Start(_) | Self::Repair(_) => 4,
            Self::Damaged(_) => 8,
            Self::System(_) | Self::Probe(_) => 1,
        }
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
        let source = io::Error::from(io::ErrorKind::AddrInUse);
        assert_eq!(code(Stop::Start(StartError::Bind { address: "x".into(), source })), 6);
    }
}
