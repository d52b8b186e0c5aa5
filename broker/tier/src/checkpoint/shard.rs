//! What a checkpoint has of a shard: the offsets of groups, and its partitions.

use uuid::Uuid;

use super::{WHAT, put_count, put_optional, put_text};
use crate::format::{Fields, FormatError};
use crate::names::{ObjectRef, PageRef};
use crate::object::EpochStart;
use crate::page::{put_level, put_object, put_page, take_level, take_object, take_page};

/// Fewest bytes of a group.
const GROUP_BYTES_MIN: usize = 4 + 4;
/// Fewest bytes of an offset.
const OFFSET_BYTES_MIN: usize = 16 + 4 + 8 + 4 + 8 + 1 + 4;
/// Fewest bytes of a partition.
const PARTITION_BYTES_MIN: usize = 16 + 4 + 8 + 8 + 4 + 8 + 4 + 1;
const EPOCH_BYTES: usize = 4 + 8;
const OBJECT_BYTES: usize = 8 + 52;
const PAGE_BYTES: usize = 8 + 1 + 56;

/// The offsets of the groups of a shard, and its partitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardCheckpoint {
    /// The groups that hash to the shard, ascending by id.
    pub groups: Vec<GroupOffsets>,
    /// The partitions of the shard, ascending by topic id and index.
    pub partitions: Vec<PartitionCheckpoint>,
}

/// The offsets that a group has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupOffsets {
    /// The group's id.
    pub group: String,
    /// One offset for each partition, ascending by topic id and index.
    pub offsets: Vec<GroupOffset>,
}

/// An offset that a group has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupOffset {
    /// Id of the topic.
    pub topic: Uuid,
    /// Number of the partition in the topic, from 0.
    pub index: i32,
    /// The next offset to read.
    pub offset: i64,
    /// Leader epoch of the last record read, -1 if unknown.
    pub leader_epoch: i32,
    /// Time of the commit, Unix milliseconds.
    pub committed_ms: i64,
    /// Expiry time that old clients set themselves, Unix milliseconds.
    pub expires_ms: Option<i64>,
    /// Opaque metadata of the client.
    pub metadata: String,
}

/// A partition at the time of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionCheckpoint {
    /// Id of the topic.
    pub topic: Uuid,
    /// Number of the partition in the topic, from 0.
    pub index: i32,
    /// The first offset that exists.
    pub log_start: i64,
    /// The offset that the next record got.
    pub next_offset: i64,
    /// The leader epoch of the leader that wrote the checkpoint.
    pub leader_epoch: i32,
    /// Largest timestamp of the records on the leader's disk, Unix milliseconds; -1 without one.
    pub max_timestamp_ms: i64,
    /// The leader epochs of the log, ascending.
    pub epochs: Vec<EpochStart>,
    /// What of it is in the bucket; `None` for a partition whose records stay on the disks.
    pub tier: Option<TierCheckpoint>,
}

/// What of a partition is in the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierCheckpoint {
    /// Whether the partition took further objects.
    pub is_enabled: bool,
    /// The offset up to which the records are in objects.
    pub end: i64,
    /// Objects that end here or before are not read any more, and may be deleted.
    pub dropped: i64,
    /// The pages, which list the oldest objects; ascending.
    pub pages: Vec<PageRef>,
    /// The newest objects, which no page lists; ascending. Below the log start there may be a gap.
    pub objects: Vec<ObjectRef>,
    /// Pages that another one replaced and that may be deleted.
    pub replaced: Vec<PageRef>,
}

impl ShardCheckpoint {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let Self { groups, partitions } = self;
        put_count(out, groups.len());
        for GroupOffsets { group, offsets } in groups {
            put_text(out, group);
            put_count(out, offsets.len());
            offsets.iter().for_each(|offset| offset.encode(out));
        }
        put_count(out, partitions.len());
        partitions.iter().for_each(|partition| partition.encode(out));
    }

    pub(super) fn decode(fields: &mut Fields<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            groups: fields.list(GROUP_BYTES_MIN, |fields| {
                let group = fields.text()?;
                let offsets = fields.list(OFFSET_BYTES_MIN, GroupOffset::decode)?;
                Ok(GroupOffsets { group, offsets })
            })?,
            partitions: fields.list(PARTITION_BYTES_MIN, PartitionCheckpoint::decode)?,
        })
    }
}

