//! The tier of the simulated shard: leaders upload records to a bucket that is slow, fails and
//! loses answers, and every replica removes its own records below the local start that it has
//! applied.
//!
//! Leaders that were deposed and do not know it upload too. A put of theirs may be applied when
//! another replica leads.

use std::collections::BTreeMap;

use ropewalk_shard::command::{ChangeTier, ShardCommand, TierChange};
use ropewalk_shard::manifest::{ObjectRef, PageRef};
use ropewalk_shard::state::{Effect, Tier};
use ropewalk_shard::{HistoryId, PartitionId};

use crate::bucket::{Bucket, Found};
use crate::clients::{PARTITIONS, partition};
use crate::dice::{Dice, mix};
use crate::mutation::Mutation;
use crate::node::{Node, Process};
use crate::oracle::{Position, Value, value_of};
use crate::world::{Happening, World};

/// Of so many changes of a tier, one is followed by a check of the whole partition.
const CHECKED_ONE_IN: usize = 5;

/// The records that a replica has on its disk and in memory.
pub(crate) type Records = BTreeMap<Position, Value>;

/// What the uploaders of all replicas share: the bucket, and what happened to it.
#[derive(Debug)]
pub(crate) struct TierWorld {
    pub bucket: Bucket,
    dice: Dice,
    /// The newest log start of each partition, at any replica.
    starts: BTreeMap<i32, i64>,
    changes: usize,
    pub counts: TierCounts,
}

/// What the tier of a run did.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct TierCounts {
    /// Changes that some replica applied.
    pub applied: usize,
    /// Raises of a local start.
    pub trimmed: usize,
    pub puts: usize,
    pub deleted: usize,
    pub pages: usize,
    /// Offsets that were looked for in the bucket.
    pub found: usize,
}

impl TierCounts {
    pub(crate) fn add(&mut self, other: Self) {
        let Self { applied, trimmed, puts, deleted, pages, found } = other;
        self.applied += applied;
        self.trimmed += trimmed;
        self.puts += puts;
        self.deleted += deleted;
        self.pages += pages;
        self.found += found;
    }
}

/// An object that a leader uploads.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    pub of: ObjectRef,
    pub values: Vec<Value>,
    /// When the leader checks what became of it, microseconds.
    retry_at: u64,
}

/// What a leader knows of a partition.
struct View {
    index: i32,
    term: u64,
    log_start: i64,
    next_offset: i64,
    tier: Option<Tier>,
}

impl World {
    /// Lets leaders upload from now on.
    pub(crate) fn begin_tier(&mut self) {
        self.prepare_tier();
        self.after(700_000, Happening::Uploader);
    }

    /// Adds a bucket to the run, to which a script uploads.
    pub(crate) fn prepare_tier(&mut self) {
        let overwrites = self.mutation == Some(Mutation::PutOverwrites);
        self.tier = Some(Box::new(TierWorld {
            bucket: Bucket::new(overwrites),
            dice: Dice::new(mix(self.seed ^ 0x7113)),
            starts: BTreeMap::new(),
            changes: 0,
            counts: TierCounts::default(),
        }));
    }

    /// What a leader would upload next of a partition.
    pub(crate) fn upload_next(&mut self, node: u64, index: i32) -> Option<Upload> {
        let view = self.view(node, index)?;
        let tier = view.tier.clone()?;
        self.next_upload(node, &view, &tier, i64::MAX)
    }

    pub(crate) fn tier(&mut self) -> &mut TierWorld {
        self.tier.as_deref_mut().expect("the run has a tier")
    }

    fn roll(&mut self, bound: u64) -> u64 {
        self.tier().dice.below(bound)
    }

    /// Every replica that takes itself for the leader does the next thing in some partition.
    pub(crate) fn uploader(&mut self) {
        let wait = 3_000 + self.roll(30_000);
        self.after(wait, Happening::Uploader);
        let is_down = self.roll(40) == 0 && !self.is_quiet;
        let is_up = self.roll(8) == 0 || self.is_quiet;
        let bucket = &mut self.tier().bucket;
        bucket.is_down = (bucket.is_down || is_down) && !is_up;
        let leads = |node: &&Node| node.is_leader() && node.paused_until <= self.at_us;
        let leaders: Vec<u64> = self.nodes.values().filter(leads).map(|node| node.id).collect();
        for node in leaders {
            let index = i32::try_from(self.roll(PARTITIONS as u64)).expect("few");
            self.step_tier(node, index);
        }
    }

