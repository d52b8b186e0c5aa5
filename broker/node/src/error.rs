//! Why a node does not open.

use std::path::PathBuf;

use ropewalk_shard::ShardId;
use ropewalk_shard::engine::EngineError;
use ropewalk_store::directory::DirectoryError;
use ropewalk_store::recovery::OpenError;

/// Why a node did not open.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The directory is empty, and the options have no identity to format it.
    #[error(
        "the data directory is empty: {0} holds no broker's data. A new broker needs the option to \
         format it; if this broker is not new, its disk was lost"
    )]
    Empty(PathBuf),
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The content of the directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A thread cannot be started.
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
    /// The system has no random numbers.
    #[error("the system has no random numbers: {0}")]
    Random(getrandom::Error),
    /// A replica cannot start from the recovered state.
    #[error("{shard}: {source}")]
    Engine {
        /// The shard of the replica.
        shard: ShardId,
        /// The error of the engine.
        source: EngineError,
    },
}
