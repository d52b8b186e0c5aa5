//! The header of a file: the preamble and the table of all replicas, each of them twice, after the
//! two copies of the [`label`](crate::label).
//!
//! There are two copies because without a header the whole file is lost: its salt is needed to
//! check anything in it. One damaged copy is logged and has no other effect.

use std::io;

use ropewalk_disk::{Aligned, File};

use crate::label::{Label, Labels, VERSION};
use crate::layout::{BLOCK_BYTES, SEQUENCE_MAX, align_up, block_crc, u32_at, u64_at};
use crate::replicas::Replicas;

/// Position of the header: after the label.
pub(crate) const HEADER_AT: u64 = 2 * BLOCK_BYTES;
const MAGIC: &[u8; 8] = b"RWALHEAD";
const PREAMBLE_BYTES: usize = 64;
/// Number of parts before the rounds: label, preamble and table, each of them twice.
const PARTS: usize = 6;

/// The content of a file before its rounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileHeader {
    /// The reservation of the file that has begun with this header.
    pub(crate) reservation: u64,
    pub(crate) sequence: u64,
    pub(crate) salt: u64,
    pub(crate) file_bytes: u64,
    /// The sequence of the first round in this file. The table has the effects of all earlier
    /// rounds.
    pub(crate) first_round: u64,
    pub(crate) table: Replicas,
}

/// The position of the first round in a file with this table.
pub(crate) fn header_bytes(table: &Replicas) -> u64 {
    header_bytes_for(table.encoded_bytes())
}

fn header_bytes_for(table_bytes: u64) -> u64 {
    HEADER_AT + 2 * BLOCK_BYTES + 2 * align_up(table_bytes)
}

impl FileHeader {
    /// The header with which a reserved file begins.
    pub(crate) fn new(label: &Label, sequence: u64, first_round: u64, table: Replicas) -> Self {
        let Label { reservation, salt, file_bytes, .. } = *label;
        Self { reservation, sequence, salt, file_bytes, first_round, table }
    }

    /// Appends the header to `out`, which is empty.
    pub(crate) fn encode(&self, out: &mut Aligned) {
        let table = self.table.encode();
        let mut block = [0; BLOCK_BYTES as usize];
        block[..8].copy_from_slice(MAGIC);
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let numbers =
            [self.reservation, self.salt, self.file_bytes, self.sequence, self.first_round];
        for (at, number) in numbers.into_iter().enumerate() {
            block[16 + at * 8..24 + at * 8].copy_from_slice(&number.to_le_bytes());
        }
        let table_bytes = u32::try_from(table.len()).expect("a table is smaller than its file");
        block[56..60].copy_from_slice(&table_bytes.to_le_bytes());
        block[60..PREAMBLE_BYTES].copy_from_slice(&ropewalk_crc::of(&table).to_le_bytes());
        let crc = block_crc(&block);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
        for copy in [&block[..], &block, &table, &table] {
            out.extend_from_slice(copy);
            out.pad_to_multiple(BLOCK_BYTES as usize);
        }
    }
}

/// What the start of a file says.
#[derive(Debug)]
pub(crate) enum FileStart {
    /// The file is part of the log. `rounds_at` is the position of the first round. All rounds up
    /// to `sealed_round` were durable. `parts_bad` of its six parts are damaged.
    Begun { header: FileHeader, rounds_at: u64, sealed_round: u64, parts_bad: usize },
    /// The file is not part of the log: it has not begun since it was reserved.
    Reserved { label: Label, second_bad: bool },
    /// Written by another version of this program.
    Version(u32),
    /// The file is damaged: no label is valid, or the file has begun and its header is not whole.
    /// `sequence` is from the label.
    Unreadable { sequence: Option<u64> },
}

