//! The replicated state machine of a shard: every replica computes the same state from its entries.
//!
//! [`State::apply`] is a pure function of the state and the entry. It returns an [`Outcome`] for
//! the proposer, and [`Effect`]s that the driver carries out (append batches to partition logs,
//! remove files, wake waiting requests).
//!
//! # Invariants
//!
//! - **O1** offsets are dense per partition, are assigned here and never change.
//! - **O3** a commit from an old generation is refused here, whatever the coordinator accepted.
//! - **D5** the last five batches of each producer are part of this state, for at most
//!   [`limits::PARTITION_PRODUCERS_MAX`] producers of a partition. Above that, the partition
//!   removes those with the oldest last batch.

use std::collections::BTreeMap;

use bytes::BufMut;
use ropewalk_batch::{Header, StampedBatch};
use serde::{Deserialize, Serialize};

use crate::command::{Append, ChangeTier, Command, Envelope, OpenPartition, ShardCommand};
use crate::deletion::Deletion;
use crate::id::{PartitionId, TopicId};
#[cfg(doc)]
use crate::limits;

mod copy_on_write;
pub mod tier;
pub mod partition;
mod restore;
pub mod group;
pub mod catalog;

pub use catalog::Catalog;
pub use copy_on_write::CopyOnWrite;
pub use group::Group;
pub use partition::{AppendOutcome, AppendRefusal, Partition};
use tier::Changed;
pub use tier::{Tier, TierRefusal};

/// The replicated state of a shard, without the records.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The partitions of this shard.
    pub partitions: BTreeMap<PartitionId, CopyOnWrite<Partition>>,
    /// The groups that hash to this shard, by group id.
    pub groups: BTreeMap<String, CopyOnWrite<Group>>,
    /// The catalog; only in shard 0.
    pub catalog: Option<Box<Catalog>>,
    /// The clock of the shard, Unix milliseconds: that of the leaders, but it never runs backwards.
    /// What may expire is compared by it.
    pub clock_ms: i64,
    /// A checksum of every batch that was appended since the first
    /// [`ShardCommand::CheckState`]: its partition, its offsets and its own checksum. `None` before
    /// that. Compared with the rest of the state, it shows that logs differ.
    pub log_sum: Option<u32>,
}

/// Version of the encoding of a [`State`], and of what [`State::log_sum`] covers. Replicas compare
/// digests only of the same version. A change of any part of the state needs another one.
pub const ENCODING: u8 = 4;

/// A side effect of an applied entry. The replica's driver carries them out in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// A batch was appended to a partition.
    Appended {
        /// The partition that was appended to.
        partition: PartitionId,
        /// The batch with its offset and epoch.
        batch: StampedBatch,
        /// The leader's clock when the batch was proposed: its append time, Unix milliseconds.
        time_ms: i64,
    },
    /// A partition was created.
    Opened(PartitionId),
    /// A partition was removed; its files may be removed once no snapshot names them.
    Closed(PartitionId),
    /// The log start of a partition was raised.
    LogStart {
        /// The partition whose log start was raised.
        partition: PartitionId,
        /// The first offset that remains.
        offset: i64,
    },
    /// The local start of a partition was raised: a replica no longer needs its files below it.
    LocalStart {
        /// The partition whose local start was raised.
        partition: PartitionId,
        /// The first offset that stays on the disks.
        offset: i64,
    },
    /// The tier of a partition changed in another way.
    TierChanged(PartitionId),
    /// An empty partition was restored: its records are in the bucket, and none is on disks.
    Restored {
        /// The partition that was restored.
        partition: PartitionId,
        /// The first offset that is read.
        log_start: i64,
        /// The offset that the next record gets.
        end: i64,
    },
    /// A group committed an offset. The metrics of consumer groups are computed from this.
    Committed {
        /// The group's id.
        group: String,
        /// The partition of the offset.
        partition: PartitionId,
        /// The offset committed before, if any.
        before: Option<i64>,
        /// The offset committed now.
        after: i64,
        /// The leader's clock at the commit, Unix milliseconds.
        time_ms: i64,
    },
    /// A group's members, offsets or existence changed.
    GroupChanged(String),
    /// The catalog changed: views of it have to be refreshed.
    CatalogChanged(catalog::Change),
}

