//! Wake-ups: notifies signal streams at once that a record arrived for a group without members.
//!
//! The shards' loops call it when a batch is applied. Producers never wait for it: without a stream
//! it costs one atomic load per batch.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use ropewalk_shard::{Effect, TopicId};
use tokio::sync::Notify;

use crate::limits;

/// The wake-ups of all streams.
#[derive(Debug, Default)]
pub struct Bells {
    count: AtomicUsize,
    all: RwLock<Vec<Weak<Bell>>>,
}

/// The wake-ups of one stream.
#[derive(Debug)]
pub(super) struct Bell {
    bells: Arc<Bells>,
    armed: RwLock<HashSet<TopicId>>,
    rung: Mutex<HashSet<TopicId>>,
    notify: Notify,
}

impl Bells {
    /// Subscribes one more stream; `None` at the maximum number of streams.
    pub(super) fn hang(self: &Arc<Self>) -> Option<Arc<Bell>> {
        let mut all = self.all.write();
        all.retain(|bell| bell.strong_count() > 0);
        if all.len() >= limits::SIGNAL_STREAMS_MAX {
            return None;
        }
        let bell = Arc::new(Bell {
            bells: Arc::clone(self),
            armed: RwLock::default(),
            rung: Mutex::default(),
            notify: Notify::new(),
        });
        all.push(Arc::downgrade(&bell));
        self.count.fetch_add(1, Ordering::Relaxed);
        Some(bell)
    }

    /// Processes applied effects. Called on the shard's loop.
    pub(crate) fn applied(&self, effects: &[Effect]) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        for effect in effects {
            let Effect::Appended { partition, .. } = effect else { continue };
            for bell in self.all.read().iter().filter_map(Weak::upgrade) {
                bell.ring(partition.topic);
            }
        }
    }
}

impl Bell {
    /// Replaces the armed topics: a record for one of these causes one wake-up.
    pub(super) fn arm(&self, topics: HashSet<TopicId>) {
        *self.armed.write() = topics;
    }

    /// Disarms all topics but these.
    pub(super) fn keep(&self, topics: &HashSet<TopicId>) {
        self.armed.write().retain(|topic| topics.contains(topic));
    }

    /// Waits for a wake-up, and returns its topics.
    pub(super) async fn heard(&self) -> HashSet<TopicId> {
        loop {
            let rung = std::mem::take(&mut *self.rung.lock());
            if !rung.is_empty() {
                return rung;
            }
            self.notify.notified().await;
        }
    }

    fn ring(&self, topic: TopicId) {
        if self.armed.read().contains(&topic) && self.armed.write().remove(&topic) {
            self.rung.lock().insert(topic);
            self.notify.notify_one();
        }
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.bells.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use ropewalk_batch::{Builder, StampedBatch};
    use ropewalk_shard::PartitionId;

    use super::*;
    use crate::catalog::random_topic_id;

    fn came(topic: TopicId) -> Effect {
        let batch = Builder::new().record(0, None, None).build();
        let batch = StampedBatch::new(batch, 0, 0).expect("a batch");
        Effect::Appended { partition: PartitionId { topic, index: 0 }, batch, time_ms: 0 }
    }

    #[test]
    fn a_bell_rings_once_for_what_it_is_armed_for() {
        let bells = Arc::new(Bells::default());
        let bell = bells.hang().expect("room");
        let (orders, refunds) = (random_topic_id(), random_topic_id());
        bells.applied(&[came(orders)]);
        assert_eq!(bell.heard().now_or_never(), None, "not armed");
        bell.arm(HashSet::from([orders]));
        bells.applied(&[came(refunds), came(orders), came(orders)]);
        assert_eq!(bell.heard().now_or_never(), Some(HashSet::from([orders])));
        bells.applied(&[came(orders)]);
        assert_eq!(bell.heard().now_or_never(), None, "not armed again");
    }

    #[test]
    fn r1_there_are_only_so_many_and_a_dropped_one_makes_room() {
        let bells = Arc::new(Bells::default());
        let hung: Vec<_> = (0..limits::SIGNAL_STREAMS_MAX).map(|_| bells.hang()).collect();
        assert!(hung.iter().all(Option::is_some));
        assert!(bells.hang().is_none());
        drop(hung);
        assert!(bells.hang().is_some());
    }
}
