//! Record bytes that clients write to and read from each shard, per second.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use ropewalk_shard::{Effect, ShardId};

use super::Meter;

/// The load of the shards that this broker leads. Shards of the catalog are few, so none is removed
/// (R1).
#[derive(Debug, Default)]
pub struct ShardLoad {
    shards: RwLock<HashMap<ShardId, Arc<Mutex<Meter>>>>,
}

impl ShardLoad {
    /// Counts the batches that a leader has appended. Called on the shard's loop.
    pub fn applied(&self, shard: ShardId, effects: &[Effect]) {
        let mut bytes = 0;
        let mut newest_ms = None;
        for effect in effects {
            if let Effect::Appended { batch, time_ms, .. } = effect {
                bytes += batch.size_bytes() as u64;
                newest_ms = Some(*time_ms);
            }
        }
        if let Some(time_ms) = newest_ms {
            self.add(shard, time_ms, bytes);
        }
    }

    /// Counts records that a client is sent.
    pub fn read(&self, shard: ShardId, now_ms: i64, bytes: usize) {
        if bytes > 0 {
            self.add(shard, now_ms, bytes as u64);
        }
    }

    /// Bytes per second over the last half minute.
    #[must_use]
    pub fn bytes_per_second(&self, shard: ShardId, now_ms: i64) -> u64 {
        let meter = self.shards.read().get(&shard).cloned();
        let rate = meter.map_or(0.0, |meter| meter.lock().per_second(now_ms));
        // A rate is finite and not negative; the cast saturates.
        rate.round() as u64
    }

    fn add(&self, shard: ShardId, now_ms: i64, bytes: u64) {
        let known = self.shards.read().get(&shard).cloned();
        let meter =
            known.unwrap_or_else(|| Arc::clone(self.shards.write().entry(shard).or_default()));
        meter.lock().add(now_ms, bytes);
    }
}

#[cfg(test)]
mod tests {
    use ropewalk_shard::PartitionId;

    use super::*;
    use crate::catalog::random_topic_id;

    #[test]
    fn what_is_written_and_read_counts_for_its_shard() {
        let load = ShardLoad::default();
        let partition = PartitionId { topic: random_topic_id(), index: 0 };
        let batch = ropewalk_batch::Builder::new().record(0, None, Some(&[7; 900])).build();
        let batch = ropewalk_batch::StampedBatch::new(batch, 0, 0).expect("a batch");
        let size = batch.size_bytes() as u64;
        let appended = || Effect::Appended { partition, batch: batch.clone(), time_ms: 1_000 };
        load.applied(ShardId(3), &[appended(), appended()]);
        load.read(ShardId(3), 1_000, 500);
        load.read(ShardId(4), 1_000, 0);
        assert_eq!(load.bytes_per_second(ShardId(3), 1_000), 2 * size + 500);
        assert_eq!(load.bytes_per_second(ShardId(4), 1_000), 0);
        assert_eq!(load.bytes_per_second(ShardId(3), 61_000), 0, "it was a minute ago");
    }
}