/// The result of a command, for its proposer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// The command succeeded and has no other result.
    Done,
    /// One result per batch, in the order proposed.
    Appended(Vec<Result<AppendOutcome, AppendRefusal>>),
    /// The group refused the command.
    GroupRefused(group::Refusal),
    /// The catalog has carried the command out, or has refused it.
    Catalog {
        /// The catalog's revision after the command.
        revision: u64,
        /// The answer to the command.
        answer: catalog::Answer,
    },
    /// The entry was committed in another term than it was proposed in: nothing was changed.
    TermChanged,
    /// The change of a tier was refused.
    TierRefused(TierRefusal),
}

impl State {
    /// The state of an empty shard.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies one committed entry of term `term`.
    pub fn apply(&mut self, term: u64, entry: Envelope, effects: &mut Vec<Effect>) -> Outcome {
        if entry.term != term {
            return Outcome::TermChanged;
        }
        let time_ms = entry.time_ms;
        self.advance_clock(time_ms);
        match entry.command {
            Command::Append(items) => self.append(term, time_ms, items, effects),
            Command::Shard(command) => self.change(term, command, effects),
            Command::Catalog(command) => {
                let catalog = self.catalog.get_or_insert_default();
                let (answer, change) = catalog.apply(time_ms, command);
                effects.push(Effect::CatalogChanged(change));
                Outcome::Catalog { revision: catalog.revision, answer }
            }
        }
    }

    /// The clock of a new leader, or a clock that was set, may be behind. The shard's clock then
    /// advances by the smallest step, so that what is written now is later than what was before.
    fn advance_clock(&mut self, time_ms: i64) {
        let next_ms = self.clock_ms.saturating_add(1);
        self.clock_ms = if time_ms < self.clock_ms { next_ms } else { time_ms };
    }

    /// The feature level of the cluster: see [`crate::command`]. 0 where the catalog is not.
    #[must_use]
    pub fn level(&self) -> u8 {
        self.catalog.as_ref().map_or(0, |catalog| catalog.level)
    }

    /// A checksum of the state in its canonical encoding (CRC-32C). Replicas that have applied the
    /// same entries have the same digest.
    ///
    /// # Panics
    /// Never: every state can be encoded.
    #[must_use]
    pub fn digest(&self) -> u32 {
        crc32c::crc32c(&postcard::to_allocvec(self).expect("a state always encodes"))
    }

    /// Whether the batch is of an idempotent producer of which the partition has no batch, as far
    /// as is known. The partition then accepts any sequence.
    #[must_use]
    pub fn is_of_new_producer(&self, item: &Append) -> bool {
        let Ok(header) = Header::parse(&item.batch) else { return false };
        let partition = self.partitions.get(&item.partition);
        header.producer_id >= 0
            && partition.is_some_and(|partition| !partition.has_producer(header.producer_id))
    }

    fn append(
        &mut self,
        term: u64,
        time_ms: i64,
        items: Vec<Append>,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let mut results = Vec::with_capacity(items.len());
        for Append { partition: id, batch } in items {
            let Some(partition) = self.partitions.get_mut(&id) else {
                results.push(Err(AppendRefusal::NoSuchPartition));
                continue;
            };
            results.push(partition.append(term, self.clock_ms, batch).map(
                |(appended, stamped)| {
                    if let Some(batch) = stamped {
                        if let Some(sum) = &mut self.log_sum {
                            *sum = sum_with(*sum, id, &batch);
                        }
                        effects.push(Effect::Appended { partition: id, batch, time_ms });
                    }
                    appended
                },
            ));
        }
        Outcome::Appended(results)
    }

