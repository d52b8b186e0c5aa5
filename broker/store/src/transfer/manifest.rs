//! What a set consists of, and what a receiver has of it.
//!
//! # Formats
//!
//! ```text
//! magic | version u32 | length u64 | postcard of the content | CRC-32C u32 over all before
//! ```
//! Numbers outside of the postcard are little-endian. The magic of a [`List`], which is sent, is
//! `"RWXLIST\0"`; that of a [`Manifest`], which a receiver keeps in `transfers/<shard>/manifest`,
//! is `"RWXFER\0\0"`. The version of both is 1.
//!
//! # Invariants
//!
//! - **D3** a list or manifest whose checksum does not match is not used.
//! - A manifest is a hint: what it says was received is verified against the list before it is
//!   installed.
//! - The files of two sets are compared by their content only, so what was received of an older
//!   set, or from another replica, is kept as far as it is the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};

#[cfg(doc)]
use ropewalk_segment::copy;
use ropewalk_shard::engine::EntryId;
use ropewalk_shard::{PartitionId, ShardId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::message::SetId;

const LIST_MAGIC: [u8; 8] = *b"RWXLIST\0";
const MANIFEST_MAGIC: [u8; 8] = *b"RWXFER\0\0";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 20;
const CRC_BYTES: usize = 4;

/// Why bytes are no list or manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes are damaged or cut off.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// Another version of the format.
    #[error("it has format version {0}; this broker supports version {VERSION}")]
    Version(u32),
}

/// The files of a set, in the order in which they are sent. The first one is the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Id of the set.
    pub set: SetId,
    /// The shard whose files these are.
    pub shard: ShardId,
    /// Index of the last entry that the set includes.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// The files, the snapshot first.
    pub files: Vec<SetFile>,
}

/// One file of a set, or the two files of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetFile {
    /// The snapshot of the shard.
    Snapshot {
        /// Length of the file.
        bytes: u64,
        /// The [sum](copy::sum) of the file.
        sum: u32,
    },
    /// A spill file that the snapshot names.
    Spill {
        /// Number of the file at the sender.
        number: u64,
        /// Length of the file.
        bytes: u64,
        /// The [sum](copy::sum) of the file.
        sum: u32,
    },
    /// A segment of a partition.
    Segment(SegmentOf),
}

/// The files of a segment as far as the set includes them. The index has a checksum, and in it are
/// those of every block of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentOf {
    /// The partition of the segment.
    pub partition: PartitionId,
    /// First offset, which is also in the names of the files.
    pub base_offset: i64,
    /// Offset at which the next segment begins.
    pub next_offset: i64,
    /// Length of the log.
    pub log_bytes: u64,
    /// Length of the index.
    pub index_bytes: u64,
    /// The [sum](copy::sum) of the index.
    pub index_sum: u32,
}

/// Identifies a file in the lists of two sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum FileKey {
    Snapshot,
    Spill(u64),
    Segment(PartitionId, i64),
}

impl SetFile {
    fn key(&self) -> FileKey {
        match self {
            Self::Snapshot { .. } => FileKey::Snapshot,
            Self::Spill { number, .. } => FileKey::Spill(*number),
            Self::Segment(of) => FileKey::Segment(of.partition, of.base_offset),
        }
    }

    /// Length of the file; of a segment, that of its log.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        match self {
            Self::Snapshot { bytes, .. } | Self::Spill { bytes, .. } => *bytes,
            Self::Segment(of) => of.log_bytes,
        }
    }

    /// Length of the file, or of both files of a segment.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Snapshot { .. } | Self::Spill { .. } => self.content_bytes(),
            Self::Segment(of) => of.log_bytes.saturating_add(of.index_bytes),
        }
    }
}

impl List {
    /// The last entry that the set includes.
    #[must_use]
    pub fn last(&self) -> EntryId {
        EntryId { index: self.index, term: self.term }
    }

    /// Length of all files.
    #[must_use]
    pub fn files_bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes()))
    }

    /// The list as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        seal(LIST_MAGIC, self)
    }

    /// The reverse of [`Self::encode`].
    ///
    /// # Errors
    /// See [`FormatError`]; also when the files contradict one another.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let list: Self = open(LIST_MAGIC, bytes)?;
        let is_snapshot = |file: &SetFile| matches!(file, SetFile::Snapshot { .. });
        let names: BTreeSet<FileKey> = list.files.iter().map(SetFile::key).collect();
        if !list.files.first().is_some_and(is_snapshot) || names.len() < list.files.len() {
            return Err(FormatError::Damaged("its files are not those of one snapshot"));
        }
        let is_possible = |file: &SetFile| match file {
            SetFile::Snapshot { bytes, .. } | SetFile::Spill { bytes, .. } => *bytes > 0,
            SetFile::Segment(of) => {
                of.index_bytes > 0
                    && of.base_offset >= 0
                    && of.next_offset >= of.base_offset
                    && of.log_bytes <= u64::from(u32::MAX)
            }
        };
        if !list.files.iter().all(is_possible) || u32::try_from(list.files.len()).is_err() {
            return Err(FormatError::Damaged("it names impossible files"));
        }
        Ok(list)
    }
}

/// What a receiver has of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Raft id of the replica that receives.
    pub replica: u64,
    /// The set that is being received.
    pub list: List,
    /// The incarnations that the received partitions get, also those of partitions that only an
    /// earlier set had: no snapshot of this broker names them yet.
    pub incarnations: BTreeMap<PartitionId, u64>,
    /// How much is there of each file of the list.
    pub received: Vec<Received>,
}

