//! Installs a set that is received and verified.
//!
//! # Order, and the state after a crash
//!
//! 1. Files of received partitions that the set does not list are removed, and the runs in the
//!    received spill files are written to a spill file of this broker: no snapshot names these
//!    files yet.
//! 2. The snapshot, with this broker's replica, incarnations and spill file, is written to
//!    `transfers/<shard>/install`. When its name is durable, **the set is committed**: from here on
//!    recovery completes the installation, before it opens the shard.
//! 3. The same snapshot is written as the newest one of the shard.
//! 4. The write-ahead log of the replica begins again behind the snapshot. Its term and its vote
//!    stay (D4): only entries are replaced.
//! 5. The marks of earlier replicas of the shard that were destroyed, `install` and the manifest
//!    are removed, durably. Only then the replica starts.
//!
//! Each of the steps 3 to 5 may be repeated.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ropewalk_segment::spill::{SpillReader, SpillWriter};
use ropewalk_shard::ShardId;
use ropewalk_wal::{HardState, Record, RecoveredLog, Submission, Wal, WalError, WalHandle};

use super::incoming::IncomingFiles;
use super::manifest::{Manifest, SetFile};
use crate::destroyed;
use crate::directory::{DataDir, DirectoryError};
use crate::replica_log;
use crate::snapshot::{PartitionFiles, Snapshot, SnapshotError, Snapshots, SpillRun, encode};
use crate::store::Store;
use crate::work::WorkError;

/// The state of the replica in the write-ahead log before the installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The last hard state; `None` for a replica that never had one.
    pub hard_state: Option<HardState>,
}

/// The write-ahead log, for an installation.
pub trait LogRestart {
    /// Writes records durably, from the reserve if it must be.
    ///
    /// # Errors
    /// When they cannot be written; then none of them counts.
    fn write(&mut self, records: Vec<Record>) -> Result<(), WorkError>;
}

impl LogRestart for Wal {
    fn write(&mut self, records: Vec<Record>) -> Result<(), WorkError> {
        self.write_round_from_reserve(&records).map(|_| ()).map_err(|error| to_work(&error))
    }
}

impl LogRestart for WalHandle {
    fn write(&mut self, records: Vec<Record>) -> Result<(), WorkError> {
        let (answer, answered) = ropewalk_thread::channel();
        let submission = Submission::new(records, move |result| {
            // The receiver may have been dropped.
            answer.send(result);
        });
        self.submit(submission.from_reserve());
        let result = answered.recv().unwrap_or_else(|_| Err(Arc::new(WalError::Closed)));
        result.map(|_| ()).map_err(|error| to_work(&error))
    }
}

fn to_work(error: &WalError) -> WorkError {
    if error.is_final() {
        WorkError::Final(error.to_string())
    } else {
        WorkError::Later(error.to_string())
    }
}

/// Installs the set of a manifest, all of which is durable and verified.
pub(super) fn install(
    store: &Store,
    files: &mut IncomingFiles,
    manifest: &Manifest,
    position: Position,
    log: &mut dyn LogRestart,
) -> Result<(), WorkError> {
    let (data, shard) = (store.data(), manifest.list.shard);
    let snapshots = Snapshots::new(data, shard);
    let snapshot = snapshots.load_from(files.snapshot()).map_err(to_later)?;
    if (snapshot.index, snapshot.term) != (manifest.list.index, manifest.list.term) {
        let what = format!("the received snapshot of {shard} is of {}", snapshot.index);
        return Err(WorkError::Later(what));
    }
    sweep(data, files, manifest, &snapshot)?;
    let snapshot = adopt(store, files, manifest, snapshot)?;
    commit(data, files, shard, &snapshot)?;
    put_snapshot(files, &snapshots, &snapshot)?;
    log.write(restart(&snapshot, position.hard_state))?;
    destroyed::lift(data, shard)?;
    files.forget()?;
    Ok(())
}

fn to_later(error: SnapshotError) -> WorkError {
    match error {
        SnapshotError::Directory(error) => error.into(),
        SnapshotError::Damaged { .. } | SnapshotError::UnknownVersion { .. } => {
            WorkError::Later(error.to_string())
        }
    }
}

