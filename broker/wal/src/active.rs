//! The file to which rounds are appended.

use std::io;
use std::path::Path;
use std::sync::Arc;

use ropewalk_disk::{Aligned, Disk, File};

use crate::files::{Spare, file_path};
use crate::frame::{self, RoundId};
use crate::header::FileHeader;
use crate::record::{Record, ReplicaKey};

const WHY_ROUND: &str = "wal-round";
const WHY_HEADER: &str = "wal-header";
const WHY_NAME: &str = "wal-name";

/// A file with a header, and the position of the next round.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) sequence: u64,
    pub(crate) salt: u64,
    pub(crate) file: Arc<dyn File>,
    pub(crate) bytes: u64,
    pub(crate) position: u64,
}

impl Active {
    /// Writes a header to a spare file. The file becomes part of the log with [`Active::name`].
    pub(crate) fn begin(
        spare: &Spare,
        header: &FileHeader,
        buffer: &mut Aligned,
    ) -> io::Result<Self> {
        buffer.clear();
        header.encode(buffer);
        let position = buffer.len() as u64;
        if position > spare.bytes / 2 {
            let message = format!("a table of {position} bytes in a file of {}", spare.bytes);
            return Err(io::Error::other(message));
        }
        spare.file.write_durable_at(buffer, 0, WHY_HEADER)?;
        Ok(Self {
            sequence: header.sequence,
            salt: header.salt,
            file: Arc::clone(&spare.file),
            bytes: spare.bytes,
            position,
        })
    }

    /// Renames the file to its name in the log, durably.
    pub(crate) fn name(&self, disk: &dyn Disk, dir: &Path, spare: &Spare) -> io::Result<()> {
        disk.rename(&spare.path, &file_path(dir, self.sequence))?;
        disk.sync_dir(dir, WHY_NAME)
    }

    /// Writes a round durably and returns its size in bytes.
    pub(crate) fn write_round<'a>(
        &mut self,
        round: u64,
        directory: impl ExactSizeIterator<Item = (ReplicaKey, u32)>,
        records: impl Iterator<Item = &'a Record>,
        buffer: &mut Aligned,
    ) -> io::Result<u64> {
        let round_id = RoundId { file_sequence: self.sequence, salt: self.salt, round };
        buffer.clear();
        frame::encode(round_id, directory, records, buffer);
        self.file.write_durable_at(buffer, self.position, WHY_ROUND)?;
        let bytes = buffer.len() as u64;
        self.position += bytes;
        Ok(bytes)
    }
}
