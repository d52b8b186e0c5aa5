//! The label of a file: whether the file is reserved or has begun, and as what.
//!
//! A file keeps its name for as long as it exists, so the name does not say whether it is part of
//! the log. Its label does, together with its `header`. A *reservation* gives the
//! file a new salt; the file begins with the header that has this salt, in one write by the writer
//! thread. Afterwards the label is marked as begun, by another thread. So a file whose label is
//! reserved and whose header is not whole had not begun, and one whose label has begun and whose
//! header is not whole is damaged.
//!
//! # After a crash
//!
//! There are two copies, and of those that are valid the one with the higher rank counts. A new
//! label replaces the first copy durably and then the second, so one of them is always valid. A
//! mark replaces only the first: the header then says the same as the second one.
//!
//! A header counts only if its reservation is not older than that of the label. So the header and
//! the rounds of a file that is reserved again are not part of the log, although they are still
//! readable.

use std::io;

use ropewalk_disk::{Aligned, Disk, File};

use crate::layout::{BLOCK_BYTES, SEQUENCE_MAX, block_crc, u32_at, u64_at};

/// The version that this program writes, and the only one that it reads.
pub(crate) const VERSION: u32 = 2;
const MAGIC: &[u8; 8] = b"RWALFILE";
const WHY_LABEL: &str = "wal-label";

/// Purpose of a reserved file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It becomes the next file of the log.
    Spare = 1,
    /// It becomes the first file of a start, which then works on a full disk.
    Start = 2,
}

impl Purpose {
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        [Self::Spare, Self::Start].into_iter().find(|purpose| *purpose as u32 == number)
    }
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label {
    /// Number of times that the file was reserved.
    pub(crate) reservation: u64,
    /// Seeds the checksums of rounds. It is unknown to clients, so that no payload can imitate a
    /// round.
    pub(crate) salt: u64,
    pub(crate) file_bytes: u64,
    /// The number in the name of the file.
    pub(crate) number: u64,
    /// What a reserved file is kept for.
    pub(crate) purpose: Purpose,
    /// The sequence of the file in the log; 0 while it is reserved.
    pub(crate) sequence: u64,
    /// All rounds up to this one were durable. It is written when the log is idle, because the last
    /// rounds have no later one that shows that they existed.
    pub(crate) sealed_round: u64,
}

impl Label {
    /// The label for the next use of the file, with a new salt.
    pub(crate) fn reserve(disk: &dyn Disk, spec: Reservation) -> Self {
        let Reservation { reservation, file_bytes, number, purpose } = spec;
        let salt = disk.draw();
        Self { reservation, salt, file_bytes, number, purpose, sequence: 0, sealed_round: 0 }
    }

    /// Of two valid copies, the one with the higher rank counts.
    fn rank(&self) -> (u64, bool, u64) {
        (self.reservation, self.has_begun(), self.sealed_round)
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.sequence != 0
    }

    pub(crate) fn append_to(&self, out: &mut Aligned) {
        let mut block = [0; BLOCK_BYTES as usize];
        block[..8].copy_from_slice(MAGIC);
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let numbers = [
            self.reservation,
            self.salt,
            self.file_bytes,
            self.number,
            self.sequence,
            self.sealed_round,
        ];
        for (at, number) in numbers.into_iter().enumerate() {
            block[16 + at * 8..24 + at * 8].copy_from_slice(&number.to_le_bytes());
        }
        block[64..68].copy_from_slice(&(self.purpose as u32).to_le_bytes());
        let crc = block_crc(&block);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&block);
    }

    /// `None` if the block is not a label.
    fn parse(block: &[u8]) -> Option<Self> {
        if !is_whole(block) {
            return None;
        }
        let label = Self {
            reservation: u64_at(block, 16),
            salt: u64_at(block, 24),
            file_bytes: u64_at(block, 32),
            number: u64_at(block, 40),
            purpose: Purpose::from_number(u32_at(block, 64))?,
            sequence: u64_at(block, 48),
            sealed_round: u64_at(block, 56),
        };
        let counts = [label.reservation, label.number, label.sequence, label.sealed_round];
        counts.iter().all(|count| *count <= SEQUENCE_MAX).then_some(label)
    }

    /// Writes the first label of a new file, which is not named yet.
    pub(crate) fn write_first(&self, file: &dyn File) -> io::Result<()> {
        let mut out = Aligned::with_capacity(2 * BLOCK_BYTES as usize);
        self.append_to(&mut out);
        self.append_to(&mut out);
        file.write_durable_at(&out, 0, WHY_LABEL)
    }

    /// Replaces the label.
    pub(crate) fn replace(&self, file: &dyn File) -> io::Result<()> {
        self.write_copy(file, 0)?;
        self.write_copy(file, 1)
    }

    /// Replaces the first copy, while the second one is valid or the header says the same.
    pub(crate) fn mark(&self, file: &dyn File) -> io::Result<()> {
        self.write_copy(file, 0)
    }

    /// Replaces the label of a reserved file. `second_bad`: its second copy is not valid.
    pub(crate) fn renew(&self, file: &dyn File, second_bad: bool) -> io::Result<()> {
        if second_bad {
            self.write_copy(file, 1)?;
        }
        self.write_copy(file, 0)
    }

    fn write_copy(&self, file: &dyn File, copy: u64) -> io::Result<()> {
        let mut out = Aligned::with_capacity(BLOCK_BYTES as usize);
        self.append_to(&mut out);
        file.write_durable_at(&out, copy * BLOCK_BYTES, WHY_LABEL)
    }
}

/// What a file is reserved as.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reservation {
    pub(crate) reservation: u64,
    pub(crate) file_bytes: u64,
    pub(crate) number: u64,
    pub(crate) purpose: Purpose,
}

/// Whether the block has our magic and its checksum is valid.
fn is_whole(block: &[u8]) -> bool {
    block.starts_with(MAGIC) && u32_at(block, 12) == block_crc(block)
}

/// The first two blocks of a file.
pub(crate) struct Labels {
    copies: [Option<Label>; 2],
    /// The version in them, if it is not ours.
    pub(crate) foreign_version: Option<u32>,
}

impl Labels {
    pub(crate) fn parse(blocks: &[Option<Vec<u8>>; 2]) -> Self {
        let foreign_version = foreign_version(blocks);
        let copies = blocks.each_ref().map(|block| block.as_deref().and_then(Label::parse));
        Self { copies, foreign_version }
    }

    /// The copy that counts.
    pub(crate) fn best(&self) -> Option<Label> {
        self.copies.into_iter().flatten().max_by_key(Label::rank)
    }

    pub(crate) fn copies_bad(&self) -> usize {
        self.copies.iter().filter(|copy| copy.is_none()).count()
    }

    pub(crate) fn second_bad(&self) -> bool {
        self.copies[1].is_none()
    }
}

/// The version in a valid block, or the one in both blocks, if it is not ours: another version may
/// place its checksum elsewhere.
fn foreign_version(blocks: &[Option<Vec<u8>>; 2]) -> Option<u32> {
    let ours = |version: &u32| *version == VERSION;
    let versions = blocks.each_ref().map(|block| {
        let block = block.as_deref().filter(|block| block.starts_with(MAGIC))?;
        Some((u32_at(block, 8), is_whole(block)))
    });
    let whole = versions.iter().flatten().filter(|(_, whole)| *whole).map(|(version, _)| *version);
    if let Some(version) = whole.clone().find(|version| !ours(version)) {
        return Some(version);
    }
    let [Some((first, _)), Some((second, _))] = versions else { return None };
    (first == second && !ours(&first)).then_some(first)
}
