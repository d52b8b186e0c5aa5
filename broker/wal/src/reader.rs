//! Reads entries while the log is being written.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use ropewalk_disk::File;

use crate::files::Location;
use crate::located::Located;
use crate::record::ReplicaKey;
use crate::recovered::EntryMeta;

/// Reads entries from the log's files while the log is being written. Clones share one set of
/// files.
#[derive(Debug, Clone, Default)]
pub struct Reader {
    files: Arc<RwLock<BTreeMap<u64, Arc<dyn File>>>>,
    located: Located,
}

impl Reader {
    pub(crate) fn insert(&self, sequence: u64, file: Arc<dyn File>) {
        self.files.write().insert(sequence, file);
    }

    pub(crate) fn remove(&self, sequence: u64) {
        self.files.write().remove(&sequence);
    }

    /// Reads the payload of an entry and verifies its checksum. [`io::ErrorKind::NotFound`] if its
    /// file was recycled, [`io::ErrorKind::InvalidData`] if the checksum is wrong.
    pub fn read(&self, location: &Location) -> io::Result<Bytes> {
        if location.len_bytes == 0 {
            return Ok(Bytes::new());
        }
        let file = self.files.read().get(&location.file_sequence).cloned();
        let file = file.ok_or(io::ErrorKind::NotFound)?;
        let mut payload = vec![0; location.len_bytes as usize];
        file.read_exact_at(&mut payload, location.position)?;
        if ropewalk_crc::of(&payload) != location.crc {
            let message = format!("checksum of a log entry is wrong: {location:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(payload.into())
    }

    /// Locates the entries of this replica from now on, for [`Self::read_entry`]. `known` are the
    /// entries that the log has already, in order and without a gap; those of a replica that is
    /// followed already are not replaced. The newest 65,536 entries of each replica are located.
    pub fn follow(&self, key: ReplicaKey, known: &[EntryMeta]) {
        self.located.follow(key, known);
    }

    /// Locates the entries of this replica no longer.
    pub fn unfollow(&self, key: ReplicaKey) {
        self.located.unfollow(key);
    }

    /// Reads a durable entry of a followed replica. `None` if the log no longer has it, or it was
    /// written before the replica was followed.
    ///
    /// # Errors
    /// When the file cannot be read, or the checksum is wrong.
    pub fn read_entry(
        &self,
        key: ReplicaKey,
        index: u64,
    ) -> io::Result<Option<(EntryMeta, Bytes)>> {
        let Some(meta) = self.located.find(key, index) else { return Ok(None) };
        match self.read(&meta.location) {
            Ok(payload) => Ok(Some((meta, payload))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // The file may have begun again as another one while it was read.
            Err(_) if !self.has(meta.location.file_sequence) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn has(&self, file_sequence: u64) -> bool {
        self.files.read().contains_key(&file_sequence)
    }

    pub(crate) fn located(&self) -> &Located {
        &self.located
    }
}
