//! The expected content: a model of the shards without logs, files or Raft.

use std::collections::BTreeMap;

use bytes::Bytes;
use ropewalk_batch::{Builder, PREFIX_LEN};
use ropewalk_shard::command::{
    Append, ChangeTier, Command, CommitOffsets, OffsetCommit, OpenPartition, ShardCommand,
    TierChange,
};
use ropewalk_shard::manifest::ObjectRef;
use ropewalk_shard::{PartitionId, State};
use ropewalk_store::PartitionLog;

/// One proposal.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Op {
    Open(PartitionId),
    Close(PartitionId),
    Append(Vec<(PartitionId, SentBatch)>),
    LogStart(PartitionId, i64),
    Commit { group: String, partition: PartitionId, offset: i64 },
    Tier(PartitionId, TierChange),
}

/// A batch of an idempotent producer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SentBatch {
    pub(crate) producer: i64,
    pub(crate) sequence: i32,
    pub(crate) records: i32,
    pub(crate) bytes: Bytes,
}

impl SentBatch {
    pub(crate) fn new(producer: i64, sequence: i32, records: i32, value: &[u8]) -> Self {
        let mut builder = Builder::new().producer(producer, 0, sequence);
        for record in 0..records {
            let tagged = [&sequence.to_le_bytes()[..], &[record as u8], value].concat();
            builder = builder.record(1_000 + i64::from(sequence), None, Some(&tagged));
        }
        Self { producer, sequence, records, bytes: builder.build() }
    }
}

impl Op {
    pub(crate) fn command(&self) -> Command {
        let shard = match self {
            Self::Append(items) => {
                let append = |(partition, sent): &(PartitionId, SentBatch)| Append {
                    partition: *partition,
                    batch: sent.bytes.clone(),
                };
                return Command::Append(items.iter().map(append).collect());
            }
            Self::Open(partition) => {
                let open = OpenPartition { partition: *partition, epoch_base: 0 };
                ShardCommand::OpenPartitions(vec![open])
            }
            Self::Close(partition) => ShardCommand::ClosePartitions(vec![*partition]),
            Self::LogStart(partition, offset) => {
                ShardCommand::AdvanceLogStart(vec![(*partition, *offset)])
            }
            Self::Tier(partition, change) => ShardCommand::ChangeTier(ChangeTier {
                change: change.clone(),
                partition: *partition,
            }),
            Self::Commit { group, partition, offset } => {
                let commit = OffsetCommit {
                    offset: *offset,
                    leader_epoch: -1,
                    metadata: String::new(),
                    expires_ms: None,
                };
                ShardCommand::CommitOffsets(CommitOffsets {
                    group: group.clone(),
                    member: None,
                    offsets: vec![(*partition, commit)],
                })
            }
        };
        Command::Shard(shard)
    }
}

/// The expected content of one shard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) partitions: BTreeMap<PartitionId, PartitionModel>,
    pub(crate) commits: BTreeMap<(String, PartitionId), i64>,
}

/// The expected content of one partition.
#[derive(Debug, Clone, Default)]
pub(crate) struct PartitionModel {
    pub(crate) log_start: i64,
    pub(crate) next_offset: i64,
    pub(crate) batches: Vec<(i64, SentBatch)>,
    pub(crate) tier: Option<TierModel>,
}

/// The expected tier of one partition. The bucket itself is not modelled: it loses no power.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TierModel {
    pub(crate) local_start: i64,
    pub(crate) end: i64,
    pub(crate) objects: usize,
}

impl PartitionModel {
    /// The batch and its offset, if it is in the log already.
    pub(crate) fn find(&self, producer: i64, sequence: i32) -> Option<i64> {
        let same = |sent: &SentBatch| sent.producer == producer && sent.sequence == sequence;
        self.batches.iter().find(|(_, sent)| same(sent)).map(|(offset, _)| *offset)
    }

    /// The first offset that the disk holds.
    pub(crate) fn local_start(&self) -> i64 {
        self.tier.map_or(self.log_start, |tier| tier.local_start)
    }

    fn change_tier(&mut self, change: &TierChange) {
        match (change, &mut self.tier) {
            (TierChange::Enable, tier @ None) => {
                let at = self.log_start;
                *tier = Some(TierModel { local_start: at, end: at, objects: 0 });
            }
            (TierChange::AddObject(ObjectRef { end, .. }), Some(tier)) => {
                (tier.end, tier.objects) = (*end, tier.objects + 1);
            }
            (TierChange::SetLocalStart(offset), Some(tier)) => {
                tier.local_start = tier.local_start.max(*offset);
            }
            (other, tier) => panic!("{other:?} is never proposed for {tier:?}"),
        }
    }

