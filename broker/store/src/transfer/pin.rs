//! The files of a set at its sender, and how they are kept while they are sent.
//!
//! A set is a snapshot of the shard and every file that it names. As long as it is pinned, the
//! checkpoint thread removes none of these files, and the shard is not compacted: so no tombstone
//! or marker goes while a receiver has the records before it and not yet the ones after it. A pin
//! ends with the process, with its transfer, and when a full disk needs the space.
//!
//! # Invariants
//!
//! - A snapshot is pinned under the lock under which files are removed, while it is the newest.
//! - Compaction of a shard and the pin of a set exclude one another.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use ropewalk_disk::{Disk, Open};
use ropewalk_segment::{DurableEnd, copy};
use ropewalk_shard::engine::Members;
use ropewalk_shard::{PartitionId, ShardId};

use super::manifest::{List, SegmentOf, SetFile};
use super::message::{Fetch, Item, Offer, SetId};
use crate::directory::DirectoryError;
use crate::limits;
use crate::snapshot::{Snapshot, SnapshotError, Snapshots};
use crate::store::Store;
use crate::work::WorkError;

/// The pinned sets of a broker, and the shards that are being compacted.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<PinState>);

#[derive(Debug, Default)]
struct PinState {
    pins: BTreeMap<SetId, Pin>,
    compacting: BTreeSet<ShardId>,
}

#[derive(Debug)]
struct Pin {
    shard: ShardId,
    /// Number of the snapshot; `None` while the pin waits for the end of a compaction.
    number: Option<u64>,
    /// The spill files that the snapshot names; `None` as long as they are unknown.
    spill: Option<BTreeSet<u64>>,
}

/// The pins of one shard, which do not change as long as this exists.
#[derive(Debug)]
pub(crate) struct ShardPins<'a> {
    state: MutexGuard<'a, PinState>,
    shard: ShardId,
}

/// A shard that may be compacted as long as this exists.
#[derive(Debug)]
pub(crate) struct Compacting<'a> {
    pins: &'a Pins,
    shard: ShardId,
}

impl Drop for Compacting<'_> {
    fn drop(&mut self) {
        self.pins.0.lock().compacting.remove(&self.shard);
    }
}

impl Pins {
    /// Keeps the pins of a shard as they are, for the removal of files.
    pub(crate) fn hold(&self, shard: ShardId) -> ShardPins<'_> {
        ShardPins { state: self.0.lock(), shard }
    }

    /// Begins a step of a compaction; `None` as long as a set of the shard is pinned or waits to
    /// be.
    pub(crate) fn compact(&self, shard: ShardId) -> Option<Compacting<'_>> {
        let mut state = self.0.lock();
        if state.pins.values().any(|pin| pin.shard == shard) {
            return None;
        }
        state.compacting.insert(shard);
        Some(Compacting { pins: self, shard })
    }

    /// Pins the newest snapshot, and returns its number; `None` as long as the shard is being
    /// compacted, which is then not begun again.
    fn pin(
        &self,
        set: SetId,
        snapshots: &Snapshots,
        shard: ShardId,
    ) -> Result<Option<u64>, DirectoryError> {
        let mut state = self.0.lock();
        let number = match state.compacting.contains(&shard) {
            true => None,
            false => snapshots.numbers()?.last().copied(),
        };
        state.pins.insert(set, Pin { shard, number, spill: None });
        Ok(number)
    }

    fn set_spill(&self, set: SetId, spill: BTreeSet<u64>) {
        if let Some(pin) = self.0.lock().pins.get_mut(&set) {
            pin.spill = Some(spill);
        }
    }

    /// Ends a pin.
    pub(super) fn unpin(&self, set: SetId) {
        self.0.lock().pins.remove(&set);
    }

    /// Whether the files of a set are still kept.
    fn is_pinned(&self, set: SetId) -> bool {
        self.0.lock().pins.get(&set).is_some_and(|pin| pin.number.is_some())
    }
}

impl ShardPins<'_> {
    fn pins(&self) -> impl Iterator<Item = &Pin> {
        self.state.pins.values().filter(|pin| pin.shard == self.shard)
    }

    /// Numbers of the pinned snapshots.
    pub(crate) fn snapshots(&self) -> BTreeSet<u64> {
        self.pins().filter_map(|pin| pin.number).collect()
    }

    /// Whether a pinned snapshot names this spill file, as far as is known.
    pub(crate) fn names_spill(&self, file: u64) -> bool {
        self.pins().any(|pin| pin.spill.as_ref().is_none_or(|spill| spill.contains(&file)))
    }

    /// Ends all pins of the shard, because the disk is full.
    pub(crate) fn end(&mut self) {
        let shard = self.shard;
        self.state.pins.retain(|_, pin| pin.shard != shard);
    }
}

/// A set whose files are kept for a receiver.
#[derive(Debug)]
pub(super) struct PinnedSet {
    list: List,
    encoded: Bytes,
    members: Members,
    snapshot: PathBuf,
    /// The directory of each partition with segments.
    dirs: BTreeMap<PartitionId, PathBuf>,
    spill: BTreeMap<u64, PathBuf>,
}

impl PinnedSet {
    /// Pins the newest snapshot of a shard under this id, and lists its files; `None` while the
    /// shard is being compacted: then try again, or [`Pins::unpin`].
    ///
    /// # Errors
    /// When files are damaged or cannot be read. Nothing is pinned then.
    pub(super) fn pin(
        store: &Store,
        shard: ShardId,
        set: SetId,
    ) -> Result<Option<Self>, WorkError> {
        let pinned = Self::pin_newest(store, shard, set);
        pinned.inspect_err(|_| store.pins().unpin(set))
    }

