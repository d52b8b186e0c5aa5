//! The transfers that an earlier process did not end, for recovery.

use std::collections::BTreeMap;

use ropewalk_shard::ShardId;

use super::incoming::IncomingFiles;
use super::manifest::Manifest;
use crate::directory::{DataDir, DirectoryError};
use crate::snapshot::{Snapshot, SnapshotError, Snapshots};

/// Removes what was received for a replica that no longer exists, durably.
pub(crate) fn forget(data: &DataDir, shard: ShardId, replica: u64) -> Result<(), SnapshotError> {
    let mut files = IncomingFiles::new(data, shard);
    let manifest = files.load()?.filter(|manifest| manifest.replica == replica);
    let path = files.install();
    let is_installing = data.disk().exists(&path).map_err(DirectoryError::io(&path))?
        && match Snapshots::new(data, shard).load_from(path) {
            Ok(snapshot) => snapshot.replica.0 == replica,
            Err(SnapshotError::Damaged { .. }) => false,
            Err(error) => return Err(error),
        };
    if manifest.is_some() || is_installing {
        files.abandon(manifest.as_ref())?;
    }
    Ok(())
}

/// The shards that are being received.
#[derive(Debug)]
pub(crate) struct Transfers(BTreeMap<ShardId, Manifest>);

impl Transfers {
    /// Reads the manifests. Removes what belongs to none.
    pub(crate) fn load(data: &DataDir) -> Result<Self, DirectoryError> {
        let mut found = BTreeMap::new();
        for name in data.names(&data.transfers())? {
            let Ok(number) = name.parse() else { continue };
            let shard = ShardId(number);
            let mut files = IncomingFiles::new(data, shard);
            match files.load()? {
                Some(manifest) if manifest.list.shard == shard => {
                    found.insert(shard, manifest);
                }
                Some(_) | None => files.forget()?,
            }
        }
        Ok(Self(found))
    }

    /// The replica for which a shard is being received.
    pub(crate) fn replica(&self, shard: ShardId) -> Option<u64> {
        self.0.get(&shard).map(|manifest| manifest.replica)
    }

    /// Ends the transfer of a shard whose newest snapshot includes what is being received.
    pub(crate) fn end_needless(
        &mut self,
        data: &DataDir,
        newest: &Snapshot,
    ) -> Result<(), DirectoryError> {
        let needless = |manifest: &Manifest| {
            manifest.replica == newest.replica.0 && manifest.list.index <= newest.index
        };
        if self.0.get(&newest.shard).is_some_and(needless) {
            self.0.remove(&newest.shard);
            // The partitions go as orphans do, except those that a snapshot names.
            IncomingFiles::new(data, newest.shard).forget()?;
        }
        Ok(())
    }

    /// The shards that are being received.
    pub(crate) fn shards(&self) -> impl Iterator<Item = ShardId> {
        self.0.keys().copied()
    }

    /// The names of the directories of the received partitions.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = String> {
        let incarnations = self.0.values().flat_map(|manifest| &manifest.incarnations);
        incarnations.map(|(partition, number)| DataDir::partition_name(*partition, *number))
    }
}
