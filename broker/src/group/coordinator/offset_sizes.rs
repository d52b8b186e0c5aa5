//! The total size of the committed offsets of a shard, and its bound (R1).
//!
//! The shard's leader decides before it proposes a commit, because apply never refuses what was
//! acknowledged. Each commit that adds an offset or a longer metadata string increases the count.
//! Expired and deleted offsets are subtracted only when the bound is reached: then all offsets are
//! counted again, at most once in [`RECOUNT_INTERVAL`].

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use ropewalk_node::ShardHandle;
use ropewalk_shard::command::OffsetCommit;
use ropewalk_shard::state::State;
use ropewalk_shard::{PartitionId, ShardId};
use tokio::time::Instant;

use crate::group::Refusal;
use crate::limits;

/// Shortest interval between two recounts. A recount visits every group of the shard, and apply
/// waits for it.
const RECOUNT_INTERVAL: Duration = Duration::from_secs(10);

/// The size of the offsets of each shard.
#[derive(Debug, Default)]
pub(super) struct OffsetSizes(Mutex<HashMap<ShardId, Count>>);

#[derive(Debug, Default)]
struct Count {
    /// An upper bound of the actual size.
    bytes: usize,
    /// When the offsets were last counted; `None` before the first count.
    counted_at: Option<Instant>,
}

impl OffsetSizes {
    /// Checks that the shard has room for these offsets of a group.
    ///
    /// # Errors
    /// When it has none. Offsets that replace others without a longer metadata string are always
    /// admitted.
    pub(super) fn admit(
        &self,
        shard: &ShardHandle,
        group: &str,
        offsets: &[(PartitionId, OffsetCommit)],
    ) -> Result<(), Refusal> {
        let state = shard.state();
        let growth = growth(&state, group, offsets);
        if growth == 0 {
            return Ok(());
        }
        let mut counts = self.0.lock();
        let count = counts.entry(shard.id()).or_default();
        let size_max = limits::SHARD_OFFSETS_BYTES_MAX;
        if count.takes(growth, size_max, Instant::now(), || taken(&state)) {
            return Ok(());
        }
        Err(Refusal::TooManyOffsets { size_max })
    }
}

impl Count {
    /// Adds `growth` bytes to the count, unless that exceeds the bound.
    fn takes(
        &mut self,
        growth: usize,
        size_max: usize,
        now: Instant,
        taken: impl FnOnce() -> usize,
    ) -> bool {
        let is_due = self.counted_at.is_none_or(|at| {
            self.bytes + growth > size_max && now.duration_since(at) >= RECOUNT_INTERVAL
        });
        if is_due {
            self.bytes = taken();
            self.counted_at = Some(now);
        }
        let fits = self.bytes + growth <= size_max;
        self.bytes += if fits { growth } else { 0 };
        fits
    }
}

/// Growth of the state by a commit, bytes.
fn growth(state: &State, group: &str, offsets: &[(PartitionId, OffsetCommit)]) -> usize {
    let known = state.groups.get(group).map(|group| &group.offsets);
    let before = |id: &PartitionId| {
        let committed = known.and_then(|known| known.get(id));
        committed.map_or(0, |committed| size_bytes(&committed.metadata))
    };
    let growth = |(id, offset): &(PartitionId, OffsetCommit)| {
        size_bytes(&offset.metadata).saturating_sub(before(id))
    };
    offsets.iter().map(growth).sum()
}

/// Size of all offsets of a shard, bytes.
fn taken(state: &State) -> usize {
    let offsets = state.groups.values().flat_map(|group| group.offsets.values());
    offsets.map(|committed| size_bytes(&committed.metadata)).sum()
}

fn size_bytes(note: &str) -> usize {
    limits::OFFSET_BYTES + note.len()
}

#[cfg(test)]
mod tests {
    use ropewalk_shard::TopicId;
    use ropewalk_shard::state::Group;
    use ropewalk_shard::state::group::CommittedOffset;

    use super::*;

    fn partition(index: i32) -> PartitionId {
        PartitionId { topic: TopicId(uuid::Uuid::from_u128(1)), index }
    }

    fn state(note: &str) -> State {
        let committed = CommittedOffset {
            offset: 1,
            leader_epoch: -1,
            metadata: note.to_owned(),
            time_ms: 0,
            expires_ms: None,
        };
        let offsets = [(partition(0), committed)].into();
        let mut state = State::new();
        state.groups.insert("g".to_owned(), Group { offsets, ..Group::default() }.into());
        state
    }

    fn commit(index: i32, note: &str) -> (PartitionId, OffsetCommit) {
        let metadata = note.to_owned();
        (partition(index), OffsetCommit { offset: 2, leader_epoch: -1, metadata, expires_ms: None })
    }

    #[test]
    fn only_what_a_commit_adds_counts() {
        let state = state("note");
        assert_eq!(taken(&state), limits::OFFSET_BYTES + 4);
        assert_eq!(growth(&state, "g", &[commit(0, "note"), commit(0, "")]), 0);
        assert_eq!(growth(&state, "g", &[commit(0, "longer")]), 2);
        assert_eq!(growth(&state, "g", &[commit(1, "n")]), limits::OFFSET_BYTES + 1);
        assert_eq!(growth(&state, "other", &[commit(0, "")]), limits::OFFSET_BYTES);
    }

    #[test]
    fn r1_offsets_are_taken_up_to_a_bound_and_again_when_some_are_gone() {
        let now = Instant::now();
        let mut count = Count::default();
        assert!(count.takes(10, 100, now, || 60), "what is there at the start is counted");
        assert!(count.takes(30, 100, now, || unreachable!("there is room")));
        assert!(!count.takes(1, 100, now, || unreachable!("it was counted just now")));
        let later = now + RECOUNT_INTERVAL;
        assert!(!count.takes(1, 100, later, || 100));
        assert!(count.takes(1, 100, later + RECOUNT_INTERVAL, || 99));
        assert_eq!(count.bytes, 100);
    }
}