    fn view(&self, node: u64, index: i32) -> Option<View> {
        let process = self.nodes.get(&node)?.process.as_ref()?;
        let state = process.state.0.borrow();
        let found = state.partitions.get(&partition(index))?;
        Some(View {
            index,
            term: process.core.replica().term(),
            log_start: found.log_start,
            next_offset: found.next_offset,
            tier: found.tier.as_deref().cloned(),
        })
    }

    fn step_tier(&mut self, node: u64, index: i32) {
        let Some(view) = self.view(node, index) else { return };
        let Some(tier) = view.tier.clone() else {
            return self.change_tier(node, index, TierChange::Enable);
        };
        match self.roll(14) {
            0..=5 => self.upload(node, &view, &tier),
            6 | 7 => {
                let above = u64::try_from(tier.end - tier.local_start).expect("not below");
                let offset = tier.local_start + self.roll(above + 1).cast_signed();
                self.change_tier(node, index, TierChange::SetLocalStart(offset));
            }
            8 => self.retain(node, &view),
            9 => {
                let through = view.log_start;
                self.change_tier(node, index, TierChange::DropObjects { through });
            }
            10 | 11 => self.delete_dropped(node, index, &tier),
            12 => self.fold(node, &view, &tier),
            _ => {
                let is_off = self.roll(8) == 0;
                let change = if is_off { TierChange::Disable } else { TierChange::Enable };
                self.change_tier(node, index, change);
            }
        }
    }

    fn change_tier(&mut self, node: u64, index: i32, change: TierChange) {
        let change = ChangeTier { change, partition: partition(index) };
        self.propose(node, ShardCommand::ChangeTier(change));
    }

    fn process(&mut self, node: u64) -> Option<&mut Process> {
        self.nodes.get_mut(&node).and_then(|node| node.process.as_mut())
    }

    /// Continues the upload that is under way in a partition, or begins one.
    fn upload(&mut self, node: u64, view: &View, tier: &Tier) {
        let at_us = self.at_us;
        let index = view.index;
        let Some(process) = self.process(node) else { return };
        let upload = match process.uploads.get(&index).cloned() {
            Some(waits) if at_us < waits.retry_at => return,
            Some(known) if known.of.base == tier.end && known.of.term == view.term => {
                // The answer was lost, or the put.
                if self.tier().bucket.has(index, &known.of) {
                    return self.add_object(node, index, known.of);
                }
                known
            }
            Some(_) | None => {
                let count = 1 + self.roll(12).cast_signed();
                let Some(next) = self.next_upload(node, view, tier, count) else { return };
                next
            }
        };
        self.put(node, index, upload);
    }

    /// An object of at most so many records that follow the end of the tier.
    fn next_upload(
        &mut self,
        node: u64,
        view: &View,
        tier: &Tier,
        count_max: i64,
    ) -> Option<Upload> {
        let base = tier.end;
        let end = view.next_offset.min(base.saturating_add(count_max));
        let records = &self.process(node)?.records;
        let values = (base..end).map(|offset| records.get(&(view.index, offset)).copied());
        let Some(values) = values.collect::<Option<Vec<Value>>>() else {
            let text = format!("T1: leader {node} lacks records of {base}..{end} to upload");
            self.oracle.violate(text);
            return None;
        };
        let digest = values
            .iter()
            .fold(mix(view.term ^ mix(base.cast_unsigned())), |sum, value| mix(sum ^ *value));
        let of = ObjectRef {
            base,
            end,
            history: HistoryId(0),
            term: view.term,
            size_bytes: values.len() as u64,
            digest,
            max_timestamp_ms: 0,
            first_epoch: 0,
        };
        (end > base).then_some(Upload { of, values, retry_at: 0 })
    }

