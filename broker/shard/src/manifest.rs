//! What a shard knows of the objects in the bucket: their references, and those of the pages that
//! list many of them. The catalog also knows the claim with which the cluster owns the bucket.
//!
//! An object holds the records of one range of offsets of one partition. The newest objects of a
//! partition are referenced by the state of its shard itself, older ones by pages: immutable
//! objects in the bucket that list objects or other pages. The bytes of both are defined by
//! `broker/tier`.

use serde::{Deserialize, Serialize};

use crate::id::HistoryId;

/// A reference to an object with records. With the partition it gives the object's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// The first offset that is read from the object. Objects hold whole batches, so the first
    /// batch may begin before it.
    pub base: i64,
    /// The offset after the last record.
    pub end: i64,
    /// The history of the shard whose leader wrote the object.
    pub history: HistoryId,
    /// The term of that leader.
    pub term: u64,
    /// Size of the object.
    pub size_bytes: u64,
    /// The first eight bytes of the object's SHA-256, as a big-endian number.
    pub digest: u64,
    /// The largest timestamp of its records, Unix milliseconds.
    pub max_timestamp_ms: i64,
    /// The leader epoch of its first batch.
    pub first_epoch: i32,
}

/// A reference to a page, which lists consecutive objects or pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRef {
    /// 0 for a page that lists objects, 1 for one that lists pages of level 0.
    pub level: u8,
    /// The base of the first object.
    pub base: i64,
    /// The end of the last object.
    pub end: i64,
    /// How many objects or pages it lists.
    pub count: u32,
    /// Size of all objects together.
    pub objects_bytes: u64,
    /// The largest timestamp in any of the objects, Unix milliseconds.
    pub max_timestamp_ms: i64,
    /// The history of the shard whose leader wrote the page.
    pub history: HistoryId,
    /// The term of that leader.
    pub term: u64,
    /// Size of the page itself.
    pub size_bytes: u32,
    /// The first eight bytes of the page's SHA-256, as a big-endian number.
    pub digest: u64,
}

/// A claim of the bucket: the cluster that put the claim with the highest epoch owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketClaim {
    /// Counts the owners of the bucket, from 1. A restore of the cluster has the next one.
    pub epoch: u32,
    /// A random number, because a restored cluster has the id of the lost one.
    pub holder: u64,
    /// Whether the cluster is a restored one.
    pub restore: RestoreState,
}

/// Whether a cluster was restored from the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestoreState {
    /// It was not restored.
    No,
    /// It is being restored: nothing is uploaded to the bucket or deleted there.
    Unfinished,
    /// Everything that was to be restored is there.
    Finished,
}

/// A partition that continues from its objects in the bucket, because the brokers that had its
/// records are lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredPartition {
    /// The first offset that is read.
    pub log_start: i64,
    /// The end of the last object: the offset that the next record gets.
    pub end: i64,
    /// The pages that list the oldest objects, pages of level 1 before those of level 0.
    pub pages: Vec<PageRef>,
    /// The other objects, oldest first.
    pub objects: Vec<ObjectRef>,
    /// The leader epochs in the objects, ascending.
    pub epochs: Vec<RestoredEpoch>,
    /// The idempotent producers in the objects, by ascending id.
    pub producers: Vec<RestoredProducer>,
}

/// The first offset of a leader epoch of a restored partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredEpoch {
    /// The leader epoch.
    pub epoch: i32,
    /// The offset of its first record.
    pub start_offset: i64,
}

/// An idempotent producer of a restored partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredProducer {
    /// The producer id that its batches carry.
    pub id: i64,
    /// The producer epoch of its last batch.
    pub epoch: i16,
    /// Its last batches of that epoch, oldest first: at least one.
    pub batches: Vec<RestoredBatch>,
}

/// A stored batch of an idempotent producer of a restored partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredBatch {
    /// Sequence of its first record.
    pub first_sequence: i32,
    /// Sequence of its last record.
    pub last_sequence: i32,
    /// The offset of its first record.
    pub base_offset: i64,
    /// Its greatest timestamp, Unix milliseconds.
    pub timestamp_ms: i64,
}
