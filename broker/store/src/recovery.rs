//! Opens a data directory: restores each replica from its newest snapshot and the write-ahead log.
//!
//! # Order
//!
//! 1. Read the identity of the directory and make it durable: an earlier process may have failed
//!    to.
//! 2. Open the write-ahead log, which cuts its torn tail and reports replicas that lost records.
//! 3. Complete the destruction of replicas that the catalog has removed ([`crate::destroy`]), then
//!    the installation of transferred files ([`crate::transfer`]).
//! 4. Per shard, load the newest intact snapshot and the index of the log entries after it.
//! 5. Remove files that no kept snapshot and no transfer names.
//! 6. Cut every partition's segments at the end that the snapshot names.
//!
//! The shard's driver then replays the entries after the snapshot. A crash may come at any point:
//! the next start repeats all steps.
//!
//! # Invariants
//!
//! - **D3** the checksum of a snapshot is verified; the older one is used if the newest is damaged.
//!   A damaged shard is not started, the others are. Its files are not changed: only an explicit
//!   repair does that.
//! - **D4** a replica whose log is missing or damaged, or that is quarantined, is not started: it
//!   must not vote.
//! - The returned entries follow the snapshot without a gap, and the commit index is within them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use ropewalk_segment::{FileCache, SegmentError};
use ropewalk_shard::engine::{self, EntryId, EntrySource, HardState, Start, StoredEntry};
use ropewalk_shard::{BrokerId, PartitionId, ReplicaId, ShardId, State};
use ropewalk_wal::{
    EntryMeta, Location, RecoveredLog, RecoveredReplica, ReplicaKey, Wal, WalError,
};

use crate::budget::TailBudget;
use crate::checkpoint::ShardFiles;
use crate::checkpoint::files::KeptSnapshot;
use crate::destroy::Destroyed;
use crate::directory::{DataDir, DataDirContents, DirectoryError, Identity};
use crate::log::PartitionLog;
use crate::partition_logs::PartitionLogs;
use crate::quarantine;
use crate::replica_log;
use crate::snapshot::{PartitionFiles, Snapshot, SnapshotError, Snapshots};
use crate::store::Store;
use crate::transfer::{self, CompleteError, Transfers};

mod installed;
mod orphans;
mod set_aside;

pub use installed::open_installed;

/// Why a directory cannot be opened at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or its `meta` file cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A snapshot of another version.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The write-ahead log cannot be opened.
    #[error(transparent)]
    Wal(#[from] ropewalk_wal::OpenError),
    /// The write-ahead log cannot be written.
    #[error(transparent)]
    WalWrite(#[from] WalError),
    /// The write-ahead log holds an entry that a newer broker wrote.
    #[error("an entry has the kind {kind}, which this broker does not support")]
    EntryKind {
        /// Kind of the entry.
        kind: u8,
    },
    /// A partition's files cannot be opened.
    #[error(transparent)]
    Segments(#[from] SegmentError),
}

impl From<CompleteError> for OpenError {
    fn from(error: CompleteError) -> Self {
        match error {
            CompleteError::Directory(error) => error.into(),
            CompleteError::Snapshot(error) => error.into(),
            CompleteError::Wal(error) => error.into(),
        }
    }
}

/// Bounds of an open store.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Options of the write-ahead log.
    pub wal: ropewalk_wal::Options,
    /// Most bytes that all tails together may hold.
    pub tail_bytes_max: usize,
    /// Most segment files that are kept open for readers.
    pub open_files_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        let wal = ropewalk_wal::Options::default();
        Self { wal, tail_bytes_max: 96 << 20, open_files_max: 1024 }
    }
}

/// A data directory in use.
#[derive(Debug)]
pub struct OpenStore {
    /// The broker that the directory belongs to.
    pub identity: Identity,
    /// The store that all shards share.
    pub store: Arc<Store>,
    /// The write-ahead log.
    pub wal: Wal,
    /// The replicas that can be started.
    pub replicas: Vec<OpenedReplica>,
    /// The shards that are being received from another broker, with the Raft id of the replica that
    /// will be started then: to pass to [`crate::transfer::Receiver::begin`].
    pub receiving: Vec<(ShardId, u64)>,
    /// The newest replica of each shard that was destroyed since another one was installed.
    pub destroyed: BTreeMap<ShardId, u64>,
    /// The shards that cannot be started.
    pub damaged: Vec<DamagedShard>,
    /// Damage to records of partitions. Reads of them fail, all other reads work.
    pub damaged_partitions: Vec<(PartitionId, String)>,
}