/// Removes what earlier sets left behind.
fn sweep(
    data: &DataDir,
    files: &IncomingFiles,
    manifest: &Manifest,
    snapshot: &Snapshot,
) -> Result<(), DirectoryError> {
    let mut listed: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for file in &manifest.list.files {
        if let SetFile::Segment(of) = file {
            let (index, _) = files.index(manifest, of);
            listed.entry(of.partition).or_default().extend([files.content(manifest, file), index]);
        }
    }
    debug_assert!(listed.keys().all(|id| snapshot.partitions.iter().any(|f| f.partition == *id)));
    for (partition, incarnation) in &manifest.incarnations {
        let dir = data.partition(*partition, *incarnation);
        let kept = listed.get(partition);
        let mut is_changed = false;
        for name in data.names(&dir)? {
            let path = dir.join(name);
            if !kept.is_some_and(|kept| kept.contains(&path)) {
                data.disk().remove(&path).map_err(DirectoryError::io(&path))?;
                is_changed = true;
            }
        }
        if is_changed {
            let synced = data.disk().sync_dir(&dir, "transfer-directory");
            synced.map_err(DirectoryError::sync(&dir))?;
        }
    }
    Ok(())
}

/// The snapshot of the sender as one of this broker's replica.
fn adopt(
    store: &Store,
    files: &IncomingFiles,
    manifest: &Manifest,
    mut snapshot: Snapshot,
) -> Result<Snapshot, WorkError> {
    snapshot.replica = ropewalk_shard::ReplicaId(manifest.replica);
    for named in &mut snapshot.partitions {
        let known = manifest.incarnations.get(&named.partition);
        named.incarnation = known.copied().unwrap_or_else(|| store.next_incarnation());
    }
    let is_spilled = |files: &PartitionFiles| !files.spill.is_empty();
    if snapshot.partitions.iter().any(is_spilled) {
        spill(store, files, manifest.list.shard, &mut snapshot.partitions)?;
    }
    Ok(snapshot)
}

/// Writes all runs of spilled batches to one new spill file, durably.
fn spill(
    store: &Store,
    files: &IncomingFiles,
    shard: ShardId,
    partitions: &mut [PartitionFiles],
) -> Result<(), WorkError> {
    let (data, disk) = (store.data(), store.data().disk());
    data.create_dir(&data.spill(shard))?;
    let names = data.names(&data.spill(shard))?;
    let numbers = names.iter().filter_map(|name| name.strip_suffix(".spill")?.parse::<u64>().ok());
    let number = numbers.max().map_or(0, |last| last + 1);
    let path = data.spill_file(shard, number);
    let mut writer = SpillWriter::create(Arc::clone(disk), path)?;
    let mut readers: BTreeMap<u64, SpillReader> = BTreeMap::new();
    for named in partitions {
        for run in &mut named.spill {
            let reader = match readers.entry(run.file) {
                std::collections::btree_map::Entry::Occupied(open) => open.into_mut(),
                std::collections::btree_map::Entry::Vacant(none) => {
                    none.insert(SpillReader::open(&**disk, files.spill(run.file))?)
                }
            };
            let batches = reader.read(&run.extent())?;
            let extent = writer.add(named.partition.to_bytes(), &batches)?;
            *run =
                SpillRun::new(number, extent, run.records, run.max_timestamp_ms, run.appended_ms);
        }
    }
    writer.finish()?;
    Ok(())
}

/// Commits the installation.
fn commit(
    data: &DataDir,
    files: &IncomingFiles,
    shard: ShardId,
    snapshot: &Snapshot,
) -> Result<(), DirectoryError> {
    let (dir, path) = (data.transfer(shard), files.install());
    let unfinished = path.with_extension("unfinished");
    files.put(&unfinished, &encode(snapshot))?;
    data.disk().rename(&unfinished, &path).map_err(DirectoryError::io(&path))?;
    sync_dir(data, &dir)?;
    // The shard may be new on this broker.
    data.create_dir(&data.spill(shard))
}

fn sync_dir(data: &DataDir, dir: &Path) -> Result<(), DirectoryError> {
    let synced = data.disk().sync_dir(dir, "transfer-manifest-directory");
    synced.map_err(DirectoryError::sync(dir))
}

/// Writes the newest snapshot of the shard, unless it is there already.
fn put_snapshot(
    files: &IncomingFiles,
    snapshots: &Snapshots,
    snapshot: &Snapshot,
) -> Result<(), DirectoryError> {
    let newest = snapshots.numbers()?.last().copied();
    let is_there = newest.is_some_and(|number| {
        snapshots.load(number).is_ok_and(|there| {
            (there.replica, there.index, there.term)
                == (snapshot.replica, snapshot.index, snapshot.term)
        })
    });
    if !is_there {
        // A name of its own, because a checkpoint may have left an unfinished snapshot.
        let (copy, path) = (files.copy(), snapshots.path(newest.map_or(1, |number| number + 1)));
        files.put(&copy, &encode(snapshot))?;
        files.data().disk().rename(&copy, &path).map_err(DirectoryError::io(&path))?;
    }
    snapshots.sync_names()
}