    /// Sends an object to the bucket: the put may fail, take effect late, and its answer be lost.
    fn put(&mut self, node: u64, index: i32, mut upload: Upload) {
        let late = if self.roll(5) == 0 { 5_000_000 } else { 100_000 };
        let applied_in = 500 + self.roll(late);
        let answered_in = applied_in + self.roll(20_000);
        let (is_applied, is_answered) = (self.roll(8) > 0, self.roll(8) > 0);
        let is_applied = is_applied && !self.tier().bucket.is_down;
        upload.retry_at = self.at_us + 200_000 + self.roll(800_000);
        self.tier().counts.puts += 1;
        let of = upload.of;
        self.note(format!("replica {node} puts {}..{} of {index}", of.base, of.end));
        if is_applied {
            let put = Happening::PutApplied { index, upload: Box::new(upload.clone()) };
            self.after(applied_in, put);
        }
        if is_applied && is_answered {
            let incarnation = self.nodes[&node].incarnation;
            let answer = Happening::PutAnswered { node, incarnation, index, of: Box::new(of) };
            self.after(answered_in, answer);
        }
        if let Some(process) = self.process(node) {
            process.uploads.insert(index, upload);
        }
        if self.mutation == Some(Mutation::PutNotVerified) {
            self.add_object(node, index, of);
        }
    }

    pub(crate) fn put_answered(&mut self, node: u64, incarnation: u64, index: i32, of: ObjectRef) {
        let waits = |node: &mut Node| {
            let process = node.process.as_ref();
            process.and_then(|p| p.uploads.get(&index)).is_some_and(|upload| upload.of == of)
        };
        if self.current(node, incarnation, waits) != Some(true) {
            return;
        }
        if self.mutation == Some(Mutation::TrimBeforeManifest)
            && let Some(process) = self.process(node)
        {
            trim(&mut process.records, index, of.end);
        }
        self.add_object(node, index, of);
    }

    /// Proposes an object that the bucket has.
    fn add_object(&mut self, node: u64, index: i32, of: ObjectRef) {
        if let Some(process) = self.process(node) {
            process.uploads.remove(&index);
        }
        self.change_tier(node, index, TierChange::AddObject(of));
    }

    /// Retention: a part of the records is no longer kept.
    fn retain(&mut self, node: u64, view: &View) {
        let above = u64::try_from(view.next_offset - view.log_start).expect("not below");
        let part = if self.roll(6) == 0 { above } else { above / 3 };
        let to = view.log_start + self.roll(part + 1).cast_signed();
        if self.mutation == Some(Mutation::DeleteBeforeCommand)
            && let Some(tier) = &view.tier
        {
            let bucket = &mut self.tier().bucket;
            for of in bucket.referenced(tier).iter().filter(|of| of.end <= to) {
                bucket.delete(view.index, of);
            }
        }
        self.propose(node, ShardCommand::AdvanceLogStart(vec![(partition(view.index), to)]));
    }

    /// Deletes what was dropped, or a part of it: then it is deleted again later.
    fn delete_dropped(&mut self, node: u64, index: i32, tier: &Tier) {
        let through = tier.dropped;
        let fails_at = self.roll(12);
        let is_down = self.tier().bucket.is_down;
        let bucket = &mut self.tier().bucket;
        let dropped: Vec<ObjectRef> =
            bucket.referenced(tier).into_iter().filter(|of| of.end <= through).collect();
        for (count, of) in dropped.iter().enumerate() {
            if is_down || count as u64 == fails_at {
                return;
            }
            bucket.delete(index, of);
        }
        for page in tier.pages.iter().filter(|page| page.end <= through) {
            bucket.delete_page(page, false);
        }
        for page in &tier.replaced {
            bucket.delete_page(page, true);
        }
        self.tier().counts.deleted += dropped.len();
        let pages = tier.replaced.iter().map(|page| page.digest).collect();
        self.change_tier(node, index, TierChange::ObjectsDeleted { through, pages });
    }

    /// Writes a page of the oldest objects, or of the oldest pages, and proposes it.
    fn fold(&mut self, node: u64, view: &View, tier: &Tier) {
        let digest = self.tier().dice.draw();
        let is_of_pages = self.roll(3) == 0;
        let (again, count) = (self.roll(2) == 0, 1 + self.roll(5));
        let newest = tier.pages.iter().rfind(|page| page.level == u8::from(is_of_pages));
        let newest = newest.filter(|_| again);
        let pages = tier.pages.iter().filter(|page| page.level == 0);
        let pages: Vec<&PageRef> = pages.take(count as usize).collect();
        let bucket = &self.tier().bucket;
        let mut listed = newest.map_or_else(Vec::new, |page| bucket.listed(page));
        let before = newest.map_or(0, |page| page.count);
        let added: Vec<ObjectRef> = if is_of_pages {
            pages.iter().flat_map(|page| bucket.listed(page)).collect()
        } else {
            tier.objects.iter().take(count as usize).copied().collect()
        };
        let added_count = if is_of_pages { pages.len() } else { added.len() };
        listed.extend(added);
        let (Some(first), Some(last)) = (listed.first(), listed.last()) else { return };
        let page = PageRef {
            level: u8::from(is_of_pages),
            base: first.base,
            end: last.end,
            count: before + u32::try_from(added_count).expect("few"),
            objects_bytes: listed.iter().map(|of| of.size_bytes).sum(),
            max_timestamp_ms: 0,
            history: HistoryId(0),
            term: view.term,
            size_bytes: 0,
            digest,
        };
        self.tier().bucket.put_page(digest, listed);
        self.tier().counts.pages += 1;
        self.change_tier(node, view.index, TierChange::FoldObjects(page));
    }

