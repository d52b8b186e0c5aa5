//! The state machine of a shard: what every replica computes alike from the same entries.
//!
//! [`State::apply`] is pure: no I/O, no clock, no randomness, nothing outside the shard. What has
//! to happen in the world (batches into tails, files unlinked, waiters told) comes back as
//! [`Effect`]s, and what the proposer is told as an [`Outcome`].
//!
//! # Invariants
//!
//! - **O1** offsets are dense per partition and given out here, finally.
//! - **O3** a commit from an old generation is refused here, whatever the door believed.
//! - **D5** the last five sequences of every producer are part of this state, of at most
//!   [`limits::PARTITION_PRODUCERS_MAX`] producers of a partition: the ones silent for longest go.

use std::collections::BTreeMap;

use ropewalk_batch::{Header, StampedBatch};
use serde::{Deserialize, Serialize};

use crate::command::{Append, Command, Envelope, OpenPartition, ShardCommand};
use crate::id::{PartitionId, TopicId};
#[cfg(doc)]
use crate::limits;

mod copied;
pub mod partition;
pub mod group;
pub mod catalog;

pub use catalog::Catalog;
pub use copied::CopiedOnWrite;
pub use group::Group;
pub use partition::{AppendOutcome, AppendRefusal, Partition};

/// Everything a shard knows, but for the records themselves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The partitions that live here.
    pub partitions: BTreeMap<PartitionId, CopiedOnWrite<Partition>>,
    /// The groups that hash here.
    pub groups: BTreeMap<String, CopiedOnWrite<Group>>,
    /// Only in shard 0.
    pub catalog: Option<Box<Catalog>>,
}

/// What the world has to do because of an entry. Carried out in order, by the replica's driver.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// The batch is now the newest of its partition.
    Appended {
        /// Where.
        partition: PartitionId,
        /// The batch with its offset and epoch.
        batch: StampedBatch,
        /// The leader's clock at the proposal: its append time.
        time_ms: i64,
    },
    /// A partition exists from now on.
    Opened(PartitionId),
    /// A partition is gone; its files may go once no snapshot names them.
    Closed(PartitionId),
    /// Records below `offset` are gone.
    LogStart {
        /// Where.
        partition: PartitionId,
        /// The first offset that is left.
        offset: i64,
    },
    /// A group's offsets changed, `before` to `after`; figures are measured from this.
    Committed {
        /// The group.
        group: String,
        /// The partition.
        partition: PartitionId,
        /// Committed before, if anything was.
        before: Option<i64>,
        /// Committed now.
        after: i64,
        /// The leader's clock at the commit.
        time_ms: i64,
    },
    /// A group's record (members, existence) changed.
    GroupChanged(String),
    /// The catalog changed: readers of it should look again.
    CatalogChanged(catalog::Change),
}

/// What the proposer is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Done; nothing to say.
    Done,
    /// One result per batch, in the order proposed.
    Appended(Vec<Result<AppendOutcome, AppendRefusal>>),
    /// The group refused it.
    GroupRefused(group::Refusal),
    /// What the catalog says.
    Catalog(catalog::Answer),
    /// Proposed in another term than it was committed in: nothing was changed.
    TermChanged,
}

impl State {
    /// An empty shard.
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
        match entry.command {
            Command::Append(items) => self.append(term, time_ms, items, effects),
            Command::Shard(command) => self.change(time_ms, command, effects),
            Command::Catalog(command) => {
                let catalog = self.catalog.get_or_insert_default();
                let (answer, change) = catalog.apply(time_ms, command);
                effects.push(Effect::CatalogChanged(change));
                Outcome::Catalog(answer)
            }
        }
    }

    /// Whether the batch is of a producer that numbers its batches and has none in the partition yet, as far
    /// as is known: then any sequence is accepted.
    #[must_use]
    pub fn is_of_new_producer(&self, item: &Append) -> bool {
        let Ok(header) = Header::parse(&item.batch) else { return false };
        let partition = self.partitions.get(&item.partition);
        header.producer_id >= 0
            && partition.is_some_and(|partition| !partition.knows(header.producer_id))
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
            results.push(partition.append(term, time_ms, batch).map(|(appended, stamped)| {
                if let Some(batch) = stamped {
                    effects.push(Effect::Appended { partition: id, batch, time_ms });
                }
                appended
            }));
        }
        Outcome::Appended(results)
    }

    fn change(
        &mut self,
        time_ms: i64,
        command: ShardCommand,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
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
                        partition.forget_producer(producer);
                    }
                }
            }
            ShardCommand::ExpireSilentProducers(list) => {
                for silent in list {
                    if let Some(partition) = self.partitions.get_mut(&silent.partition) {
                        partition.forget_silent(silent.producer_id, silent.seen_ms);
                    }
                }
            }
            ShardCommand::ForgetTopics(topics) => self.forget_topics(&topics, effects),
            ShardCommand::CommitOffsets(_)
            | ShardCommand::DeleteOffsets { .. }
            | ShardCommand::ExpireOffsets { .. }
            | ShardCommand::StartOffsets { .. }
            | ShardCommand::SetGeneration(_)
            | ShardCommand::DeleteGroup { .. } => {
                return group::apply(&mut self.groups, time_ms, command, effects);
            }
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

    fn forget_topics(&mut self, topics: &[TopicId], effects: &mut Vec<Effect>) {
        for (name, group) in &mut self.groups {
            // Inspected first: what is changed may have to be copied.
            if group.knows_any(topics) && group.forget_topics(topics) {
                effects.push(Effect::GroupChanged(name.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
