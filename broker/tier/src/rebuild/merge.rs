//! What follows from the footers of objects in the order of their offsets. Pure.

use std::collections::BTreeMap;

use crate::limits;
use crate::object::{EpochStart, Producer};

/// The leader epochs of a partition.
#[derive(Debug, Default)]
pub(super) struct Epochs(BTreeMap<i32, i64>);

impl Epochs {
    pub(super) fn new(known: &[EpochStart]) -> Self {
        Self(known.iter().map(|start| (start.epoch, start.start_offset)).collect())
    }

    /// Adds the epochs of the next object.
    pub(super) fn add(&mut self, epochs: &[EpochStart]) {
        for start in epochs {
            let known = self.0.entry(start.epoch).or_insert(start.start_offset);
            *known = (*known).min(start.start_offset);
        }
    }

    pub(super) fn highest(&self) -> Option<i32> {
        self.0.last_key_value().map(|(epoch, _)| *epoch)
    }

    /// The epochs of the offsets `[start, end)`; the newest ones, if there are more than a
    /// partition keeps.
    pub(super) fn between(&self, start: i64, end: i64) -> Vec<EpochStart> {
        let mut between: Vec<EpochStart> = Vec::new();
        for (epoch, start_offset) in self.0.range(..).filter(|(_, offset)| **offset < end) {
            let found = EpochStart { epoch: *epoch, start_offset: (*start_offset).max(start) };
            // The one before it ends at the start, or where it should begin.
            while between.last().is_some_and(|last| last.start_offset >= found.start_offset) {
                between.pop();
            }
            between.push(found);
        }
        let surplus = between.len().saturating_sub(limits::EPOCHS_MAX as usize);
        between.split_off(surplus)
    }
}

/// The idempotent producers of a partition.
#[derive(Debug, Default)]
pub(super) struct Producers(BTreeMap<i64, Producer>);

impl Producers {
    /// Adds the producers of the next object: its batches follow those that are known of the same
    /// epoch.
    pub(super) fn add(&mut self, producers: &[Producer]) {
        for next in producers {
            match self.0.get_mut(&next.id) {
                Some(known) if known.epoch == next.epoch => {
                    known.batches.extend(&next.batches);
                    let surplus = known.batches.len().saturating_sub(limits::PRODUCER_BATCHES_MAX);
                    known.batches.drain(..surplus);
                }
                Some(_) | None => drop(self.0.insert(next.id, next.clone())),
            }
        }
    }

    /// The producers, ascending by id. Of too many, those that wrote last.
    pub(super) fn finish(self) -> Vec<Producer> {
        let mut producers: Vec<Producer> = self.0.into_values().collect();
        if producers.len() > limits::REBUILD_PRODUCERS_MAX {
            let last = |producer: &Producer| producer.batches.last().map(|batch| batch.base_offset);
            producers.sort_unstable_by_key(|producer| std::cmp::Reverse(last(producer)));
            producers.truncate(limits::REBUILD_PRODUCERS_MAX);
            producers.sort_unstable_by_key(|producer| producer.id);
        }
        producers
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::object::ProducerBatch;

    fn starts(pairs: &[(i32, i64)]) -> Vec<EpochStart> {
        pairs.iter().map(|(epoch, at)| EpochStart { epoch: *epoch, start_offset: *at }).collect()
    }

    #[test]
    fn epochs_are_joined_and_cut_to_the_offsets() {
        let mut epochs = Epochs::new(&starts(&[(1, 0), (3, 10), (9, 50)]));
        epochs.add(&starts(&[(3, 20)]));
        epochs.add(&starts(&[(3, 30), (5, 35)]));
        assert_eq!(epochs.highest(), Some(9));
        assert_eq!(epochs.between(0, 40), starts(&[(1, 0), (3, 10), (5, 35)]));
        assert_eq!(epochs.between(12, 40), starts(&[(3, 12), (5, 35)]));
        assert_eq!(epochs.between(35, 40), starts(&[(5, 35)]));
        assert_eq!(epochs.between(0, 60).last(), starts(&[(9, 50)]).last());
        assert_eq!(Epochs::new(&[]).between(0, 9), []);
        assert_eq!(Epochs::new(&[]).highest(), None);
    }

    #[test]
    fn r1_a_partition_gets_its_newest_epochs_and_producers() {
        let many: Vec<(i32, i64)> = (0..2_000).map(|n| (n, i64::from(n))).collect();
        let between = Epochs::new(&starts(&many)).between(0, 5_000);
        assert_eq!(between.len(), limits::EPOCHS_MAX as usize);
        assert_eq!(between[0].epoch, 2_000 - limits::EPOCHS_MAX as i32);
        let mut producers = Producers::default();
        let most = limits::REBUILD_PRODUCERS_MAX as i64;
        let producer = |id| Producer { id, epoch: 0, batches: vec![batch(0, 2 * most - id)] };
        producers.add(&(0..=most).map(producer).collect::<Vec<_>>());
        let kept = producers.finish();
        assert_eq!((kept.len() as i64, kept.last().map(|last| last.id)), (most, Some(most - 1)));
    }

    fn batch(sequence: i32, base_offset: i64) -> ProducerBatch {
        ProducerBatch {
            first_sequence: sequence,
            last_sequence: sequence,
            base_offset,
            timestamp_ms: 7,
        }
    }

    proptest! {
        /// Wherever the batches are divided into objects, the last five of the last epoch remain.
        #[test]
        fn d5_producers_are_those_of_all_batches_together(
            batches in vec((0..3_i64, prop::bool::weighted(0.1)), 1..60),
            cuts in vec(1..10_usize, 60),
        ) {
            let mut epochs = [0_i16; 3];
            let mut expected: BTreeMap<i64, Producer> = BTreeMap::new();
            let mut objects: Vec<BTreeMap<i64, Producer>> = vec![BTreeMap::new()];
            let mut cuts = cuts.into_iter();
            let mut left = cuts.next().unwrap_or(1);
            for (at, (id, is_new)) in batches.into_iter().enumerate() {
                epochs[id as usize] += i16::from(is_new);
                let epoch = epochs[id as usize];
                if left == 0 {
                    objects.push(BTreeMap::new());
                    left = cuts.next().unwrap_or(1);
                }
                left -= 1;
                let object = objects.last_mut().expect("there is one");
                for all in [&mut expected, object] {
                    let new = Producer { id, epoch, batches: Vec::new() };
                    let producer = all.entry(id).or_insert_with(|| new.clone());
                    if producer.epoch != epoch {
                        *producer = new;
                    }
                    producer.batches.push(batch(at as i32, at as i64));
                    let surplus = producer.batches.len().saturating_sub(5);
                    producer.batches.drain(..surplus);
                }
            }
            let mut producers = Producers::default();
            for object in objects {
                producers.add(&object.into_values().collect::<Vec<_>>());
            }
            prop_assert_eq!(producers.finish(), expected.into_values().collect::<Vec<_>>());
        }
    }
}
