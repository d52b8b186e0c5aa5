//! Numbers and checksums in the files of the log.

/// Headers, tables and rounds begin at multiples of this many bytes.
pub(crate) const BLOCK_BYTES: u64 = ropewalk_disk::ALIGN_BYTES as u64;

/// Largest valid sequence of a file or round. Sequences count up from 1, so a larger one was never
/// written, and adding to it could overflow.
pub(crate) const SEQUENCE_MAX: u64 = u64::MAX / 2;

/// Reads a field whose presence the caller has checked.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Reads a field whose presence the caller has checked.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Initial value of a checksum, so that the same bytes in another file or round do not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    /// For the bodies of records. Their position, length and checksum are in the header of the
    /// record, which is covered by a seeded checksum. So a body needs one pass, and its checksum
    /// may come from its producer.
    pub(crate) const NONE: Self = Self(0);

    /// For round headers, which recovery searches for in a file.
    pub(crate) fn of_file(salt: u64) -> Self {
        Self(ropewalk_crc::of(&salt.to_le_bytes()))
    }

    /// For the content of one round of a file.
    pub(crate) fn of_round(salt: u64, round: u64) -> Self {
        Self(ropewalk_crc::append(Self::of_file(salt).0, &round.to_le_bytes()))
    }

    pub(crate) fn crc(self, bytes: &[u8]) -> u32 {
        ropewalk_crc::append(self.0, bytes)
    }

    /// The seed for the bytes that follow `bytes`, for a checksum over several pieces.
    pub(crate) fn after(self, bytes: &[u8]) -> Self {
        Self(self.crc(bytes))
    }

    pub(crate) fn value(self) -> u32 {
        self.0
    }
}

/// The checksum of a block whose own checksum is at byte 12.
pub(crate) fn block_crc(block: &[u8]) -> u32 {
    ropewalk_crc::append(ropewalk_crc::of(&block[..12]), &block[16..])
}

pub(crate) fn align_up(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES)
}
