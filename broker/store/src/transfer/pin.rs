//! The files of a set at its sender.
//!
//! A set is a snapshot of the shard and every file that it names. They are kept as long as the set
//! is pinned: see [`crate::pins`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bytes::Bytes;
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
    /// shard is being compacted: then try again, or end the pin.
    ///
    /// # Errors
    /// When files are damaged or cannot be read. Nothing is pinned then.
    pub(super) fn pin(
        store: &Store,
        shard: ShardId,
        set: SetId,
    ) -> Result<Option<Self>, WorkError> {
        let pinned = Self::pin_newest(store, shard, set);
        pinned.inspect_err(|_| store.pins().unpin(set.pin()))
    }

    fn pin_newest(store: &Store, shard: ShardId, set: SetId) -> Result<Option<Self>, WorkError> {
        let data = store.data();
        let snapshots = Snapshots::new(data, shard);
        if snapshots.numbers()?.is_empty() {
            return Err(WorkError::Later(format!("{shard} is not on this broker")));
        }
        let Some(number) = store.pins().pin(set.pin(), &snapshots, shard)? else { return Ok(None) };
        let snapshot = snapshots.load(number).map_err(|error| match error {
            SnapshotError::Directory(error) => WorkError::from(error),
            SnapshotError::Damaged { .. } | SnapshotError::UnknownVersion { .. } => {
                WorkError::Later(error.to_string())
            }
        })?;
        let runs = snapshot.partitions.iter().flat_map(|files| &files.spill);
        let spill: BTreeSet<u64> = runs.map(|run| run.file).collect();
        store.pins().set_spill(set.pin(), spill.clone());
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
            let segments = copy::list(disk, &dir, &DurableEnd::from(end), named.local_start)?;
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
        store.pins().is_pinned(self.list.set.pin())
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