/// A replica as of its snapshot, with the entries to replay.
#[derive(Debug)]
pub struct OpenedReplica {
    /// The shard of the replica.
    pub shard: ShardId,
    /// The start of the engine: members and position of the snapshot, hard state, later entries.
    pub start: Start,
    /// The broker of each replica, as of the snapshot.
    pub replicas: BTreeMap<ReplicaId, BrokerId>,
    /// The state as of the snapshot.
    pub state: State,
    /// The partition logs as of the snapshot.
    pub logs: HashMap<PartitionId, Arc<PartitionLog>>,
    /// Creates the logs of new partitions.
    pub partition_logs: Arc<PartitionLogs>,
    /// The shard's files, to pass to [`crate::checkpoint::Checkpointer::add`].
    pub files: ShardFiles,
}

/// A shard that cannot be started because data is lost (D3, D4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedShard {
    /// The damaged shard.
    pub shard: ShardId,
    /// Description of the damage.
    pub what: String,
}

/// Opens a directory, whose lock the caller holds as long as the store is in use.
///
/// # Errors
/// When it is not a broker's directory, or of an unknown version, or the disk fails.
pub fn open(data: DataDir, options: &Options) -> Result<OpenStore, OpenError> {
    let identity = match data.contents()? {
        DataDirContents::Formatted(identity) => identity,
        DataDirContents::Empty | DataDirContents::HalfFormatted => {
            return Err(DirectoryError::Empty(data.root().to_owned()).into());
        }
    };
    data.sync_root()?;
    let (mut wal, mut recovered) = Wal::open(Arc::clone(data.disk()), &data.wal(), options.wal)?;
    let (destroyed, is_dropped) = Destroyed::complete(&data, &mut wal, &recovered)?;
    if transfer::complete(&data, &mut wal, &recovered)? || is_dropped {
        drop(wal);
        (wal, recovered) = Wal::open(Arc::clone(data.disk()), &data.wal(), options.wal)?;
    }
    let mut transfers = Transfers::load(&data)?;
    let (mut damaged, mut sound) = (Vec::new(), Vec::new());
    let mut receiving = Vec::new();
    for shard in shards_of(&data, &identity, &transfers, &recovered)? {
        if let Some(replica) = new_replica(&data, shard, &transfers, &recovered)? {
            tracing::info!(%shard, replica, "shard is being received from another broker");
            receiving.push((shard, replica));
            continue;
        }
        if destroyed.is_all_of(&data, shard, &recovered)? {
            continue;
        }
        match check_shard(&data, shard, &recovered)? {
            Ok(found) => sound.push(found),
            Err(what) => {
                tracing::error!(%shard, what, "shard is damaged and not started");
                damaged.push(DamagedShard { shard, what });
            }
        }
    }
    for shard in &sound {
        transfers.end_needless(&data, &shard.newest().1)?;
    }
    set_aside::set_aside(&mut wal, &recovered, &sound, &mut damaged)?;
    let next_incarnation = orphans::remove(&data, &sound, &transfers, damaged.is_empty())?;
    let files = Arc::new(FileCache::new(options.open_files_max));
    let store = Store::new(data, files, TailBudget::new(options.tail_bytes_max), next_incarnation);
    let mut damaged_partitions = Vec::new();
    let mut replicas = Vec::new();
    for shard in sound {
        let partition_logs = PartitionLogs::new(Arc::clone(&store), shard.shard());
        replicas.push(shard.open(partition_logs, wal.reader(), &mut damaged_partitions)?);
    }
    let destroyed = destroyed.0;
    Ok(OpenStore {
        identity,
        store,
        wal,
        replicas,
        receiving,
        destroyed,
        damaged,
        damaged_partitions,
    })
}

/// The shards of this broker: those that the write-ahead log or a directory knows, and those that
/// are being received. A first broker whose log knows no shard has lost it, with every shard (D4).
fn shards_of(
    data: &DataDir,
    identity: &Identity,
    transfers: &Transfers,
    recovered: &RecoveredLog,
) -> Result<BTreeSet<ShardId>, OpenError> {
    let mut shards: BTreeSet<_> = data.shards()?.into_iter().chain(transfers.shards()).collect();
    shards.extend(recovered.replicas.keys().map(|key| ShardId(key.shard)));
    if !identity.is_joined && recovered.replicas.is_empty() {
        shards.extend((0..=identity.shards).map(ShardId));
    }
    Ok(shards)
}

