//! The file to which rounds are appended.

use std::io;
use std::sync::Arc;

use ropewalk_disk::{Aligned, File};

use crate::files::Spare;
use crate::frame::{self, RoundId};
use crate::header::{self, FileHeader, HEADER_AT};
use crate::label::Label;
use crate::record::{Record, ReplicaKey};

const WHY_ROUND: &str = "wal-round";
const WHY_HEADER: &str = "wal-header";

/// A file and the position of the next round.
#[derive(Debug)]
pub(crate) struct Active {
    /// Its label from now on.
    pub(crate) label: Label,
    pub(crate) file: Arc<dyn File>,
    pub(crate) position: u64,
}

impl Active {
    /// Prepares a reserved file. It begins, and becomes part of the log, with
    /// [`Active::write_header`]; rounds that are written before are copies of existing ones.
    pub(crate) fn prepare(spare: &Spare, header: &FileHeader) -> io::Result<Self> {
        let position = header::header_bytes(&header.table);
        if position > spare.bytes() / 2 {
            let message = format!("a table of {position} bytes in a file of {}", spare.bytes());
            return Err(io::Error::other(message));
        }
        let FileHeader { sequence, first_round, .. } = *header;
        let sealed_round = first_round.saturating_sub(1);
        let label = Label { sequence, sealed_round, ..spare.label };
        Ok(Self { label, file: Arc::clone(&spare.file), position })
    }

    /// Makes the file part of the log. If this write is torn, the file has not begun.
    pub(crate) fn write_header(&self, header: &FileHeader, buffer: &mut Aligned) -> io::Result<()> {
        buffer.clear();
        header.encode(buffer);
        self.file.write_durable_at(buffer, HEADER_AT, WHY_HEADER)
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.label.sequence
    }

    /// Size of the file in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.label.file_bytes
    }

    /// Writes a round durably and returns its size in bytes.
    pub(crate) fn write_round<'a>(
        &mut self,
        round: u64,
        directory: impl ExactSizeIterator<Item = (ReplicaKey, u32)>,
        records: impl Iterator<Item = &'a Record>,
        buffer: &mut Aligned,
    ) -> io::Result<u64> {
        let Label { sequence: file_sequence, salt, .. } = self.label;
        buffer.clear();
        frame::encode(RoundId { file_sequence, salt, round }, directory, records, buffer);
        self.file.write_durable_at(buffer, self.position, WHY_ROUND)?;
        let bytes = buffer.len() as u64;
        self.position += bytes;
        Ok(bytes)
    }
}