    /// What an applied effect does to the records of a replica. Returns now and then the partition
    /// whose tier changed, to be checked after all effects.
    pub(crate) fn tier_effect(&mut self, node: u64, effect: &Effect) -> Option<i32> {
        self.tier.as_ref()?;
        let process = self.process(node)?;
        let index = |id: &PartitionId| id.index;
        let changed = match effect {
            Effect::Appended { partition, batch, .. } => {
                let value = value_of(&batch.body());
                process.records.insert((index(partition), batch.base_offset), value);
                return None;
            }
            Effect::LogStart { partition, offset } => {
                trim(&mut process.records, index(partition), *offset);
                let newest = self.tier().starts.entry(index(partition)).or_default();
                *newest = (*newest).max(*offset);
                index(partition)
            }
            Effect::LocalStart { partition, offset } => {
                trim(&mut process.records, index(partition), *offset);
                self.tier().counts.trimmed += 1;
                index(partition)
            }
            Effect::Restored { partition, log_start, .. } => {
                let newest = self.tier().starts.entry(index(partition)).or_default();
                *newest = (*newest).max(*log_start);
                index(partition)
            }
            Effect::TierChanged(partition) => index(partition),
            Effect::Closed(partition) => {
                trim(&mut process.records, index(partition), i64::MAX);
                return None;
            }
            Effect::Opened(_)
            | Effect::Committed { .. }
            | Effect::GroupChanged(_)
            | Effect::CatalogChanged(_) => return None,
        };
        let tier = self.tier();
        tier.counts.applied += 1;
        tier.changes += 1;
        tier.changes.is_multiple_of(CHECKED_ONE_IN).then_some(changed)
    }

    /// T1, O4: every record of a partition is on the disk of the replica, or in an object that its
    /// manifest names and the bucket has.
    pub(crate) fn check_tier(&mut self, node: u64, index: i32) {
        let mut found = 0;
        if let Some(fault) = self.tier_fault(node, index, &mut found) {
            self.oracle.violate(format!("T1: partition {index} of replica {node}: {fault}"));
        }
        self.tier().counts.found += found;
    }

    fn tier_fault(&self, node: u64, index: i32, found: &mut usize) -> Option<String> {
        let world = self.tier.as_deref()?;
        let process = self.nodes.get(&node)?.process.as_ref()?;
        let state = process.state.0.borrow();
        let partition = state.partitions.get(&partition(index))?;
        let (start, local) = (partition.log_start, partition.local_start());
        let (end, next) = (partition.tier_end(), partition.next_offset);
        if !(start <= local && local <= end && end <= next) {
            return Some(format!("its offsets are {start}, {local}, {end}, {next}"));
        }
        // What is below the log start of another replica may be deleted by now.
        let newest = world.starts.get(&index).copied().unwrap_or(0);
        for offset in start..next {
            let at = (index, offset);
            let Some(value) = self.oracle.value_at(at) else { continue };
            if offset >= local && process.records.get(&at) != Some(&value) {
                return Some(format!(
                    "record {value} at {offset} is not local, only below {local}"
                ));
            }
            let Some(tier) = partition.tier.as_deref() else { continue };
            if offset < end && offset >= newest {
                *found += 1;
                let in_bucket = world.bucket.find(tier, at);
                if !matches!(in_bucket, Found::PageReplaced) && in_bucket != Found::Record(value) {
                    return Some(format!("record {value} at {offset} is {in_bucket:?} there"));
                }
            }
        }
        None
    }
}

/// Removes the records of a partition below an offset.
fn trim(records: &mut Records, index: i32, offset: i64) {
    records.retain(|(of, at), _| *of != index || *at >= offset);
}