/// The replica of a shard that is being received and that this broker has never had; otherwise the
/// shard is started, or it is damaged (D4).
fn new_replica(
    data: &DataDir,
    shard: ShardId,
    transfers: &Transfers,
    recovered: &RecoveredLog,
) -> Result<Option<u64>, OpenError> {
    let Some(replica) = transfers.replica(shard) else { return Ok(None) };
    let has_log = recovered.replicas.contains_key(&replica_log::key(shard, ReplicaId(replica)));
    let has_snapshot = !Snapshots::new(data, shard).numbers()?.is_empty();
    Ok((!has_log && !has_snapshot).then_some(replica))
}

/// An intact shard.
struct RecoveredShard {
    /// The kept snapshots with their numbers, oldest first; at most two.
    kept: Vec<(u64, Snapshot)>,
    hard_state: HardState,
    /// The last index that a `Truncated` record in the write-ahead log covers.
    truncated: u64,
    entries: Vec<EntryMeta>,
}

/// Checks the snapshots and the log of a shard. The inner error says why it cannot be started.
fn check_shard(
    data: &DataDir,
    shard: ShardId,
    recovered: &RecoveredLog,
) -> Result<Result<RecoveredShard, String>, OpenError> {
    let spill = data.spill(shard);
    if !data.disk().exists(&spill).map_err(DirectoryError::io(&spill))? {
        return Ok(Err(format!("its directory {} does not exist", spill.display())));
    }
    let kept = load_kept(&Snapshots::new(data, shard))?;
    let Some((_, newest)) = kept.last() else {
        return Ok(Err("it has no intact snapshot".to_owned()));
    };
    if let Some(what) = quarantine::reason(data, shard, newest.replica)? {
        return Ok(Err(what));
    }
    let after = match check_log(newest, recovered) {
        Ok(after) => after,
        Err(what) => return Ok(Err(what)),
    };
    let log = &recovered.replicas[&key_of(newest)];
    let entries = after.to_vec();
    // A snapshot may be newer than the last hard state that was written.
    let HardState { term, vote, commit } = hard_state_of(log);
    let hard_state = HardState { term, vote, commit: commit.max(newest.index) };
    Ok(Ok(RecoveredShard { kept, hard_state, truncated: log.truncated.index, entries }))
}

/// The key of a snapshot's replica in the write-ahead log.
pub(crate) fn key_of(snapshot: &Snapshot) -> ReplicaKey {
    replica_log::key(snapshot.shard, snapshot.replica)
}

/// The last index in the log of a replica.
pub(crate) fn last_index(log: &RecoveredReplica) -> u64 {
    log.entries.last().map_or(log.truncated.index, |entry| entry.index)
}

/// The entries after a snapshot. The error describes the damage, if the log does not continue where
/// the snapshot ends, or lacks what was durable (D4).
pub(crate) fn check_log<'a>(
    newest: &Snapshot,
    recovered: &'a RecoveredLog,
) -> Result<&'a [EntryMeta], String> {
    let Some(log) = recovered.replicas.get(&key_of(newest)) else {
        return Err("the write-ahead log has no records of this replica".to_owned());
    };
    if let Some(damage) = &log.damage {
        return Err(damage.clone());
    }
    let (start, last, index) = (log.truncated.index, last_index(log), newest.index);
    if start > index {
        return Err(format!("its log begins after {start}, its newest snapshot is of {index}"));
    }
    if last < index {
        return Err(format!("its log ends with {last}, before the snapshot of {index}"));
    }
    let entries = &log.entries[log.entries.partition_point(|entry| entry.index <= index)..];
    let snapshot = EntryId { index, term: newest.term };
    let ids = entries.iter().map(|entry| EntryId { index: entry.index, term: entry.term });
    engine::check_log(hard_state_of(log), snapshot, ids).map_err(|error| error.to_string())?;
    Ok(entries)
}

fn hard_state_of(log: &RecoveredReplica) -> HardState {
    let ropewalk_wal::HardState { term, vote, commit } = log.hard_state;
    HardState { term, vote, commit }
}

