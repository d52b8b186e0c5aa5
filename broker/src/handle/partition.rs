//! Resolves the topic and partition of a request to the shard and the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use ropewalk_codec::Str;
use ropewalk_node::ShardHandle;
use ropewalk_shard::{PartitionId, ShardId, TopicId};
use ropewalk_store::PartitionLog;
use uuid::Uuid;

use super::{Context, ErrorCode};
use crate::catalog::TopicView;

/// A partition that this broker leads or, for a fetch, follows.
#[derive(Debug)]
pub(crate) struct HeldPartition {
    /// The identity of the partition.
    pub(crate) id: PartitionId,
    /// The shard of the partition.
    pub(crate) shard: Arc<ShardHandle>,
    /// The log of the partition.
    pub(crate) log: Arc<PartitionLog>,
    /// The current leader epoch of the partition.
    pub(crate) leader_epoch: i32,
    /// The term in which this broker led or followed the shard.
    term: u64,
    role: Role,
}

/// The part that this broker has in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Leads,
    /// It has what is committed and applied here, which may be less than the leader has.
    Follows,
}

/// The leader epoch of a partition whose shard is led in `term`.
pub(crate) fn epoch(epoch_base: i32, term: u64) -> i32 {
    epoch_base.saturating_add(i32::try_from(term).unwrap_or(i32::MAX))
}

impl Context {
    /// The topic of a request that names it by name or, in newer versions, by id.
    pub(crate) fn topic(&self, name: &Str, id: Uuid) -> Result<Arc<TopicView>, ErrorCode> {
        if id.is_nil() {
            self.view.by_name(name).ok_or(ErrorCode::UnknownTopicOrPartition)
        } else {
            self.view.by_id(TopicId(id)).ok_or(ErrorCode::UnknownTopicId)
        }
    }

    /// Answers for each partition of one topic that a request names: the partition, or the error.
    pub(crate) fn each_partition<P, R>(
        &self,
        topic: &Str,
        asked: Vec<P>,
        index: impl Fn(&P) -> i32,
        mut answer: impl FnMut(P, Result<HeldPartition, ErrorCode>) -> R,
    ) -> Vec<R> {
        let view = self.topic(topic, Uuid::nil());
        let find = |index| self.partition(view.as_deref().map_err(|code| *code)?, index);
        let one = |asked| {
            let found = find(index(&asked));
            answer(asked, found)
        };
        asked.into_iter().map(one).collect()
    }

    /// The partition, if this broker leads it.
    pub(crate) fn partition(
        &self,
        topic: &TopicView,
        index: i32,
    ) -> Result<HeldPartition, ErrorCode> {
        let (id, home) = topic.partition(index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let shard = self.node.shard(home.shard).ok_or_else(|| self.why_not(home.shard))?;
        let term = shard.leading().ok_or(ErrorCode::NotLeaderOrFollower)?;
        let log = shard.log(&id).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let leader_epoch = epoch(home.epoch_base, term);
        let role = Role::Leads;
        Ok(HeldPartition { id, shard: Arc::clone(shard), log, leader_epoch, term, role })
    }

    /// The partition, if this broker follows its leader (KIP-392).
    pub(crate) fn followed(
        &self,
        topic: &TopicView,
        index: i32,
    ) -> Result<HeldPartition, ErrorCode> {
        let (id, home) = topic.partition(index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let shard = self.node.shard(home.shard).ok_or(ErrorCode::NotLeaderOrFollower)?;
        let term = shard.following().ok_or(ErrorCode::NotLeaderOrFollower)?;
        // The leader may have opened it already.
        let log = shard.log(&id).ok_or(ErrorCode::NotLeaderOrFollower)?;
        let leader_epoch = epoch(home.epoch_base, term);
        let role = Role::Follows;
        Ok(HeldPartition { id, shard: Arc::clone(shard), log, leader_epoch, term, role })
    }
}

/// Waits until every acknowledged record of these partitions can be read, and this broker is known
/// to lead them still: one read barrier per shard, all concurrently.
pub(crate) async fn barriers(
    found: impl Iterator<Item = &HeldPartition>,
) -> BTreeMap<ShardId, Result<(), ErrorCode>> {
    let shards: BTreeMap<ShardId, &Arc<ShardHandle>> =
        found.map(|found| (found.shard.id(), &found.shard)).collect();
    let passed = shards.into_iter().map(|(id, shard)| async move {
        (id, shard.read_barrier().await.map_err(ErrorCode::from))
    });
    join_all(passed).await.into_iter().collect()
}

impl Context {
    /// Why a shard is not served here. Damage has its own error code (D3), so that clients do not
    /// look for another leader in vain, and so has a replica that has stopped. If another broker
    /// leads the shard, clients go there.
    fn why_not(&self, shard: ShardId) -> ErrorCode {
        if self.cluster.leader(shard).is_some_and(|leader| leader.broker.0 != self.broker_id) {
            return ErrorCode::NotLeaderOrFollower;
        }
        let is_damaged = self.node.damaged().iter().any(|(damaged, _)| *damaged == shard);
        if is_damaged || self.node.halted().any(|(halted, _)| halted == shard) {
            return ErrorCode::KafkaStorageError;
        }
        ErrorCode::NotLeaderOrFollower
    }
}

impl HeldPartition {
    /// Whether this broker follows the leader of the partition.
    pub(crate) fn is_followed(&self) -> bool {
        self.role == Role::Follows
    }

    /// Whether this broker has led the partition, or followed the same leader, without a break
    /// since the partition was looked up, as far as it knows.
    pub(crate) fn is_current(&self) -> bool {
        let term = match self.role {
            Role::Leads => self.shard.leading(),
            Role::Follows => self.shard.following(),
        };
        term == Some(self.term)
    }

    /// Checks the client's leader epoch (KIP-320); -1 disables the check.
    pub(crate) fn check_epoch(&self, asked: i32) -> Result<(), ErrorCode> {
        match asked {
            epoch if epoch < 0 => Ok(()),
            epoch if epoch < self.leader_epoch => Err(ErrorCode::FencedLeaderEpoch),
            epoch if epoch > self.leader_epoch => Err(ErrorCode::UnknownLeaderEpoch),
            _ => Ok(()),
        }
    }

    /// The offset up to which the records are in the bucket; the log start without a tier.
    pub(crate) fn tier_end(&self) -> i64 {
        let state = self.shard.state();
        state.partitions.get(&self.id).map_or(0, |partition| partition.tier_end())
    }

    /// The leader epoch of the record at `offset`; -1 if it is unknown.
    pub(crate) fn epoch_at(&self, offset: i64) -> i32 {
        let state = self.shard.state();
        let Some(partition) = state.partitions.get(&self.id) else { return -1 };
        let at = partition.epochs.iter().rposition(|epoch| epoch.start_offset <= offset);
        at.map_or(-1, |at| partition.epochs[at].epoch)
    }
}
