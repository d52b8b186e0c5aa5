//! Which files are kept because they are sent to another broker (`transfer`).
//!
//! A set is a snapshot of a shard and every file that it names. As long as it is pinned, the
//! checkpoint thread removes none of these files, and the shard is not compacted: so no tombstone
//! or marker is removed while a receiver has the records before it and not yet the ones after it. A
//! pin ends with the process, with its transfer, and when a full disk needs the space.
//!
//! # Invariants
//!
//! - A snapshot is pinned under the lock under which files are removed, while it is the newest.
//! - Compaction of a shard and the pin of a set exclude one another.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::{Mutex, MutexGuard};
use ropewalk_shard::ShardId;

use crate::directory::DirectoryError;
use crate::snapshot::Snapshots;

/// Identifies a pin: the replica whose files they are, and a random number.
pub(crate) type PinId = (u64, u64);

/// The pinned sets of a broker, and the shards that are being compacted.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<PinState>);

#[derive(Debug, Default)]
struct PinState {
    pins: BTreeMap<PinId, Pin>,
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
    pub(crate) fn pin(
        &self,
        id: PinId,
        snapshots: &Snapshots,
        shard: ShardId,
    ) -> Result<Option<u64>, DirectoryError> {
        let mut state = self.0.lock();
        let number = match state.compacting.contains(&shard) {
            true => None,
            false => snapshots.numbers()?.last().copied(),
        };
        state.pins.insert(id, Pin { shard, number, spill: None });
        Ok(number)
    }

    /// Sets the spill files that the snapshot of a pin names.
    pub(crate) fn set_spill(&self, id: PinId, spill: BTreeSet<u64>) {
        if let Some(pin) = self.0.lock().pins.get_mut(&id) {
            pin.spill = Some(spill);
        }
    }

    /// Ends a pin.
    pub(crate) fn unpin(&self, id: PinId) {
        self.0.lock().pins.remove(&id);
    }

    /// Whether the files of a set are still kept.
    pub(crate) fn is_pinned(&self, id: PinId) -> bool {
        self.0.lock().pins.get(&id).is_some_and(|pin| pin.number.is_some())
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