    fn change(&mut self, term: u64, command: ShardCommand, effects: &mut Vec<Effect>) -> Outcome {
        match command {
            ShardCommand::OpenPartitions(list) => self.open(list, effects),
            ShardCommand::ClosePartitions(list) => {
                for id in list {
                    if self.partitions.remove(&id).is_some() {
                        effects.push(Effect::Closed(id));
                    }
                }
            }
            ShardCommand::AdvanceLogStart(list) => {
                for (id, offset) in list {
                    let moved =
                        self.partitions.get_mut(&id).and_then(|p| p.advance_log_start(offset));
                    if let Some(offset) = moved {
                        effects.push(Effect::LogStart { partition: id, offset });
                    }
                }
            }
            ShardCommand::ExpireProducers(list) => {
                for (id, producer) in list {
                    if let Some(partition) = self.partitions.get_mut(&id) {
                        partition.remove_producer(producer);
                    }
                }
            }
            ShardCommand::ExpireSilentProducers(list) => {
                for silent in list {
                    if let Some(partition) = self.partitions.get_mut(&silent.partition) {
                        partition.expire_producer(silent.producer_id, silent.seen_ms);
                    }
                }
            }
            ShardCommand::RemoveTopics(topics) => self.remove_topics(&topics, effects),
            ShardCommand::CloseTopics(deleted) => {
                let topics: Vec<TopicId> = deleted.iter().map(Deletion::topic).collect();
                topics.iter().for_each(|topic| self.close(*topic, effects));
                self.remove_topics(&topics, effects);
            }
            ShardCommand::CheckState { encoding: _ } => {
                self.log_sum.get_or_insert(0);
            }
            ShardCommand::ChangeTier(change) => return self.change_tier(term, change, effects),
            ShardCommand::CommitOffsets(_)
            | ShardCommand::DeleteOffsets { .. }
            | ShardCommand::ExpireOffsets { .. }
            | ShardCommand::StartOffsets { .. }
            | ShardCommand::SetGeneration(_)
            | ShardCommand::DeleteGroup { .. } => {
                return group::apply(&mut self.groups, self.clock_ms, command, effects);
            }
        }
        Outcome::Done
    }

    fn change_tier(
        &mut self,
        term: u64,
        ChangeTier { change, partition: id }: ChangeTier,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let Some(partition) = self.partitions.get_mut(&id) else {
            return Outcome::TierRefused(TierRefusal::NoSuchPartition);
        };
        match partition.change_tier(term, self.clock_ms, change) {
            Ok(Changed::Nothing) => {}
            Ok(Changed::Tier) => effects.push(Effect::TierChanged(id)),
            Ok(Changed::LocalStart(offset)) => {
                effects.push(Effect::LocalStart { partition: id, offset });
            }
            Ok(Changed::Restored { log_start, end }) => {
                effects.push(Effect::Restored { partition: id, log_start, end });
            }
            Err(refusal) => return Outcome::TierRefused(refusal),
        }
        Outcome::Done
    }

    fn open(&mut self, list: Vec<OpenPartition>, effects: &mut Vec<Effect>) {
        for open in list {
            self.partitions.entry(open.partition).or_insert_with(|| {
                effects.push(Effect::Opened(open.partition));
                Partition::new(open.epoch_base).into()
            });
        }
    }

    fn close(&mut self, topic: TopicId, effects: &mut Vec<Effect>) {
        let of_topic =
            PartitionId { topic, index: i32::MIN }..=PartitionId { topic, index: i32::MAX };
        let closed: Vec<_> = self.partitions.range(of_topic).map(|(id, _)| *id).collect();
        for id in closed {
            self.partitions.remove(&id);
            effects.push(Effect::Closed(id));
        }
    }

    fn remove_topics(&mut self, topics: &[TopicId], effects: &mut Vec<Effect>) {
        for (name, group) in &mut self.groups {
            // Checked first, because the mutable access may copy the group.
            if group.has_offsets_of(topics) && group.remove_topics(topics) {
                effects.push(Effect::GroupChanged(name.clone()));
            }
        }
    }
}

/// The checksum of what was appended, with one more batch.
fn sum_with(sum: u32, partition: PartitionId, batch: &StampedBatch) -> u32 {
    let mut position = [0; PartitionId::LEN + 20];
    let mut rest = &mut position[..];
    rest.put_slice(&partition.to_bytes());
    rest.put_i64_le(batch.base_offset);
    rest.put_i64_le(batch.next_offset());
    rest.put_u32_le(batch.header().crc);
    crc32c::crc32c_append(sum, &position)
}

#[cfg(test)]
mod tests;
