//! Restores a partition from its objects, after the loss of all brokers that had its records.
//!
//! # Invariants
//!
//! - Only an empty partition is restored, so that no record is ever replaced.
//! - **O4** the objects follow one another from the log start to the end, and new records follow
//!   them.
//! - **D5** the batches of producers that the objects name are recognised as duplicates.
//! - Leader epochs in the objects are below the current one. The base of the partition's epochs has
//!   to be chosen so when the topic is created.

use std::collections::BTreeMap;

use super::partition::{EPOCHS_MAX, EpochStart, Partition, Producer, ProducerBatch, WINDOW};
use super::tier::{Bounded, Changed, Tier, TierRefusal, room_for};
use crate::limits;
use crate::manifest::{RestoredBatch, RestoredEpoch, RestoredPartition, RestoredProducer};

impl Partition {
    /// Continues from objects in the bucket. The same restore again changes nothing.
    pub(super) fn restore(
        &mut self,
        term: u64,
        clock_ms: i64,
        restored: RestoredPartition,
    ) -> Result<Changed, TierRefusal> {
        if self.is_restored_as(&restored) {
            return Ok(Changed::Nothing);
        }
        let has_objects = self.tier.as_ref().is_some_and(|tier| tier.has_objects());
        if self.next_offset > 0 || has_objects {
            return Err(TierRefusal::NotEmpty { next_offset: self.next_offset });
        }
        check_objects(&restored)?;
        check_epochs(&restored, self.leader_epoch(term))?;
        check_producers(&restored.producers)?;
        let RestoredPartition { log_start, end, pages, objects, epochs, producers } = restored;
        let first = pages.first().map(|page| page.base);
        let first = first.or(objects.first().map(|object| object.base)).unwrap_or(log_start);
        self.log_start = log_start;
        self.next_offset = end;
        let start = |RestoredEpoch { epoch, start_offset }| EpochStart { epoch, start_offset };
        self.epochs = epochs.into_iter().map(start).collect();
        let producers: BTreeMap<i64, Producer> =
            producers.into_iter().map(|producer| producer_of(producer, clock_ms)).collect();
        self.producers = (!producers.is_empty()).then(|| Box::new(producers));
        self.tier = Some(Box::new(Tier {
            is_enabled: true,
            local_start: end,
            end,
            dropped: log_start,
            dropped_ms: clock_ms,
            // What ends before the log start may still be in the bucket.
            deleted: first.min(log_start),
            pages: pages.into(),
            objects: objects.into(),
            replaced: Vec::new(),
        }));
        Ok(Changed::Restored { log_start, end })
    }

    fn is_restored_as(&self, restored: &RestoredPartition) -> bool {
        let RestoredPartition { log_start, end, pages, objects, .. } = restored;
        let is_tier = |tier: &Tier| {
            (tier.local_start, tier.end) == (*end, *end)
                && tier.pages == *pages
                && tier.objects == *objects
        };
        (self.log_start, self.next_offset) == (*log_start, *end)
            && self.tier.as_deref().is_some_and(is_tier)
    }
}

/// The objects and pages follow one another, and none is missing.
fn check_objects(restored: &RestoredPartition) -> Result<(), TierRefusal> {
    let RestoredPartition { log_start, end, pages, objects, .. } = restored;
    at_most(Bounded::Pages, pages.len(), limits::TIER_PAGES_MAX)?;
    at_most(Bounded::Objects, objects.len(), limits::TIER_OBJECTS_MAX)?;
    if !pages.iter().all(|page| page.level <= 1)
        || !pages.iter().is_sorted_by(|one, next| one.level >= next.level)
    {
        return Err(TierRefusal::PageMismatch);
    }
    let ranges: Vec<(i64, i64)> = pages
        .iter()
        .map(|page| (page.base, page.end))
        .chain(objects.iter().map(|object| (object.base, object.end)))
        .collect();
    let follows = ranges.windows(2).all(|pair| pair[0].1 == pair[1].0);
    let has_offsets = ranges.iter().all(|(base, end)| base < end);
    let covers = match (ranges.first(), ranges.last()) {
        (Some((first, _)), Some((_, last))) => first <= log_start && last == end,
        _ => log_start == end,
    };
    if 0 <= *log_start && log_start <= end && follows && has_offsets && covers {
        Ok(())
    } else {
        Err(TierRefusal::NotContiguous)
    }
}

fn check_epochs(restored: &RestoredPartition, current: i32) -> Result<(), TierRefusal> {
    let RestoredPartition { log_start: _, end, epochs, .. } = restored;
    at_most(Bounded::Epochs, epochs.len(), EPOCHS_MAX)?;
    let ascend = epochs
        .windows(2)
        .all(|pair| pair[0].epoch < pair[1].epoch && pair[0].start_offset < pair[1].start_offset);
    let is_inside = epochs.iter().all(|epoch| (0..*end).contains(&epoch.start_offset));
    if !ascend || !is_inside {
        return Err(TierRefusal::OutOfOrder);
    }
    match epochs.last() {
        Some(RestoredEpoch { epoch: found, .. }) if *found >= current => {
            Err(TierRefusal::EpochNotBelow { found: *found, current })
        }
        Some(_) | None => Ok(()),
    }
}

fn check_producers(producers: &[RestoredProducer]) -> Result<(), TierRefusal> {
    at_most(Bounded::Producers, producers.len(), limits::PARTITION_PRODUCERS_MAX)?;
    for RestoredProducer { batches, .. } in producers {
        at_most(Bounded::Producers, batches.len(), WINDOW)?;
    }
    let ascend = producers.windows(2).all(|pair| pair[0].id < pair[1].id);
    let has_batches = producers.iter().all(|producer| !producer.batches.is_empty());
    if ascend && has_batches { Ok(()) } else { Err(TierRefusal::OutOfOrder) }
}

fn at_most(what: Bounded, count: usize, max: usize) -> Result<(), TierRefusal> {
    room_for(what, count.saturating_sub(1), max)
}

/// The producer counts as seen now, so that it does not expire at once.
fn producer_of(restored: RestoredProducer, seen_ms: i64) -> (i64, Producer) {
    let RestoredProducer { id, epoch, batches } = restored;
    let batch = |batch| {
        let RestoredBatch { first_sequence, last_sequence, base_offset, timestamp_ms } = batch;
        ProducerBatch { first_sequence, last_sequence, base_offset, timestamp_ms }
    };
    (id, Producer { epoch, seen_ms, batches: batches.into_iter().map(batch).collect() })
}
