//! Marks of replicas that must not run again, because they have diverged from the others.
//!
//! The mark of a replica is a file `shards/<shard>/quarantined-<replica>`, whose text is the
//! reason. Only its presence matters. Recovery does not start a replica that has one: its shard
//! counts as damaged. A replica of the same shard with another id, which gets the files of another
//! broker, is not concerned.
//!
//! # After a crash
//!
//! A mark whose name was not durable may be lost. The replica then runs until the next comparison
//! of the states.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ropewalk_disk::{File, Open};
use ropewalk_shard::{ReplicaId, ShardId};

use crate::directory::{DataDir, DirectoryError, read_whole};

const PREFIX: &str = "quarantined-";
const REASON_BYTES_MAX: u64 = 64 << 10;
/// The reason of the syncs, for metrics.
const WHY: &str = "quarantine";

fn path_of(data: &DataDir, shard: ShardId, replica: ReplicaId) -> PathBuf {
    data.shard(shard).join(format!("{PREFIX}{}", replica.0))
}

/// Marks a replica, durably.
pub(crate) fn put(
    data: &DataDir,
    shard: ShardId,
    replica: ReplicaId,
    reason: &str,
) -> Result<(), DirectoryError> {
    let path = path_of(data, shard, replica);
    let write = || -> io::Result<Arc<dyn File>> {
        let file = data.disk().open(&path, Open::CreateOrTruncate)?;
        file.write_all_at(reason.as_bytes(), 0)?;
        Ok(file)
    };
    let file = write().map_err(DirectoryError::io(&path))?;
    file.sync(WHY).map_err(DirectoryError::sync(&path))?;
    sync_dir(data, shard)
}

/// Why a replica is quarantined; `None` if it is not.
pub(crate) fn reason(
    data: &DataDir,
    shard: ShardId,
    replica: ReplicaId,
) -> Result<Option<String>, DirectoryError> {
    let path = path_of(data, shard, replica);
    if !data.disk().exists(&path).map_err(DirectoryError::io(&path))? {
        return Ok(None);
    }
    let reason = read_whole(&**data.disk(), &path, REASON_BYTES_MAX)?;
    Ok(Some(format!("its replica is quarantined: {}", String::from_utf8_lossy(&reason))))
}

/// Removes the marks of the replicas of a shard, durably.
pub(crate) fn lift(data: &DataDir, shard: ShardId) -> Result<(), DirectoryError> {
    let dir = data.shard(shard);
    let mut names = data.names(&dir)?;
    names.retain(|name| name.starts_with(PREFIX));
    for name in &names {
        let path = dir.join(name);
        data.disk().remove(&path).map_err(DirectoryError::io(&path))?;
    }
    if names.is_empty() { Ok(()) } else { sync_dir(data, shard) }
}

/// Removes the mark of a replica that no longer exists, without a sync.
pub(crate) fn remove(
    data: &DataDir,
    shard: ShardId,
    replica: ReplicaId,
) -> Result<(), DirectoryError> {
    let path = path_of(data, shard, replica);
    match data.disk().remove(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DirectoryError::io(&path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn sync_dir(data: &DataDir, shard: ShardId) -> Result<(), DirectoryError> {
    let dir = data.shard(shard);
    data.disk().sync_dir(&dir, WHY).map_err(DirectoryError::sync(&dir))
}

#[cfg(test)]
mod tests {
    use ropewalk_disk::SimDisk;
    use ropewalk_shard::BrokerId;

    use super::*;
    use crate::bootstrap;
    use crate::directory::Identity;
    use crate::recovery::{OpenStore, Options, open};

    const SHARD: ShardId = ShardId(1);
    /// The replica of [`SHARD`] in a directory that was just formatted.
    const REPLICA: ReplicaId = ReplicaId(2);

    fn data(disk: &SimDisk) -> DataDir {
        DataDir::new(Arc::new(disk.clone()), PathBuf::from("/data"))
    }

    fn options() -> Options {
        let wal = ropewalk_wal::Options { file_bytes: 4 << 20, ..Default::default() };
        Options { wal, ..Options::default() }
    }

    fn formatted() -> SimDisk {
        let disk = SimDisk::new(1);
        let cluster_id = "cluster".to_owned();
        let identity = Identity::first(cluster_id, BrokerId(1), 2);
        bootstrap::format(&data(&disk), &identity, &options()).expect("formatted");
        disk
    }

    fn opened(disk: &SimDisk) -> OpenStore {
        open(data(disk), &options()).expect("it opens")
    }

    #[test]
    fn d4_a_quarantined_replica_does_not_start_and_the_others_do() {
        let disk = formatted();
        put(&data(&disk), SHARD, REPLICA, "its state differs").expect("marked");
        disk.power_cycle(7);
        let store = opened(&disk);
        let [damaged] = &store.damaged[..] else { panic!("{:?}", store.damaged) };
        assert_eq!(damaged.shard, SHARD);
        assert!(damaged.what.contains("quarantined: its state differs"), "{}", damaged.what);
        let started: Vec<_> = store.replicas.iter().map(|replica| replica.shard.0).collect();
        assert_eq!(started, [0, 2]);
        drop(store);
        lift(&data(&disk), SHARD).expect("lifted");
        disk.power_cycle(8);
        assert_eq!(opened(&disk).damaged, []);
    }

    #[test]
    fn a_mark_concerns_no_other_replica_of_the_shard() {
        let disk = formatted();
        put(&data(&disk), SHARD, ReplicaId(3), "it was before this one").expect("marked");
        assert_eq!(opened(&disk).damaged, []);
    }
}
