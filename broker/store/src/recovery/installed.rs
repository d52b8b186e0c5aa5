//! Opens a shard whose files have just come from another broker.

use std::sync::Arc;

use ropewalk_shard::ShardId;
use ropewalk_shard::engine::HardState;

use super::{OpenError, OpenedReplica, RecoveredShard, load_kept};
use crate::directory::DirectoryError;
use crate::partition_logs::PartitionLogs;
use crate::snapshot::Snapshots;
use crate::store::Store;
use crate::transfer;

/// Opens a shard whose files were installed while the broker runs: see
/// [`crate::transfer::Receiver::install`]. `known` is the hard state of its replica before that.
///
/// # Errors
/// When its snapshot or its files cannot be read.
pub fn open_installed(
    store: &Arc<Store>,
    log: ropewalk_wal::Reader,
    shard: ShardId,
    known: Option<ropewalk_wal::HardState>,
) -> Result<OpenedReplica, OpenError> {
    let kept = load_kept(&Snapshots::new(store.data(), shard))?;
    let Some((number, newest)) = kept.last() else {
        let path = store.data().snapshots();
        let what = format!("there is no intact snapshot of {shard}");
        return Err(DirectoryError::Damaged { path, what }.into());
    };
    tracing::debug!(%shard, number, index = newest.index, "the installed shard is opened");
    let ropewalk_wal::HardState { term, vote, commit } = transfer::hard_state_after(newest, known);
    let hard_state = HardState { term, vote, commit };
    let truncated = newest.index;
    let installed = RecoveredShard { kept, hard_state, truncated, entries: Vec::new() };
    let mut damaged = Vec::new();
    installed.open(PartitionLogs::new(Arc::clone(store), shard), log, &mut damaged)
}