/// Reads the label and the header of a file. `number` is the number in its name.
pub(crate) fn read(file: &dyn File, number: Option<u64>) -> io::Result<FileStart> {
    let len = file.len()?;
    let labels = Labels::parse(&[read_block(file, len, 0)?, read_block(file, len, BLOCK_BYTES)?]);
    if let Some(version) = labels.foreign_version {
        return Ok(FileStart::Version(version));
    }
    let label = labels.best();
    if label.is_some_and(|label| number.is_some_and(|number| number != label.number)) {
        return Ok(FileStart::Unreadable { sequence: None });
    }
    if let Some((header, rounds_at, header_parts_bad)) = read_header(file, len, label)? {
        let marked = label.filter(|label| label.salt == header.salt && label.has_begun());
        let sealed_round = marked.map_or(0, |label| label.sealed_round);
        let parts_bad = labels.copies_bad() + header_parts_bad;
        return Ok(FileStart::Begun { header, rounds_at, sealed_round, parts_bad });
    }
    Ok(match label {
        Some(label) if !label.has_begun() => {
            FileStart::Reserved { label, second_bad: labels.second_bad() }
        }
        Some(label) => FileStart::Unreadable { sequence: Some(label.sequence) },
        None => FileStart::Unreadable { sequence: None },
    })
}

/// The header, the position of the first round, and the number of damaged parts of the header.
/// `None` if neither copy of the preamble or of the table is valid for the label.
fn read_header(
    file: &dyn File,
    len: u64,
    label: Option<Label>,
) -> io::Result<Option<(FileHeader, u64, usize)>> {
    let blocks =
        [read_block(file, len, HEADER_AT)?, read_block(file, len, HEADER_AT + BLOCK_BYTES)?];
    let valid = |block: &&Vec<u8>| is_valid(block) && belongs(block, label);
    let valid: Vec<&Vec<u8>> = blocks.iter().flatten().filter(valid).collect();
    let Some(block) = valid.iter().max_by_key(|block| u64_at(block, 16)) else { return Ok(None) };
    let table_bytes = u64::from(u32_at(block, 56));
    let tables_at = HEADER_AT + 2 * BLOCK_BYTES;
    let mut tables = Vec::new();
    for at in [tables_at, tables_at + align_up(table_bytes)] {
        tables.extend(read_table(file, len, at, block)?);
    }
    let parts_bad = PARTS - 2 - valid.len() - tables.len();
    let Some(table) = tables.into_iter().next() else { return Ok(None) };
    let header = FileHeader {
        reservation: u64_at(block, 16),
        salt: u64_at(block, 24),
        file_bytes: u64_at(block, 32),
        sequence: u64_at(block, 40),
        first_round: u64_at(block, 48),
        table,
    };
    Ok(Some((header, header_bytes_for(table_bytes), parts_bad)))
}

fn read_block(file: &dyn File, len: u64, at: u64) -> io::Result<Option<Vec<u8>>> {
    if at + BLOCK_BYTES > len {
        return Ok(None);
    }
    let mut block = vec![0; BLOCK_BYTES as usize];
    file.read_exact_at(&mut block, at)?;
    Ok(Some(block))
}

fn is_valid(block: &[u8]) -> bool {
    let ours = block.starts_with(MAGIC)
        && u32_at(block, 8) == VERSION
        && u32_at(block, 12) == block_crc(block);
    let counts = [u64_at(block, 16), u64_at(block, 40), u64_at(block, 48)];
    ours && counts.iter().all(|count| (1..=SEQUENCE_MAX).contains(count))
}

/// Whether the file has begun with this preamble since the reservation of the label. An older
/// preamble is left over from a former use of the file.
fn belongs(block: &[u8], label: Option<Label>) -> bool {
    let (reservation, salt) = (u64_at(block, 16), u64_at(block, 24));
    label.is_none_or(|label| {
        reservation > label.reservation || (reservation == label.reservation && salt == label.salt)
    })
}

fn read_table(file: &dyn File, len: u64, at: u64, block: &[u8]) -> io::Result<Option<Replicas>> {
    let table_bytes = u32_at(block, 56);
    // The length is bounded by the file, so it may size an allocation.
    if at + u64::from(table_bytes) > len {
        return Ok(None);
    }
    let mut table = vec![0; table_bytes as usize];
    file.read_exact_at(&mut table, at)?;
    if ropewalk_crc::of(&table) != u32_at(block, 60) {
        return Ok(None);
    }
    Ok(Replicas::decode(&table))
}