/// How much of a file was received and made durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// Whether the index of a segment is that of the list. Without it, `bytes` refers to the index
    /// of an older set.
    pub has_index: bool,
    /// Leading bytes of the file, or of the log of a segment.
    pub bytes: u64,
}

impl Manifest {
    /// The beginning of the reception of a set. Keeps what was received of an older one.
    /// `incarnation` assigns one to each partition that has none.
    #[must_use]
    pub fn new(
        replica: u64,
        list: List,
        older: Option<&Self>,
        mut incarnation: impl FnMut() -> u64,
    ) -> Self {
        let mut incarnations = older.map_or_else(BTreeMap::new, |old| old.incarnations.clone());
        for file in &list.files {
            if let SetFile::Segment(of) = file {
                incarnations.entry(of.partition).or_insert_with(&mut incarnation);
            }
        }
        let older_last = older.map(|old| old.list.last());
        let known: HashMap<FileKey, (&SetFile, Received)> = older
            .into_iter()
            .flat_map(|old| old.list.files.iter().zip(&old.received))
            .map(|(file, received)| (file.key(), (file, *received)))
            .collect();
        let received = list.files.iter().map(|file| match (known.get(&file.key()), file) {
            // A snapshot of another entry is another one, whatever its sum is.
            (Some(_), SetFile::Snapshot { .. }) if older_last != Some(list.last()) => {
                Received::default()
            }
            (Some((old, received)), _) if *old == file => *received,
            (Some((_, old)), SetFile::Segment(_)) => Received { has_index: false, ..*old },
            (Some(_) | None, _) => Received::default(),
        });
        Self { replica, received: received.collect(), incarnations, list }
    }

    /// Whether a file was received completely.
    #[must_use]
    pub fn has(&self, number: usize) -> bool {
        let (file, received) = (&self.list.files[number], &self.received[number]);
        match file {
            SetFile::Snapshot { bytes, .. } | SetFile::Spill { bytes, .. } => {
                received.bytes == *bytes
            }
            SetFile::Segment(of) => received.has_index && received.bytes == of.log_bytes,
        }
    }

    /// The number of the first file that is not there completely.
    #[must_use]
    pub fn missing(&self) -> Option<usize> {
        (0..self.list.files.len()).find(|number| !self.has(*number))
    }

    /// Bytes that are still to be received, at most.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        let files = self.list.files.iter().zip(&self.received);
        let missing = files.map(|(file, received)| match file {
            SetFile::Segment(of) if received.has_index => of.log_bytes - received.bytes,
            // The log may be another one.
            SetFile::Segment(_) => file.bytes(),
            SetFile::Snapshot { bytes, .. } | SetFile::Spill { bytes, .. } => {
                bytes - received.bytes
            }
        });
        missing.fold(0, u64::saturating_add)
    }

    /// The manifest as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        seal(MANIFEST_MAGIC, self)
    }

    /// The reverse of [`Self::encode`].
    ///
    /// # Errors
    /// See [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let manifest: Self = open(MANIFEST_MAGIC, bytes)?;
        let files = manifest.list.files.iter().zip(&manifest.received);
        let fits = manifest.list.files.len() == manifest.received.len()
            && files.clone().all(|(file, received)| match file {
                // An older index may describe a longer log.
                SetFile::Segment(_) if !received.has_index => true,
                SetFile::Segment(_) | SetFile::Snapshot { .. } | SetFile::Spill { .. } => {
                    received.bytes <= file.content_bytes()
                }
            });
        if fits { Ok(manifest) } else { Err(FormatError::Damaged("its parts do not fit together")) }
    }
}

fn seal(magic: [u8; 8], content: &impl Serialize) -> Vec<u8> {
    let mut out = magic.to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend(0_u64.to_le_bytes());
    let mut out = postcard::to_extend(content, out).expect("it always encodes");
    let length = (out.len() - HEAD_BYTES) as u64;
    out[12..HEAD_BYTES].copy_from_slice(&length.to_le_bytes());
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    out
}

/// Magic, version and checksum have the same place in every version, so that a flipped bit is
/// reported as damage, and only another version as an unknown version.
fn open<T: DeserializeOwned>(magic: [u8; 8], bytes: &[u8]) -> Result<T, FormatError> {
    if bytes.len() < HEAD_BYTES + CRC_BYTES || bytes[..8] != magic {
        return Err(FormatError::Damaged("it has the wrong magic number"));
    }
    let (checked, crc) = bytes.split_at(bytes.len() - CRC_BYTES);
    if crc32c::crc32c(checked).to_le_bytes() != crc {
        return Err(FormatError::Damaged("its checksum does not match"));
    }
    let version = u32::from_le_bytes(checked[8..12].try_into().expect("4 bytes"));
    if version != VERSION {
        return Err(FormatError::Version(version));
    }
    let length = u64::from_le_bytes(checked[12..HEAD_BYTES].try_into().expect("8 bytes"));
    let body = &checked[HEAD_BYTES..];
    if body.len() as u64 != length {
        return Err(FormatError::Damaged("its length is not the one in its header"));
    }
    match postcard::take_from_bytes(body) {
        Ok((content, [])) => Ok(content),
        Ok(_) | Err(_) => Err(FormatError::Damaged("it cannot be decoded")),
    }
}

#[cfg(test)]
mod tests;