    fn pin_newest(store: &Store, shard: ShardId, set: SetId) -> Result<Option<Self>, WorkError> {
        let data = store.data();
        let snapshots = Snapshots::new(data, shard);
        let Some(number) = store.pins().pin(set, &snapshots, shard)? else { return Ok(None) };
        let snapshot = snapshots.load(number).map_err(|error| match error {
            SnapshotError::Directory(error) => WorkError::from(error),
            SnapshotError::Damaged { .. } | SnapshotError::UnknownVersion { .. } => {
                WorkError::Later(error.to_string())
            }
        })?;
        let runs = snapshot.partitions.iter().flat_map(|files| &files.spill);
        let spill: BTreeSet<u64> = runs.map(|run| run.file).collect();
        store.pins().set_spill(set, spill.clone());
        let spill = spill.into_iter().map(|file| (file, data.spill_file(shard, file))).collect();
        Self::list(store, &snapshot, snapshots.path(number), set, spill).map(Some)
    }

    fn list(
        store: &Store,
        snapshot: &Snapshot,
        path: PathBuf,
        set: SetId,
        spill: BTreeMap<u64, PathBuf>,
    ) -> Result<Self, WorkError> {
        let disk = &**store.data().disk();
        let whole = |path: &PathBuf| -> Result<(u64, u32), WorkError> {
            let file = disk.open(path, Open::Read).map_err(DirectoryError::io(path))?;
            let bytes = file.len().map_err(DirectoryError::io(path))?;
            Ok((bytes, copy::sum(disk, path, bytes)?))
        };
        let (bytes, sum) = whole(&path)?;
        let mut files = vec![SetFile::Snapshot { bytes, sum }];
        for (number, path) in &spill {
            let (bytes, sum) = whole(path)?;
            files.push(SetFile::Spill { number: *number, bytes, sum });
        }
        let mut dirs = BTreeMap::new();
        for named in &snapshot.partitions {
            let Some(end) = named.segments else { continue };
            let partition = named.partition;
            let dir = store.data().partition(partition, named.incarnation);
            let segments = copy::list(disk, &dir, &DurableEnd::from(end), named.log_start)?;
            files.extend(segments.iter().map(|found| {
                SetFile::Segment(SegmentOf {
                    partition,
                    base_offset: found.base_offset,
                    next_offset: found.next_offset,
                    log_bytes: found.log_bytes,
                    index_bytes: found.index_bytes,
                    index_sum: found.index_sum,
                })
            }));
            dirs.insert(partition, dir);
        }
        let (shard, index, term) = (snapshot.shard, snapshot.index, snapshot.term);
        let list = List { set, shard, index, term, files };
        let encoded: Bytes = list.encode().into();
        if encoded.len() as u64 > limits::TRANSFER_LIST_BYTES_MAX {
            let bytes = encoded.len();
            return Err(WorkError::Later(format!("the list of {shard} has {bytes} bytes")));
        }
        let members = snapshot.members.clone();
        Ok(Self { list, encoded, members, snapshot: path, dirs, spill })
    }

    /// The message that announces the set.
    pub(super) fn offer(&self) -> Offer {
        Offer {
            set: self.list.set,
            last: self.list.last(),
            members: self.members.clone(),
            list_bytes: self.encoded.len() as u64,
            list_sum: copy::sum_of(&self.encoded),
            files_bytes: self.list.files_bytes(),
        }
    }

    /// Whether the files are still kept.
    pub(super) fn is_pinned(&self, store: &Store) -> bool {
        store.pins().is_pinned(self.list.set)
    }

    /// Reads a range of a file.
    ///
    /// # Errors
    /// When the set has no such range, or the file cannot be read.
    pub(super) fn read(&self, disk: &dyn Disk, of: &Fetch) -> Result<Bytes, WorkError> {
        let length = u64::from(of.length_bytes);
        let outside = || WorkError::Later(format!("the set has no such range: {of:?}"));
        let end = of.position_bytes.checked_add(length).ok_or_else(outside)?;
        let (path, bytes) = match of.item {
            Item::List => {
                let end = usize::try_from(end).ok().filter(|end| *end <= self.encoded.len());
                return Ok(self
                    .encoded
                    .slice(of.position_bytes as usize..end.ok_or_else(outside)?));
            }
            Item::File(number) => self.file(number, false).ok_or_else(outside)?,
            Item::Index(number) => self.file(number, true).ok_or_else(outside)?,
        };
        if end > bytes {
            return Err(outside());
        }
        let mut piece = vec![0; of.length_bytes as usize];
        let file = disk.open(&path, Open::Read).map_err(DirectoryError::io(&path))?;
        file.read_exact_at(&mut piece, of.position_bytes).map_err(DirectoryError::io(&path))?;
        Ok(piece.into())
    }

    /// Path and length of a file, or of the index of a segment.
    fn file(&self, number: u32, index: bool) -> Option<(PathBuf, u64)> {
        match self.list.files.get(number as usize)? {
            SetFile::Snapshot { bytes, .. } if !index => Some((self.snapshot.clone(), *bytes)),
            SetFile::Spill { number, bytes, .. } if !index => {
                Some((self.spill.get(number)?.clone(), *bytes))
            }
            SetFile::Segment(of) => {
                let [log, index_path] = copy::paths(self.dirs.get(&of.partition)?, of.base_offset);
                Some(if index { (index_path, of.index_bytes) } else { (log, of.log_bytes) })
            }
            SetFile::Snapshot { .. } | SetFile::Spill { .. } => None,
        }
    }
}
