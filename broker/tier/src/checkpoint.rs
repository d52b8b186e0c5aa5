//! The format of a checkpoint: what a restore of a lost cluster needs beside the objects with
//! records.
//!
//! ```text
//! "RWOBJCHK", version u32, kind u8 (0: catalog, 1: shard), shard u32 (0 for the catalog),
//! epoch of the claim u32, history of the shard u64, term u64, index u64,
//! when it was written i64, length of the cluster id u8, cluster id,
//! the contents,
//! CRC-32C of all this u32
//!
//! contents of the catalog:
//!     number of shards beside the catalog u32, next producer id i64,
//!     number of topics u32, for each:
//!         topic id (16 bytes), name, when it was created i64, owner (optional), configuration,
//!         number of partitions u32, for each: shard u32, epoch base i32
//!     number of other resources with a configuration u32, for each:
//!         0 u8 (all brokers) | 1 u8, broker id i32 | 2 u8, group, configuration
//!     number of deleted topics u32, for each: topic id (16 bytes)
//!
//! contents of a shard:
//!     number of groups u32, for each: group, number of offsets u32, for each:
//!         topic id (16 bytes), partition i32, offset i64, leader epoch i32,
//!         time of the commit i64, time of its expiry i64 (optional), metadata
//!     number of partitions u32, for each:
//!         topic id (16 bytes), partition i32, log start i64, next offset i64, leader epoch i32,
//!         largest timestamp i64, number of epochs u32, for each: epoch i32, first offset i64,
//!         tier (optional): takes objects u8, end i64, dropped i64,
//!             number of pages u32, number of objects u32, number of replaced pages u32, of each:
//!                 base offset i64, level u8 (of a page), and the fields as in a manifest page
//!
//! a text is u32 length and UTF-8; an optional value is 0 u8, or 1 u8 and the value;
//! a configuration is u32 number of keys, and for each the texts of key and value
//! ```
//!
//! Numbers are little-endian, times are milliseconds since 1970, -1 for no timestamp.
//!
//! # Contents
//!
//! - The catalog's and the shards' checkpoints are written at different times. A topic may be in
//!   one of them only.
//! - A shard's checkpoint has the offsets of the groups that hash to the shard, whatever shard has
//!   the partition, and every partition of the shard, also those without a tier: the next offset
//!   says what a restore cannot bring back.
//! - The next producer id is the one at the time of the checkpoint. Ids that were given out later
//!   can be in objects.
//! - A deleted topic is listed while the catalog has the proof of its deletion.
//!
//! # Invariants
//!
//! - Every byte is covered by the checksum, and the SHA-256 of the checkpoint is in its name.
//! - **R1** a checkpoint has at most [`limits::CHECKPOINT_BYTES_MAX`] bytes. A larger one is an
//!   error, never a shortened one.

use bytes::Bytes;

use crate::content::{Content, sha256, short};
use crate::format::{Fields, FormatError, Frame};
use crate::identity::{put_cluster_id, take_cluster_id};
use crate::limits;
use crate::names::{CheckpointName, CheckpointOf, ClusterId};

mod catalog;
mod shard;
mod stored;

pub use catalog::{CatalogCheckpoint, Configs, ConfigsOf, PartitionHome, TopicCheckpoint};
pub use shard::{GroupOffset, GroupOffsets, PartitionCheckpoint, ShardCheckpoint, TierCheckpoint};
pub use stored::{ListedCheckpoint, list_checkpoints, read_checkpoint};

const MAGIC: &[u8; 8] = b"RWOBJCHK";
const VERSION: u32 = 1;
const WHAT: &str = "checkpoint";
const FRAME: Frame = Frame { what: WHAT, magic: MAGIC, version: VERSION };
/// The number of something, in the error of one that does not fit.
const COUNT: &str = "number of elements of the checkpoint";

/// A checkpoint of the catalog or of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Who wrote it, and which entries it includes.
    pub origin: CheckpointOrigin,
    /// When it was written by the leader's clock, Unix milliseconds.
    pub written_ms: i64,
    /// What a restore needs.
    pub contents: Contents,
}

/// Who wrote a checkpoint, and which entries it includes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointOrigin {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Epoch of the claim that the cluster had.
    pub epoch: u32,
    /// The history of the shard.
    pub history: u64,
    /// Term of the leader that wrote it.
    pub term: u64,
    /// Index of the last entry that it includes.
    pub index: u64,
}

/// What a checkpoint contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// Of the catalog.
    Catalog(CatalogCheckpoint),
    /// Of the shard with this number.
    Shard(u32, ShardCheckpoint),
}

/// A checkpoint as it is put into a bucket.
#[derive(Debug, Clone)]
pub struct EncodedCheckpoint {
    /// The name, below the bucket's prefix.
    pub name: CheckpointName,
    /// The bytes of the checkpoint.
    pub content: Content,
    /// The first eight bytes of the SHA-256 of its contents alone: the same for a later checkpoint
    /// when nothing changed.
    pub contents_digest: u64,
}

impl Contents {
    /// What it is of.
    #[must_use]
    pub fn of(&self) -> CheckpointOf {
        match self {
            Self::Catalog(_) => CheckpointOf::Catalog,
            Self::Shard(shard, _) => CheckpointOf::Shard(*shard),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Catalog(catalog) => catalog.encode(out),
            Self::Shard(_, shard) => shard.encode(out),
        }
    }
}

