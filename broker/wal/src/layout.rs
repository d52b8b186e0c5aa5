//! How numbers and checksums lie in the log's files.

/// Headers, tables and rounds begin at multiples of this.
pub(crate) const BLOCK_BYTES: u64 = ropewalk_disk::ALIGN_BYTES as u64;

/// Sequences of files and rounds count up from the first: a higher one was never written, and what is
/// counted on from it could overflow.
pub(crate) const SEQUENCE_MAX: u64 = u64::MAX / 2;

/// Reads a field whose presence the caller has checked.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Reads a field whose presence the caller has checked.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Where a checksum starts from, so that the same bytes elsewhere do not check out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    /// For what is found by its position and guarded by something seeded.
    pub(crate) const NONE: Self = Self(0);

    /// For what is found by searching a file.
    pub(crate) fn of_file(salt: u64) -> Self {
        Self(crc32c::crc32c(&salt.to_le_bytes()))
    }

    /// For what lies inside one round of a file.
    pub(crate) fn of_round(salt: u64, round: u64) -> Self {
        Self(crc32c::crc32c_append(Self::of_file(salt).0, &round.to_le_bytes()))
    }

    pub(crate) fn crc(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }

    /// For a checksum over several pieces: the state after `bytes`.
    pub(crate) fn after(self, bytes: &[u8]) -> Self {
        Self(self.crc(bytes))
    }

    pub(crate) fn value(self) -> u32 {
        self.0
    }
}

pub(crate) fn align_up(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES)
}
