//! Destroys a replica that the catalog has removed from this broker: one that runs or is damaged,
//! or one that is only being received.
//!
//! # Order, and the state after a crash
//!
//! 1. The replica is [marked](crate::destroyed::mark). From here on recovery completes the
//!    destruction, and the replica never starts again.
//! 2. The caller ends its driver and its transfers, and takes it from the background work.
//! 3. Its files are removed: what was received for it, its partitions, snapshots and spill files.
//!    No snapshot of it is left, durably.
//! 4. The write-ahead log drops it.
//!
//! Each step may be repeated. The mark stays until another replica of the shard is installed: as
//! long as it exists, a shard without files is not damaged, but not on this broker.
//!
//! # Invariants
//!
//! - **D4** the files of another replica of the same shard stay.
//! - The snapshots of the replica are gone before another one of the shard can be installed, so
//!   that no older snapshot of it is ever the newest of the shard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ropewalk_shard::{ReplicaId, ShardId};
use ropewalk_wal::{Record, RecoveredLog, ReplicaKey, Wal};

use crate::destroyed;
use crate::directory::{DataDir, DirectoryError};
use crate::log::PartitionLog;
use crate::quarantine;
use crate::replica_log;
use crate::snapshot::{SnapshotError, Snapshots};
use crate::store::Store;
use crate::transfer::{self, CompleteError, LogRestart};
use crate::work::WorkError;

/// Removes the files of a marked replica, and drops it from the write-ahead log. Nothing uses the
/// files any more, and the broker has no other replica of the shard. `logs` are the logs of its
/// partitions, as far as they are known: those that a snapshot names are found.
///
/// # Errors
/// See [`WorkError`]. After one that is not final it may be called again; recovery completes it
/// otherwise.
pub fn destroy(
    store: &Store,
    shard: ShardId,
    replica: u64,
    logs: &[Arc<PartitionLog>],
    log: &mut dyn LogRestart,
) -> Result<(), WorkError> {
    let data = store.data();
    for log in logs {
        data.remove_all_in(&data.partition(log.partition(), log.incarnation()))?;
    }
    remove_files(data, shard, replica, false).map_err(|error| match error {
        SnapshotError::Directory(error) => error.into(),
        SnapshotError::Damaged { .. } | SnapshotError::UnknownVersion { .. } => {
            WorkError::Later(error.to_string())
        }
    })?;
    drop_log(shard, replica, log)?;
    tracing::info!(%shard, replica, "replica destroyed");
    Ok(())
}

/// Drops a replica from the write-ahead log, which may not know it.
///
/// # Errors
/// See [`WorkError`].
pub fn drop_log(shard: ShardId, replica: u64, log: &mut dyn LogRestart) -> Result<(), WorkError> {
    log.write(vec![Record::ReplicaDestroyed { key: key_of(shard, replica) }])
}

fn key_of(shard: ShardId, replica: u64) -> ReplicaKey {
    replica_log::key(shard, ReplicaId(replica))
}

/// Removes the files of a replica. With `has_other`, damaged files may be those of another replica
/// of the shard, and stay.
fn remove_files(
    data: &DataDir,
    shard: ShardId,
    replica: u64,
    has_other: bool,
) -> Result<(), SnapshotError> {
    transfer::forget(data, shard, replica)?;
    let snapshots = Snapshots::new(data, shard);
    let (mut kept, mut partitions) = (Vec::new(), BTreeSet::new());
    for number in snapshots.numbers()? {
        match snapshots.load(number) {
            Ok(snapshot) if snapshot.replica.0 == replica => {
                partitions.extend(snapshot.partitions.iter().map(|files| files.id()));
            }
            Ok(_) => kept.push(number),
            Err(SnapshotError::Damaged { .. }) if has_other => kept.push(number),
            Err(SnapshotError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    // As long as a snapshot names them.
    for of in partitions {
        data.remove_all_in(&data.partition(of.partition, of.incarnation))?;
    }
    snapshots.remove_all_but(&kept)?;
    snapshots.sync_names()?;
    if kept.is_empty() && !has_other {
        data.remove_all_in(&data.spill(shard))?;
    }
    Ok(quarantine::remove(data, shard, ReplicaId(replica))?)
}

/// The newest destroyed replica of each shard that has a mark.
#[derive(Debug, Default)]
pub(crate) struct Destroyed(pub(crate) BTreeMap<ShardId, u64>);

impl Destroyed {
    /// Completes the destruction of the replicas that are marked. Returns them, and whether the
    /// log was changed and has to be opened again.
    pub(crate) fn complete(
        data: &DataDir,
        wal: &mut Wal,
        recovered: &RecoveredLog,
    ) -> Result<(Self, bool), CompleteError> {
        let (mut newest, mut records) = (BTreeMap::new(), Vec::new());
        for shard in data.shards()? {
            let marked = destroyed::marks(data, shard)?;
            if marked.is_empty() {
                continue;
            }
            // Their names may not be durable yet.
            destroyed::sync(data, shard)?;
            let is_other = |key: &ReplicaKey| {
                key.shard == shard.0 && marked.binary_search(&key.replica).is_err()
            };
            let has_other = recovered.replicas.keys().any(is_other);
            for replica in marked {
                remove_files(data, shard, replica, has_other).map_err(CompleteError::Snapshot)?;
                let key = key_of(shard, replica);
                if recovered.replicas.contains_key(&key) {
                    tracing::info!(%shard, replica, "the destruction of the replica is completed");
                    records.push(Record::ReplicaDestroyed { key });
                }
                newest.insert(shard, replica);
            }
        }
        if !records.is_empty() {
            wal.write_round_from_reserve(&records).map_err(CompleteError::Wal)?;
        }
        Ok((Self(newest), !records.is_empty()))
    }

    /// Whether the replica of this shard was destroyed and the broker has no other one.
    pub(crate) fn is_all_of(
        &self,
        data: &DataDir,
        shard: ShardId,
        recovered: &RecoveredLog,
    ) -> Result<bool, DirectoryError> {
        let is_known = recovered.replicas.keys().any(|key| key.shard == shard.0);
        let is_marked = self.0.contains_key(&shard);
        Ok(is_marked && !is_known && Snapshots::new(data, shard).numbers()?.is_empty())
    }
}

#[cfg(test)]
mod tests;