/// The records by which the log begins behind the snapshot.
fn restart(snapshot: &Snapshot, known: Option<HardState>) -> Vec<Record> {
    let key = replica_log::key(snapshot.shard, snapshot.replica);
    let Snapshot { index, term, .. } = *snapshot;
    let conf_state =
        postcard::to_allocvec(&snapshot.members).expect("members always encode").into();
    let begin = match known {
        Some(_) => Record::SnapshotInstalled { key, index, term, conf_state },
        None => Record::Created { key, index, term, conf_state },
    };
    vec![begin, Record::HardState { key, state: hard_state_after(snapshot, known) }]
}

/// The hard state of a replica that has installed a snapshot. `known` is the one before.
pub(crate) fn hard_state_after(snapshot: &Snapshot, known: Option<HardState>) -> HardState {
    let (known, term) = (known.unwrap_or_default(), snapshot.term);
    // A vote counts for its term only.
    let vote = if known.term >= term { known.vote } else { 0 };
    HardState { term: known.term.max(term), vote, commit: snapshot.index }
}

/// Why an installation cannot be completed.
#[derive(Debug)]
pub(crate) enum CompleteError {
    /// The disk failed.
    Directory(DirectoryError),
    /// The snapshot has another version, or the disk failed.
    Snapshot(SnapshotError),
    /// The write-ahead log cannot be written.
    Wal(WalError),
}

impl From<DirectoryError> for CompleteError {
    fn from(error: DirectoryError) -> Self {
        Self::Directory(error)
    }
}

/// Completes the installations that were committed before the end of an earlier process. Returns
/// whether the log was changed, and has to be opened again.
pub(crate) fn complete(
    data: &DataDir,
    wal: &mut Wal,
    recovered: &RecoveredLog,
) -> Result<bool, CompleteError> {
    let mut is_changed = false;
    for name in data.names(&data.transfers())? {
        let Ok(number) = name.parse() else { continue };
        let shard = ShardId(number);
        let mut files = IncomingFiles::new(data, shard);
        let path = files.install();
        if !data.disk().exists(&path).map_err(DirectoryError::io(&path))? {
            continue;
        }
        // Its name may not be durable yet.
        sync_dir(data, &data.transfer(shard))?;
        let snapshots = Snapshots::new(data, shard);
        let snapshot = match snapshots.load_from(path.clone()) {
            Ok(snapshot) => snapshot,
            Err(error @ SnapshotError::Damaged { .. }) => {
                tracing::error!(%error, "an installation cannot be completed: the transfer continues");
                data.disk().remove(&path).map_err(DirectoryError::io(&path))?;
                continue;
            }
            Err(error) => return Err(CompleteError::Snapshot(error)),
        };
        data.create_dir(&data.spill(shard))?;
        put_snapshot(&files, &snapshots, &snapshot)?;
        let row = recovered.replicas.get(&replica_log::key(shard, snapshot.replica));
        if row.is_none_or(|row| row.truncated.index < snapshot.index) {
            let records = restart(&snapshot, row.map(|row| row.hard_state));
            wal.write_round_from_reserve(&records).map_err(CompleteError::Wal)?;
            is_changed = true;
        }
        destroyed::lift(data, shard)?;
        files.forget()?;
        tracing::info!(%shard, index = snapshot.index, "an installation is completed");
    }
    Ok(is_changed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap as Map;

    use ropewalk_shard::engine::Members;
    use ropewalk_shard::{ReplicaId, State};

    use super::*;

    fn records(known: Option<HardState>) -> (bool, HardState) {
        let snapshot = Snapshot {
            shard: ShardId(1),
            replica: ReplicaId(2),
            index: 50,
            term: 4,
            members: Members::lone(1),
            replicas: Map::new(),
            state: State::default(),
            partitions: Vec::new(),
        };
        match &restart(&snapshot, known)[..] {
            [begin, Record::HardState { state, .. }] => {
                (matches!(begin, Record::Created { .. }), *state)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn d4_term_and_vote_outlive_an_installation() {
        let known = |term| Some(HardState { term, vote: 3, commit: 7 });
        let state = |term, vote| HardState { term, vote, commit: 50 };
        assert_eq!(records(None), (true, state(4, 0)));
        assert_eq!(records(known(3)), (false, state(4, 0)), "the vote was for term 3");
        assert_eq!(records(known(4)), (false, state(4, 3)));
        assert_eq!(records(known(9)), (false, state(9, 3)), "the term stays");
    }
}
