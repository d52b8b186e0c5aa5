//! Makes room in the write-ahead log: the entries of replicas that are not started are moved to
//! files of their own.

use std::collections::BTreeSet;

use ropewalk_wal::{RecoveredLog, ReplicaKey, SetAside, SetAsideError, Wal, WalError};

use super::{DamagedShard, RecoveredShard, key_of};

/// Copies the log entries of replicas that are not started to files of their own, for a repair, so
/// that they do not prevent the release of WAL files.
pub(super) fn set_aside(
    wal: &mut Wal,
    recovered: &RecoveredLog,
    sound: &[RecoveredShard],
    damaged: &mut [DamagedShard],
) -> Result<(), WalError> {
    let started: BTreeSet<ReplicaKey> =
        sound.iter().map(|shard| key_of(&shard.newest().1)).collect();
    for (key, replica) in recovered.replicas.iter().filter(|(key, _)| !started.contains(key)) {
        let note = match wal.set_aside(*key, replica) {
            Ok(None) => continue,
            Ok(Some(SetAside { path, bytes, first, last })) => {
                format!(
                    "its log entries {first} to {last} are kept for a repair in {} ({bytes} bytes)",
                    path.display()
                )
            }
            Err(SetAsideError::Failed(error)) => return Err(error),
            Err(SetAsideError::Stays(error)) => format!(
                "its log entries stay in the write-ahead log and will fill it, because they cannot be copied: {error}"
            ),
        };
        tracing::warn!(shard = key.shard, replica = key.replica, note, "replica is not started");
        let of_shard = damaged.iter_mut().find(|damaged| damaged.shard.0 == key.shard);
        if let Some(damaged) = of_shard {
            damaged.what = format!("{}; {note}", damaged.what);
        }
    }
    Ok(())
}