impl GroupOffset {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { topic, index, offset, leader_epoch, committed_ms, expires_ms, metadata } = self;
        out.extend(topic.as_bytes());
        out.extend(index.to_le_bytes());
        out.extend(offset.to_le_bytes());
        out.extend(leader_epoch.to_le_bytes());
        out.extend(committed_ms.to_le_bytes());
        put_optional(out, *expires_ms, |out, ms| out.extend(ms.to_le_bytes()));
        put_text(out, metadata);
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            topic: fields.uuid()?,
            index: fields.i32()?,
            offset: fields.i64()?,
            leader_epoch: fields.i32()?,
            committed_ms: fields.i64()?,
            expires_ms: fields.optional(Fields::i64)?,
            metadata: fields.text()?,
        })
    }
}

impl PartitionCheckpoint {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self {
            topic,
            index,
            log_start,
            next_offset,
            leader_epoch,
            max_timestamp_ms,
            epochs,
            tier,
        } = self;
        out.extend(topic.as_bytes());
        out.extend(index.to_le_bytes());
        out.extend(log_start.to_le_bytes());
        out.extend(next_offset.to_le_bytes());
        out.extend(leader_epoch.to_le_bytes());
        out.extend(max_timestamp_ms.to_le_bytes());
        put_count(out, epochs.len());
        for EpochStart { epoch, start_offset } in epochs {
            out.extend(epoch.to_le_bytes());
            out.extend(start_offset.to_le_bytes());
        }
        put_optional(out, tier.as_ref(), |out, tier| tier.encode(out));
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, FormatError> {
        let partition = Self {
            topic: fields.uuid()?,
            index: fields.i32()?,
            log_start: fields.i64()?,
            next_offset: fields.i64()?,
            leader_epoch: fields.i32()?,
            max_timestamp_ms: fields.i64()?,
            epochs: fields.list(EPOCH_BYTES, |fields| {
                Ok(EpochStart { epoch: fields.i32()?, start_offset: fields.i64()? })
            })?,
            tier: fields.optional(TierCheckpoint::decode)?,
        };
        let Self { topic, index, log_start, next_offset, .. } = &partition;
        if *index < 0 || *log_start < 0 || log_start > next_offset {
            let why = format!("partition {topic}/{index} has offsets {log_start} to {next_offset}");
            return Err(FormatError::invalid(WHAT, why));
        }
        Ok(partition)
    }
}

impl TierCheckpoint {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { is_enabled, end, dropped, pages, objects, replaced } = self;
        out.push(u8::from(*is_enabled));
        out.extend(end.to_le_bytes());
        out.extend(dropped.to_le_bytes());
        put_count(out, pages.len());
        put_count(out, objects.len());
        put_count(out, replaced.len());
        pages.iter().for_each(|page| put_page_of_level(out, page));
        for object in objects {
            out.extend(object.base.to_le_bytes());
            put_object(out, object);
        }
        replaced.iter().for_each(|page| put_page_of_level(out, page));
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, FormatError> {
        let (is_enabled, end, dropped) = (fields.flag()?, fields.i64()?, fields.i64()?);
        let counts = [
            fields.count(super::COUNT, PAGE_BYTES, u32::MAX)?,
            fields.count(super::COUNT, OBJECT_BYTES, u32::MAX)?,
            fields.count(super::COUNT, PAGE_BYTES, u32::MAX)?,
        ];
        let pages: Vec<_> = (0..counts[0]).map(|_| page(fields)).collect::<Result<_, _>>()?;
        let objects = (0..counts[1]).map(|_| {
            let mut base = fields.i64()?;
            take_object(fields, &mut base)
        });
        let objects: Vec<_> = objects.collect::<Result<_, _>>()?;
        let replaced = (0..counts[2]).map(|_| page(fields)).collect::<Result<_, _>>()?;
        let tier = Self { is_enabled, end, dropped, pages, objects, replaced };
        tier.check()?;
        Ok(tier)
    }

    /// Refuses references that overlap, are not in order, or are behind the end.
    fn check(&self) -> Result<(), FormatError> {
        let pages = self.pages.iter().map(|page| (page.base, page.end));
        let objects = self.objects.iter().map(|object| (object.base, object.end));
        let mut last = 0;
        for (base, end) in pages.chain(objects) {
            if base < last || end <= base || end > self.end {
                let why = format!(
                    "a reference has offsets {base} to {end}, the one before it ends at {last}, \
                     the tier at {}",
                    self.end
                );
                return Err(FormatError::invalid(WHAT, why));
            }
            last = end;
        }
        Ok(())
    }
}

fn put_page_of_level(out: &mut Vec<u8>, page: &PageRef) {
    out.extend(page.base.to_le_bytes());
    put_level(out, page.level);
    put_page(out, page);
}

fn page(fields: &mut Fields<'_>) -> Result<PageRef, FormatError> {
    let mut base = fields.i64()?;
    let level = take_level(fields)?;
    Ok(PageRef { level, ..take_page(fields, &mut base)? })
}
