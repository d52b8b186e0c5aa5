//! The write-ahead log of a directory, and the shards that the directory has.

use std::sync::Arc;

use ropewalk_shard::ShardId;
use ropewalk_wal::{RecoveredLog, Wal};

use crate::destroy::Destroyed;
use crate::directory::{DataDir, Identity};
use crate::recovery::{self, OpenError};

/// A log that is open.
pub(super) struct OpenLog {
    pub(super) wal: Wal,
    pub(super) recovered: RecoveredLog,
    /// The shards of which the directory has a replica, or should have one.
    pub(super) held: Vec<ShardId>,
}

/// Opens the log, and completes the destruction of replicas as every start does: they are not
/// repaired.
pub(super) fn open(
    data: &DataDir,
    identity: &Identity,
    options: &recovery::Options,
) -> Result<OpenLog, OpenError> {
    let open = || Wal::open(Arc::clone(data.disk()), &data.wal(), options.wal);
    let (mut wal, mut recovered) = open()?;
    let (destroyed, is_dropped) = Destroyed::complete(data, &mut wal, &recovered)?;
    if is_dropped {
        drop(wal);
        (wal, recovered) = open()?;
    }
    let with_files = data.shards()?;
    let mut held = Vec::new();
    for shard in (0..=identity.shards).map(ShardId) {
        let has_log = recovered.replicas.keys().any(|key| key.shard == shard.0);
        // A broker that has joined has only the shards that it received.
        let never = identity.is_joined && !has_log && !with_files.contains(&shard);
        if !never && !destroyed.is_all_of(data, shard, &recovered)? {
            held.push(shard);
        }
    }
    Ok(OpenLog { wal, recovered, held })
}