impl Checkpoint {
    /// The bytes and the name of the checkpoint.
    ///
    /// # Errors
    /// [`FormatError::Bound`] when it has more than [`limits::CHECKPOINT_BYTES_MAX`] bytes.
    pub fn encode(&self) -> Result<EncodedCheckpoint, FormatError> {
        let CheckpointOrigin { cluster, epoch, history, term, index } = self.origin.clone();
        let of = self.contents.of();
        let (kind, shard) = match of {
            CheckpointOf::Catalog => (0, 0),
            CheckpointOf::Shard(shard) => (1, shard),
        };
        let mut out = Vec::new();
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.push(kind);
        out.extend(shard.to_le_bytes());
        out.extend(epoch.to_le_bytes());
        out.extend(history.to_le_bytes());
        out.extend(term.to_le_bytes());
        out.extend(index.to_le_bytes());
        out.extend(self.written_ms.to_le_bytes());
        put_cluster_id(&mut out, &cluster);
        let contents_at = out.len();
        self.contents.encode(&mut out);
        let contents_digest = short(&sha256([&out[contents_at..]]));
        out.extend(ropewalk_crc::of(&out).to_le_bytes());
        let (found, limit) = (out.len() as u64, limits::CHECKPOINT_BYTES_MAX);
        if found > limit {
            return Err(FormatError::Bound { what: "size of the checkpoint", found, limit });
        }
        let content = Content::new(vec![Bytes::from(out)]);
        let digest = content.short();
        let name = CheckpointName { cluster, of, epoch, term, index, digest };
        Ok(EncodedCheckpoint { name, content, contents_digest })
    }

    /// Reads the checkpoint that is called `name`.
    ///
    /// # Errors
    /// When the bytes are damaged, of another checkpoint, or of a newer version.
    pub fn decode(bytes: &[u8], name: &CheckpointName) -> Result<Self, FormatError> {
        let checkpoint = Self::read(bytes)?;
        let CheckpointOrigin { cluster, epoch, term, index, .. } = checkpoint.origin.clone();
        let of = checkpoint.contents.of();
        let own = CheckpointName { cluster, of, epoch, term, index, digest: name.digest };
        if own != *name {
            return Err(FormatError::invalid(WHAT, format!("{name} contains {own}")));
        }
        if short(&sha256([bytes])) != name.digest {
            return Err(FormatError::invalid(WHAT, "its SHA-256 is not the one of its name"));
        }
        Ok(checkpoint)
    }

    /// Reads a checkpoint without comparing it with a name.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut fields = FRAME.open(bytes)?;
        let of = match (fields.u8()?, fields.u32()?) {
            (0, 0) => CheckpointOf::Catalog,
            (1, shard) => CheckpointOf::Shard(shard),
            (kind, shard) => {
                let why = format!("its kind is {kind}, its shard {shard}");
                return Err(FormatError::invalid(WHAT, why));
            }
        };
        let (epoch, history) = (fields.u32()?, fields.u64()?);
        let (term, index, written_ms) = (fields.u64()?, fields.u64()?, fields.i64()?);
        let cluster = take_cluster_id(WHAT, &mut fields)?;
        let origin = CheckpointOrigin { cluster, epoch, history, term, index };
        let contents = match of {
            CheckpointOf::Catalog => Contents::Catalog(CatalogCheckpoint::decode(&mut fields)?),
            CheckpointOf::Shard(shard) => {
                Contents::Shard(shard, ShardCheckpoint::decode(&mut fields)?)
            }
        };
        fields.finish()?;
        Ok(Self { origin, written_ms, contents })
    }
}

/// Adds magic, version and checksum to the other bytes of a checkpoint.
#[cfg(feature = "testing")]
pub(crate) fn seal(bytes: &[u8]) -> Vec<u8> {
    FRAME.seal(bytes)
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    // More would not fit into a checkpoint: its size is checked afterwards.
    out.extend(u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_count(out, text.len());
    out.extend(text.as_bytes());
}

/// Writes an optional value.
fn put_optional<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

impl<'a> Fields<'a> {
    /// Elements that each have at least `bytes_each`.
    fn list<T>(
        &mut self,
        bytes_each: usize,
        mut take: impl FnMut(&mut Self) -> Result<T, FormatError>,
    ) -> Result<Vec<T>, FormatError> {
        let count = self.count(COUNT, bytes_each, u32::MAX)?;
        (0..count).map(|_| take(self)).collect()
    }

    fn optional<T>(
        &mut self,
        take: impl FnOnce(&mut Self) -> Result<T, FormatError>,
    ) -> Result<Option<T>, FormatError> {
        if self.flag()? { take(self).map(Some) } else { Ok(None) }
    }

    fn text(&mut self) -> Result<String, FormatError> {
        let length = self.count(COUNT, 1, u32::MAX)?;
        let text = str::from_utf8(self.take(length)?);
        text.map(str::to_owned).map_err(|error| FormatError::invalid(WHAT, error.to_string()))
    }
}

#[cfg(test)]
mod tests;