    pub(crate) fn next_sequence(&self, producer: i64) -> i32 {
        let last = self.batches.iter().rfind(|(_, sent)| sent.producer == producer);
        last.map_or(0, |(_, sent)| sent.sequence + sent.records)
    }
}

impl Model {
    pub(crate) fn apply(&mut self, op: &Op) {
        match op {
            Op::Open(partition) => {
                self.partitions.entry(*partition).or_default();
            }
            Op::Close(partition) => {
                self.partitions.remove(partition);
            }
            Op::Append(items) => {
                for (partition, sent) in items {
                    let Some(kept) = self.partitions.get_mut(partition) else { continue };
                    if kept.find(sent.producer, sent.sequence).is_none() {
                        kept.batches.push((kept.next_offset, sent.clone()));
                        kept.next_offset += i64::from(sent.records);
                    }
                }
            }
            Op::LogStart(partition, offset) => {
                if let Some(kept) = self.partitions.get_mut(partition) {
                    kept.log_start = kept.log_start.max(*offset.min(&kept.next_offset));
                    if let Some(tier) = &mut kept.tier {
                        tier.local_start = tier.local_start.max(kept.log_start);
                        tier.end = tier.end.max(kept.log_start);
                    }
                }
            }
            Op::Tier(partition, change) => {
                if let Some(kept) = self.partitions.get_mut(partition) {
                    kept.change_tier(change);
                }
            }
            Op::Commit { group, partition, offset } => {
                self.commits.insert((group.clone(), *partition), *offset);
            }
        }
    }

    /// Checks that a shard has exactly the expected content.
    pub(crate) fn compare<'a>(
        &self,
        state: &State,
        log: impl Fn(&PartitionId) -> Option<&'a PartitionLog>,
    ) -> Result<(), String> {
        let mut there: Vec<&PartitionId> = state.partitions.keys().collect();
        there.sort_unstable();
        if !there.iter().copied().eq(self.partitions.keys()) {
            return Err(format!("partitions {there:?}, not {:?}", self.partitions.keys()));
        }
        for (partition, kept) in &self.partitions {
            let log = log(partition).ok_or_else(|| format!("{partition} has no log"))?;
            kept.compare(log).map_err(|wrong| format!("{partition}: {wrong}"))?;
            let found = &state.partitions[partition];
            if found.next_offset != kept.next_offset {
                return Err(format!("O1: {partition} and its state end apart"));
            }
            let found = found.tier.as_deref().map(|tier| (tier.local_start, tier.end));
            let expected = kept.tier.map(|tier| (tier.local_start, tier.end));
            if found != expected {
                return Err(format!("T1: the tier of {partition} is {found:?}, not {expected:?}"));
            }
        }
        for ((group, partition), offset) in &self.commits {
            let found = state.groups.get(group).and_then(|group| group.offsets.get(partition));
            let found = found.map(|committed| committed.offset);
            if found != Some(*offset) {
                return Err(format!("O3: {group} committed {offset} and gets {found:?}"));
            }
        }
        Ok(())
    }
}

impl PartitionModel {
    fn compare(&self, log: &PartitionLog) -> Result<(), String> {
        let found = (log.log_start(), log.local_start(), log.high_watermark());
        let expected = (self.log_start, self.local_start(), self.next_offset);
        if found != expected {
            return Err(format!("holds {found:?}, not {expected:?}"));
        }
        self.compare_from(log, self.local_start(), usize::MAX)
    }

    /// Checks that reading from an offset on returns exactly what was sent.
    pub(crate) fn compare_from(
        &self,
        log: &PartitionLog,
        from: i64,
        bytes_max: usize,
    ) -> Result<(), String> {
        let mut at = from;
        let ends_after =
            |(offset, sent): &&(i64, SentBatch)| *offset + i64::from(sent.records) > from;
        let mut expected = self.batches.iter().filter(ends_after);
        while at < self.next_offset {
            let chunk = log.read(at, bytes_max, true).map_err(|error| error.to_string())?;
            if chunk.next_offset <= at {
                return Err(format!("O4: a read at {at} gives nothing"));
            }
            at = chunk.next_offset;
            let mut rest = Bytes::from(chunk.bytes.concat());
            while !rest.is_empty() {
                let (offset, sent) = expected
                    .next()
                    .ok_or_else(|| format!("the log holds more than was sent, at {at}"))?;
                let header = ropewalk_batch::Header::parse(&rest).map_err(|e| e.to_string())?;
                let batch = rest.split_to(header.size_bytes());
                if header.base_offset != *offset || batch[PREFIX_LEN..] != sent.bytes[PREFIX_LEN..]
                {
                    let at = header.base_offset;
                    return Err(format!("O4: a batch is not what was sent, {at} for {offset}"));
                }
            }
        }
        match expected.next() {
            Some((offset, _)) => Err(format!("D1: the batch at {offset} is gone")),
            None => Ok(()),
        }
    }
}
