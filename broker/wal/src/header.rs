//! The header of a file: the preamble and the table of all replicas, each of them twice.
//!
//! There are two copies because without a header the whole file is lost: its salt is needed to
//! check anything in it. One damaged copy is logged and has no other effect.

use std::io;

use ropewalk_disk::{Aligned, File};

use crate::layout::{BLOCK_BYTES, SEQUENCE_MAX, align_up, u32_at, u64_at};
use crate::replicas::Replicas;

/// The version that this program writes, and the only one that it reads.
pub(crate) const VERSION: u32 = 2;
const MAGIC: &[u8; 8] = b"RWALFILE";
const PREAMBLE_BYTES: usize = 56;

/// The content of a file before its rounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) sequence: u64,
    pub(crate) salt: u64,
    pub(crate) file_bytes: u64,
    /// The sequence of the first round in this file. The table has the effects of all earlier
    /// rounds.
    pub(crate) first_round: u64,
    pub(crate) table: Replicas,
}

/// Size of a header with this table in bytes: the position of the first round.
pub(crate) fn header_bytes(table: &Replicas) -> u64 {
    header_bytes_for(table.encoded_bytes())
}

fn header_bytes_for(table_bytes: u64) -> u64 {
    2 * BLOCK_BYTES + 2 * align_up(table_bytes)
}

impl FileHeader {
    /// Appends the header to `out`, which is empty.
    pub(crate) fn encode(&self, out: &mut Aligned) {
        let table = self.table.encode();
        let mut block = [0; BLOCK_BYTES as usize];
        block[..8].copy_from_slice(MAGIC);
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let numbers = [self.sequence, self.salt, self.file_bytes, self.first_round];
        for (at, number) in numbers.into_iter().enumerate() {
            block[16 + at * 8..24 + at * 8].copy_from_slice(&number.to_le_bytes());
        }
        let table_bytes = u32::try_from(table.len()).expect("a table is smaller than its file");
        block[48..52].copy_from_slice(&table_bytes.to_le_bytes());
        block[52..PREAMBLE_BYTES].copy_from_slice(&crc32c::crc32c(&table).to_le_bytes());
        let crc = preamble_crc(&block);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
        for copy in [&block[..], &block, &table, &table] {
            out.extend_from_slice(copy);
            out.pad_to_multiple(BLOCK_BYTES as usize);
        }
    }
}

fn preamble_crc(block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[16..])
}

/// The result of reading the header of a file.
#[derive(Debug)]
pub(crate) enum HeaderOutcome {
    /// A valid header. `rounds_at` is the position of the first round. `copies_bad` of its four
    /// parts are damaged.
    Header { header: FileHeader, rounds_at: u64, copies_bad: usize },
    /// Written by another version of this program.
    Version(u32),
    /// Neither copy of the preamble or of the table is valid.
    Unreadable,
}

/// Reads the header of a file.
pub(crate) fn read(file: &dyn File) -> io::Result<HeaderOutcome> {
    let len = file.len()?;
    let blocks = [read_block(file, len, 0)?, read_block(file, len, BLOCK_BYTES)?];
    let valid: Vec<&Vec<u8>> = blocks.iter().flatten().filter(|block| is_valid(block)).collect();
    let Some(block) = valid.first() else {
        return Ok(
            foreign_version(&blocks).map_or(HeaderOutcome::Unreadable, HeaderOutcome::Version)
        );
    };
    let version = u32_at(block, 8);
    if version != VERSION {
        return Ok(HeaderOutcome::Version(version));
    }
    let table_bytes = u64::from(u32_at(block, 48));
    let mut tables = Vec::new();
    for at in [2 * BLOCK_BYTES, 2 * BLOCK_BYTES + align_up(table_bytes)] {
        tables.extend(read_table(file, len, at, block)?);
    }
    let copies_bad = 4 - valid.len() - tables.len();
    let Some(table) = tables.into_iter().next() else { return Ok(HeaderOutcome::Unreadable) };
    let header = FileHeader {
        sequence: u64_at(block, 16),
        salt: u64_at(block, 24),
        file_bytes: u64_at(block, 32),
        first_round: u64_at(block, 40),
        table,
    };
    Ok(HeaderOutcome::Header { header, rounds_at: header_bytes_for(table_bytes), copies_bad })
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
    let checks_out = block.starts_with(MAGIC) && u32_at(block, 12) == preamble_crc(block);
    checks_out && u64_at(block, 16) <= SEQUENCE_MAX && u64_at(block, 40) <= SEQUENCE_MAX
}

/// The version in both copies, if it is not ours. The checksum is not verified, because another
/// version may place it elsewhere.
fn foreign_version(blocks: &[Option<Vec<u8>>; 2]) -> Option<u32> {
    let [Some(first), Some(second)] = blocks else { return None };
    let version = u32_at(first, 8);
    let both = first.starts_with(MAGIC) && second.starts_with(MAGIC);
    (both && version == u32_at(second, 8) && version != VERSION).then_some(version)
}

fn read_table(file: &dyn File, len: u64, at: u64, block: &[u8]) -> io::Result<Option<Replicas>> {
    let table_bytes = u32_at(block, 48);
    // The length is bounded by the file, so it may size an allocation.
    if at + u64::from(table_bytes) > len {
        return Ok(None);
    }
    let mut table = vec![0; table_bytes as usize];
    file.read_exact_at(&mut table, at)?;
    if crc32c::crc32c(&table) != u32_at(block, 52) {
        return Ok(None);
    }
    Ok(Replicas::decode(&table))
}
