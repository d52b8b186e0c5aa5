//! Rebuilds a shard that lost all its snapshots from the files of its partitions.
//!
//! State that was only in the snapshot is lost: committed offsets of groups and sequences of
//! producers, leader epochs and append times. The entries of the write-ahead log are lost too,
//! because they do not contain the offsets that their batches got. Segments and spill files name
//! the partition of their records, and the catalog names the partitions of the shard.
//!
//! Invariants: a partition ends before the first gap after its segments, and records that were
//! spilled after the gap are dropped; **D4** the log starts again after
//! the new snapshot, in a higher term.

use std::collections::{BTreeMap, HashMap};

use ropewalk_segment::salvage::{SalvagedSegments, salvage};
use ropewalk_segment::spill::{SalvagedExtent, SpillReader};
use ropewalk_shard::engine::Members;
use ropewalk_shard::state::partition::EpochStart;
use ropewalk_shard::state::{Catalog, Partition, State};
use ropewalk_shard::{BrokerId, PartitionId, ShardId};
use ropewalk_wal::RecoveredLog;

use super::{Finding, Loss, Place, RepairError, TopicNames, named_partition};
use crate::directory::DataDir;
use crate::recovery::last_index;
use crate::replica_log;
use crate::snapshot::{PartitionFiles, Snapshot, SpillRun};

/// The snapshot from which a shard can start again; `None` if the catalog does not have the shard.
pub(super) fn rebuilt_snapshot(
    data: &DataDir,
    shard: ShardId,
    catalog: &Catalog,
    broker: BrokerId,
    recovered: &RecoveredLog,
) -> Result<Option<Snapshot>, RepairError> {
    let Some(info) = catalog.shards.get(&shard) else { return Ok(None) };
    let Some((replica, _)) = info.on(broker) else { return Ok(None) };
    let log = recovered.replicas.get(&replica_log::key(shard, replica));
    let term = log.map_or(1, |log| {
        let written = log.entries.last().map_or(log.truncated.term, |entry| entry.term);
        written.max(log.hard_state.term).max(1)
    });
    let mut snapshot = Snapshot {
        shard,
        replica,
        index: log.map_or(1, |log| last_index(log).max(1)),
        term,
        members: Members::lone(replica.0),
        replicas: info.brokers(),
        state: State::new(),
        partitions: Vec::new(),
    };
    let mut runs = runs_of(data, shard)?;
    for (partition, epoch_base) in partitions_of(catalog, shard) {
        let runs = runs.remove(&partition).unwrap_or_default();
        let Some(files) = files_of(data, partition, runs)? else { continue };
        let mut state = Partition::new(epoch_base);
        state.log_start = files.local_start;
        state.next_offset = files.next_offset;
        let epoch = epoch_base.saturating_add(i32::try_from(term).unwrap_or(i32::MAX));
        state.epochs = vec![EpochStart { epoch, start_offset: files.local_start }];
        snapshot.state.partitions.insert(partition, state.into());
        snapshot.partitions.push(files);
    }
    snapshot.partitions.sort_unstable_by_key(|files| files.partition);
    Ok(Some(snapshot))
}

/// The report of a rebuilt shard.
pub(super) fn finding(snapshot: &Snapshot, catalog: &Catalog, names: &TopicNames) -> Finding {
    let from = |(partition, _): (PartitionId, i32)| {
        let state = snapshot.state.partitions.get(&partition);
        Loss::From(named_partition(names, partition), state.map_or(0, |state| state.next_offset))
    };
    let losses = partitions_of(catalog, snapshot.shard).map(from).chain([Loss::Groups]).collect();
    Finding {
        place: Place::Shard(snapshot.shard),
        what: "it has no intact snapshot; it is rebuilt from the records in its files".into(),
        losses,
        can_be_repaired: true,
    }
}

/// The partitions that the catalog places in a shard, with their epoch base.
pub(super) fn partitions_of(
    catalog: &Catalog,
    shard: ShardId,
) -> impl Iterator<Item = (PartitionId, i32)> + '_ {
    catalog.topics.iter().flat_map(move |(id, topic)| {
        let placements = (0_i32..).zip(&topic.partitions);
        let here = placements.filter(move |(_, placement)| placement.shard == shard);
        here.map(|(index, placement)| (PartitionId { topic: *id, index }, placement.epoch_base))
    })
}

type Runs = HashMap<PartitionId, BTreeMap<i64, SpillRun>>;

/// Every run in the shard's spill files, by its first offset.
fn runs_of(data: &DataDir, shard: ShardId) -> Result<Runs, RepairError> {
    let mut runs = Runs::new();
    for name in data.names(&data.spill(shard))? {
        let number = name.strip_suffix(".spill").and_then(|number| number.parse().ok());
        let Some(file) = number else { continue };
        let reader = SpillReader::salvage(&**data.disk(), data.spill_file(shard, file))?;
        for SalvagedExtent { tag, extent, batches } in reader.salvage_all() {
            let data_of =
                |batch: &ropewalk_batch::StampedBatch| u32::try_from(batch.count).unwrap_or(0);
            let newest_ms = batches.iter().map(|batch| batch.max_timestamp_ms).max().unwrap_or(0);
            let records = batches.iter().map(data_of).sum();
            // The file does not store append times; the records' timestamps are the best
            // substitute.
            let run = SpillRun::new(file, extent, records, newest_ms, newest_ms);
            runs.entry(PartitionId::from_bytes(tag)).or_default().insert(run.base_offset, run);
        }
    }
    Ok(runs)
}

/// The segments of a partition's newest incarnation, and the runs that follow them without a gap.
fn files_of(
    data: &DataDir,
    partition: PartitionId,
    runs: BTreeMap<i64, SpillRun>,
) -> Result<Option<PartitionFiles>, RepairError> {
    let prefix = format!("{partition}.");
    let names = data.names(&data.partitions())?;
    let incarnations =
        names.iter().filter_map(|name| name.strip_prefix(&prefix)?.parse::<u64>().ok());
    let incarnation = incarnations.max();
    let segments = match incarnation {
        Some(incarnation) => salvage(&**data.disk(), &data.partition(partition, incarnation))?,
        None => None,
    };
    let first = runs.keys().next().copied();
    let Some(local_start) = segments.map(|found| found.start_offset).or(first) else {
        return Ok(None);
    };
    let end = segments.map(|SalvagedSegments { end, .. }| end);
    let mut next_offset = end.map_or(local_start, |end| end.next_offset);
    let mut spill = Vec::new();
    for run in runs.into_values() {
        if run.base_offset == next_offset {
            next_offset = run.next_offset;
            spill.push(run);
        }
    }
    Ok(Some(PartitionFiles {
        partition,
        incarnation: incarnation.unwrap_or(0),
        local_start,
        next_offset,
        segments: end.map(Into::into),
        spill,
    }))
}
