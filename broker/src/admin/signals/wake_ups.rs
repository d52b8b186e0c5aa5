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
pub struct WakeUps {
    count: AtomicUsize,
    all: RwLock<Vec<Weak<StreamWakeUps>>>,
}

/// The wake-ups of one stream.
#[derive(Debug)]
pub(super) struct StreamWakeUps {
    wake_ups: Arc<WakeUps>,
    armed: RwLock<HashSet<TopicId>>,
    pending: Mutex<HashSet<TopicId>>,
    notify: Notify,
}

impl WakeUps {
    /// Subscribes one more stream; `None` at the maximum number of streams.
    pub(super) fn subscribe(self: &Arc<Self>) -> Option<Arc<StreamWakeUps>> {
        let mut all = self.all.write();
        all.retain(|stream| stream.strong_count() > 0);
        if all.len() >= limits::SIGNAL_STREAMS_MAX {
            return None;
        }
        let stream = Arc::new(StreamWakeUps {
            wake_ups: Arc::clone(self),
            armed: RwLock::default(),
            pending: Mutex::default(),
            notify: Notify::new(),
        });
        all.push(Arc::downgrade(&stream));
        self.count.fetch_add(1, Ordering::Relaxed);
        Some(stream)
    }

    /// Processes applied effects. Called on the shard's loop.
    pub(crate) fn applied(&self, effects: &[Effect]) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        for effect in effects {
            let Effect::Appended { partition, .. } = effect else { continue };
            for stream in self.all.read().iter().filter_map(Weak::upgrade) {
                stream.wake(partition.topic);
            }
        }
    }
}

impl StreamWakeUps {
    /// Replaces the armed topics: a record for one of these causes one wake-up.
    pub(super) fn arm(&self, topics: HashSet<TopicId>) {
        *self.armed.write() = topics;
    }

    /// Disarms all topics but these.
    pub(super) fn retain(&self, topics: &HashSet<TopicId>) {
        self.armed.write().retain(|topic| topics.contains(topic));
    }

    /// Waits for a wake-up, and returns its topics.
    pub(super) async fn woken(&self) -> HashSet<TopicId> {
        loop {
            let pending = std::mem::take(&mut *self.pending.lock());
            if !pending.is_empty() {
                return pending;
            }
            self.notify.notified().await;
        }
    }

    fn wake(&self, topic: TopicId) {
        if self.armed.read().contains(&topic) && self.armed.write().remove(&topic) {
            self.pending.lock().insert(topic);
            self.notify.notify_one();
        }
    }
}

impl Drop for StreamWakeUps {
    fn drop(&mut self) {
        self.wake_ups.count.fetch_sub(1, Ordering::Relaxed);
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
    fn a_stream_is_woken_once_for_each_armed_topic() {
        let wake_ups = Arc::new(WakeUps::default());
        let stream = wake_ups.subscribe().expect("room");
        let (orders, refunds) = (random_topic_id(), random_topic_id());
        wake_ups.applied(&[came(orders)]);
        assert_eq!(stream.woken().now_or_never(), None, "not armed");
        stream.arm(HashSet::from([orders]));
        wake_ups.applied(&[came(refunds), came(orders), came(orders)]);
        assert_eq!(stream.woken().now_or_never(), Some(HashSet::from([orders])));
        wake_ups.applied(&[came(orders)]);
        assert_eq!(stream.woken().now_or_never(), None, "not armed again");
    }

    #[test]
    fn r1_there_are_only_so_many_and_a_dropped_one_makes_room() {
        let wake_ups = Arc::new(WakeUps::default());
        let subscribed: Vec<_> =
            (0..limits::SIGNAL_STREAMS_MAX).map(|_| wake_ups.subscribe()).collect();
        assert!(subscribed.iter().all(Option::is_some));
        assert!(wake_ups.subscribe().is_none());
        drop(subscribed);
        assert!(wake_ups.subscribe().is_some());
    }
}
