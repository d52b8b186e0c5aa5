//! Checks the files of a shard's partitions, and writes a snapshot that names only readable
//! records.
//!
//! Invariant: the new snapshot has the same index and state; only the files of partitions change.
//! So the log that follows the old snapshot also follows the new one, and lost offsets are gaps,
//! like those that compaction leaves.

use std::ops::Range;
use std::sync::Arc;

use ropewalk_segment::spill::SpillReader;
use ropewalk_segment::{Damage, DurableEnd, FileCache, SegmentError, Segments};

use super::{Finding, Loss, Place, RepairError, Shard, TopicNames, named_partition};
use crate::directory::DataDir;
use crate::snapshot::{PartitionFiles, Snapshot, Snapshots, SpillRun};

/// Most files that are open while one partition is checked.
const OPEN_FILES_MAX: usize = 64;

/// Checks all partitions of a shard; with `accept`, removes what cannot be read.
pub(super) fn repair(
    data: &DataDir,
    shard: &Shard,
    names: &TopicNames,
    accept: bool,
    findings: &mut Vec<Finding>,
) -> Result<(), RepairError> {
    let mut repaired = shard.newest.clone();
    let mut is_changed = false;
    for files in &mut repaired.partitions {
        let damaged = check_files(data, &shard.newest, files, accept)?;
        is_changed |= !damaged.what.is_empty();
        if let Some(first) = damaged.what.first() {
            let more = damaged.what.len() - 1;
            let more = if more == 0 { String::new() } else { format!(", and {more} more") };
            let named = named_partition(names, files.partition);
            let lost = damaged.lost.into_iter();
            findings.push(Finding {
                place: Place::Partition(files.partition),
                what: format!("{first}{more}"),
                losses: lost.map(|range| Loss::Offsets(named.clone(), range)).collect(),
                can_be_repaired: true,
            });
        }
    }
    if accept && is_changed {
        write(data, shard.number, &repaired)?;
    }
    Ok(())
}

/// Writes the new snapshot and keeps the one that it was made from. Older ones are removed, because
/// they name files that no longer exist.
fn write(data: &DataDir, number: u64, repaired: &Snapshot) -> Result<(), RepairError> {
    let snapshots = Snapshots::new(data, repaired.shard);
    let next = snapshots.numbers()?.last().map_or(number, |last| last + 1);
    snapshots.write(next, repaired)?;
    Ok(snapshots.remove_all_but(&[number, next])?)
}

/// The damage of one partition.
#[derive(Default)]
struct DamageReport {
    what: Vec<String>,
    lost: Vec<Range<i64>>,
}

fn check_files(
    data: &DataDir,
    snapshot: &Snapshot,
    files: &mut PartitionFiles,
    accept: bool,
) -> Result<DamageReport, RepairError> {
    let mut damaged = DamageReport::default();
    if let Some(end) = files.segments {
        let (disk, cache) = (Arc::clone(data.disk()), Arc::new(FileCache::new(OPEN_FILES_MAX)));
        let dir = data.partition(files.partition, files.incarnation);
        let mut segments =
            Segments::open(disk, cache, dir, Some(&DurableEnd::from(end)), files.local_start)?;
        let (what, mut lost) = segments.reader().survey()?;
        if accept && !what.is_empty() {
            lost = segments.accept_loss()?;
            files.segments = Some(segments.sync()?.into());
        }
        damaged.what.extend(what.iter().map(ToString::to_string));
        damaged.lost.extend(lost);
    }
    let runs = std::mem::take(&mut files.spill);
    for run in runs {
        let (what, is_whole) = check_run(data, snapshot, &run, accept)?;
        damaged.what.extend(what.map(|damage| damage.to_string()));
        if is_whole {
            files.spill.push(run);
        } else {
            damaged.lost.push(run.base_offset..run.next_offset);
        }
    }
    let start = files.local_start;
    damaged.lost.iter_mut().for_each(|range| range.start = range.start.max(start));
    damaged.lost.retain(|range| !range.is_empty());
    Ok(damaged)
}

/// Checks a run. Returns the damage of its file, and whether the run itself is intact.
fn check_run(
    data: &DataDir,
    snapshot: &Snapshot,
    run: &SpillRun,
    accept: bool,
) -> Result<(Option<Damage>, bool), RepairError> {
    let path = data.spill_file(snapshot.shard, run.file);
    let reader = match SpillReader::salvage(&**data.disk(), path.clone()) {
        Ok(reader) => reader,
        Err(SegmentError::Damaged(damage)) => return Ok((Some(damage), false)),
        Err(error) => return Err(error.into()),
    };
    match reader.read(&run.extent()) {
        Ok(_) => {}
        Err(SegmentError::Damaged(damage)) => return Ok((Some(damage), false)),
        Err(error) => return Err(error.into()),
    }
    match reader.check_header() {
        Ok(()) => Ok((None, true)),
        Err(SegmentError::Damaged(damage)) => {
            if accept {
                SpillReader::mend_header(&**data.disk(), &path)?;
            }
            Ok((Some(damage), true))
        }
        Err(error) => Err(error.into()),
    }
}
