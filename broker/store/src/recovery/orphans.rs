//! Removes files that no kept snapshot names: written before a crash and not checkpointed, or
//! released and not removed yet. What a transfer is receiving stays. This happens before any log is
//! opened.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ropewalk_disk::Open;
use ropewalk_shard::ShardId;

use super::RecoveredShard;
use crate::checkpoint::files::KeptSnapshot;
use crate::directory::{DataDir, DirectoryError};
use crate::transfer::Transfers;

/// Removes the files of partitions that no snapshot and no transfer names. Returns the first
/// incarnation number that no directory has had.
///
/// With a damaged shard (`all_known` is false) nothing is removed, because its snapshots are
/// unknown.
pub(super) fn remove(
    data: &DataDir,
    sound: &[RecoveredShard],
    transfers: &Transfers,
    all_known: bool,
) -> Result<u64, DirectoryError> {
    let kept = sound.iter().flat_map(|shard| &shard.kept);
    let named: BTreeSet<String> = kept
        .flat_map(|(_, snapshot)| &snapshot.partitions)
        .map(|files| DataDir::partition_name(files.partition, files.incarnation))
        .chain(transfers.partitions())
        .collect();
    let mut next_incarnation = 1;
    let dir = data.partitions();
    for name in data.names(&dir)?.into_iter().chain(named.iter().cloned()) {
        let incarnation =
            name.rsplit_once('.').and_then(|(_, incarnation)| incarnation.parse::<u64>().ok());
        next_incarnation =
            next_incarnation.max(incarnation.map_or(0, |incarnation| incarnation + 1));
        if all_known && !named.contains(&name) {
            data.remove_all_in(&dir.join(name))?;
        }
    }
    Ok(next_incarnation)
}

/// Removes the spill files that no kept snapshot names. Returns the lengths of the others.
pub(super) fn spill_files(
    data: &DataDir,
    shard: ShardId,
    kept: &VecDeque<KeptSnapshot>,
) -> Result<BTreeMap<u64, u64>, DirectoryError> {
    let dir = data.spill(shard);
    let mut found = BTreeMap::new();
    for name in data.names(&dir)? {
        let path = dir.join(&name);
        let number = name.strip_suffix(".spill").and_then(|number| number.parse().ok());
        let named = number.filter(|number| kept.iter().any(|k| k.spill.contains_key(number)));
        match named {
            None => data.disk().remove(&path).map_err(DirectoryError::io(&path))?,
            Some(number) => {
                let length = data.disk().open(&path, Open::Read).and_then(|file| file.len());
                found.insert(number, length.map_err(DirectoryError::io(&path))?);
            }
        }
    }
    Ok(found)
}