/// The newest two intact snapshots of one replica with their numbers, oldest first.
pub(crate) fn load_kept(snapshots: &Snapshots) -> Result<Vec<(u64, Snapshot)>, OpenError> {
    let mut kept: Vec<(u64, Snapshot)> = Vec::new();
    for number in snapshots.numbers()?.into_iter().rev() {
        match snapshots.load(number) {
            Ok(snapshot) => {
                let other = kept.first().is_some_and(|(_, k)| k.replica != snapshot.replica);
                if !other {
                    kept.insert(0, (number, snapshot));
                }
            }
            Err(error @ SnapshotError::Damaged { .. }) => {
                tracing::warn!(%error, "snapshot is damaged, trying an older one");
            }
            Err(error @ (SnapshotError::UnknownVersion { .. } | SnapshotError::Directory(_))) => {
                return Err(error.into());
            }
        }
        if kept.len() == 2 {
            break;
        }
    }
    Ok(kept)
}

impl RecoveredShard {
    fn shard(&self) -> ShardId {
        self.newest().1.shard
    }

    fn newest(&self) -> &(u64, Snapshot) {
        self.kept.last().expect("there is at least one")
    }

    /// Opens the partitions' files and cuts them at the ends that the snapshot names.
    fn open(
        mut self,
        partition_logs: Arc<PartitionLogs>,
        log: ropewalk_wal::Reader,
        damaged: &mut Vec<(PartitionId, String)>,
    ) -> Result<OpenedReplica, OpenError> {
        let (number, snapshot) = self.kept.pop().expect("there is at least one");
        let older = self.kept.pop();
        // A follower may lack entries that were written before the start.
        if !snapshot.members.is_lone(snapshot.replica.0) {
            log.follow(key_of(&snapshot), &self.entries);
        }
        let mut logs = HashMap::with_capacity(snapshot.partitions.len());
        for files in &snapshot.partitions {
            let log = partition_logs.recover(files, snapshot.log_start(files))?;
            let partition = files.partition;
            for what in log.damages() {
                tracing::error!(%partition, what, "records of the partition are damaged");
                damaged.push((partition, what));
            }
            logs.insert(partition, log);
        }
        let kept: VecDeque<KeptSnapshot> = older
            .iter()
            .map(|(number, older)| KeptSnapshot::of(*number, older))
            .chain([KeptSnapshot::of(number, &snapshot)])
            .collect();
        let spill_bytes =
            orphans::spill_files(partition_logs.store().data(), snapshot.shard, &kept)?;
        let mut files = ShardFiles::new(
            Arc::clone(&partition_logs),
            &snapshot,
            kept,
            spill_bytes,
            self.truncated,
        );
        if let Some((_, older)) = &older {
            let named: BTreeSet<_> = snapshot.partitions.iter().map(PartitionFiles::id).collect();
            let before = older.partitions.iter().map(PartitionFiles::id);
            files.closed(before.filter(|closed| !named.contains(closed)).collect());
        }
        let start = Start {
            replica: snapshot.replica.0,
            hard_state: self.hard_state,
            members: snapshot.members,
            snapshot: EntryId { index: snapshot.index, term: snapshot.term },
            entries: self.entries.iter().map(stored).collect::<Result<_, _>>()?,
            source: Box::new(ReplaySource::new(
                log,
                snapshot.index,
                &self.entries,
                Arc::clone(partition_logs.budget()),
            )),
            seed: 0,
        };
        Ok(OpenedReplica {
            shard: snapshot.shard,
            start,
            replicas: snapshot.replicas,
            state: snapshot.state,
            logs,
            partition_logs,
            files,
        })
    }
}

fn stored(entry: &EntryMeta) -> Result<StoredEntry, OpenError> {
    replica_log::stored(entry).ok_or(OpenError::EntryKind { kind: entry.kind })
}

/// Reads the entries after the snapshot while they are replayed.
#[derive(Debug)]
struct ReplaySource {
    log: ropewalk_wal::Reader,
    first: u64,
    places: Vec<Location>,
    budget: Arc<TailBudget>,
}

impl ReplaySource {
    fn new(
        log: ropewalk_wal::Reader,
        snapshot: u64,
        entries: &[EntryMeta],
        budget: Arc<TailBudget>,
    ) -> Self {
        let places = entries.iter().map(|entry| entry.location).collect();
        Self { log, first: snapshot + 1, places, budget }
    }
}

impl EntrySource for ReplaySource {
    fn read(&self, index: u64) -> Result<Bytes, String> {
        let at = index.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let place = at.and_then(|at| self.places.get(at));
        let place = place.ok_or_else(|| format!("entry {index} was not in the log at start"))?;
        self.log.read(place).map_err(|error| error.to_string())
    }

    fn has_room(&self) -> bool {
        self.budget.has_room_to_apply()
    }
}
