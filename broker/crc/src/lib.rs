//! CRC-32C: sums, and the sum of joined bytes from the sums of the parts.
//!
//! A producer's batch carries a checksum that validation verifies. The write-ahead log and the
//! segments need checksums of larger pieces that contain the batch. [`combine`] computes these from
//! the known ones in a time that does not depend on the length, so that the broker reads the bytes
//! once. The `crc32c` crate combines by squaring matrices, which takes longer than to sum 64 KiB;
//! the crates with a fast combination have another polynomial.
//!
//! A combined checksum also detects more: it is about the bytes that were validated, so bytes that
//! change in memory afterwards do not match it. A checksum that is computed again when the bytes
//! are written would match the changed bytes.
//!
//! # Example
//!
//! ```
//! use ropewalk_crc::{SuffixSum, append_known, of};
//!
//! let message = b"header, and a body whose checksum is known";
//! let body = SuffixSum { from: 8, crc: of(&message[8..]) };
//! let joined = [b"before ", &message[..]].concat();
//! assert_eq!(append_known(of(b"before "), message, body), of(&joined));
//! ```

#[cfg(feature = "count")]
mod count {
    use std::sync::atomic::AtomicU64;

    pub(crate) static SUMMED_BYTES: AtomicU64 = AtomicU64::new(0);
}

/// The polynomial of CRC-32C. The highest bit is the coefficient of x⁰.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// x⁰ in the same order of bits.
const ONE: u32 = 1 << 31;

/// x⁸ in the same order of bits: what a byte of zeroes multiplies a checksum by.
const BYTE: u32 = 1 << 23;

/// `SHIFTS[k][d]` multiplies a checksum as d × 256ᵏ bytes of zeroes behind the summed ones do.
static SHIFTS: [[u32; 256]; size_of::<usize>()] = shifts();

/// The checksum of the end of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuffixSum {
    /// Where the checksum begins, counted from the first byte.
    pub from: usize,
    /// CRC-32C of all bytes from there on.
    pub crc: u32,
}

/// CRC-32C of the bytes.
#[must_use]
pub fn of(bytes: &[u8]) -> u32 {
    append(0, bytes)
}

/// CRC-32C of bytes with the checksum `crc` and the given bytes behind them.
#[must_use]
pub fn append(crc: u32, bytes: &[u8]) -> u32 {
    #[cfg(feature = "count")]
    count::SUMMED_BYTES.fetch_add(bytes.len() as u64, std::sync::atomic::Ordering::Relaxed);
    crc32c::crc32c_append(crc, bytes)
}

/// Like [`append`], but reads only the bytes before the suffix whose checksum is known.
///
/// # Panics
/// When the suffix begins behind the bytes.
#[must_use]
pub fn append_known(crc: u32, bytes: &[u8], suffix: SuffixSum) -> u32 {
    let (front, behind) = bytes.split_at(suffix.from);
    combine(append(crc, front), suffix.crc, behind.len())
}

/// CRC-32C of two sequences of bytes joined, from their checksums and the length of the second in
/// bytes. Takes one multiplication of polynomials for each byte of that length's number.
#[must_use]
pub fn combine(first: u32, second: u32, second_len: usize) -> u32 {
    let digits = second_len.to_le_bytes();
    let used = digits.iter().zip(&SHIFTS).filter(|(digit, _)| **digit != 0);
    used.fold(first, |crc, (digit, shifts)| product(shifts[usize::from(*digit)], crc)) ^ second
}

/// Bytes that were summed in this process.
#[cfg(feature = "count")]
#[must_use]
pub fn summed_bytes() -> u64 {
    count::SUMMED_BYTES.load(std::sync::atomic::Ordering::Relaxed)
}

/// a × b modulo the polynomial.
const fn product(a: u32, mut b: u32) -> u32 {
    let mut sum = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        sum ^= b & 0_u32.wrapping_sub((a >> bit) & 1);
        b = (b >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(b & 1));
    }
    sum
}

const fn shifts() -> [[u32; 256]; size_of::<usize>()] {
    let mut shifts = [[ONE; 256]; size_of::<usize>()];
    let mut step = BYTE;
    let mut k = 0;
    while k < shifts.len() {
        let mut d = 1;
        while d < 256 {
            shifts[k][d] = product(shifts[k][d - 1], step);
            d += 1;
        }
        step = product(shifts[k][255], step);
        k += 1;
    }
    shifts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn zeroes_shift_by_any_length() {
        // A sum of a byte and gigabytes of zeroes, doubled from sums of half of the zeroes.
        let (mut zeroes, mut len) = (of(&[0]), 1_usize);
        while len < 1 << 40 {
            assert_eq!(combine(zeroes, zeroes, len), crc32c::crc32c_combine(zeroes, zeroes, len));
            zeroes = combine(zeroes, zeroes, len);
            len *= 2;
        }
        assert_eq!(combine(1, 2, usize::MAX), crc32c::crc32c_combine(1, 2, usize::MAX));
    }

    #[test]
    fn nothing_behind_changes_nothing() {
        assert_eq!(combine(of(b"some"), of(b""), 0), of(b"some"));
        assert_eq!(combine(of(b""), of(b"some"), 4), of(b"some"));
    }

    proptest! {
        #[test]
        fn parts_give_the_sum_of_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..200_000),
            at in any::<prop::sample::Index>(),
        ) {
            let at = at.index(bytes.len() + 1);
            let (front, behind) = bytes.split_at(at);
            prop_assert_eq!(combine(of(front), of(behind), behind.len()), of(&bytes));
        }

        #[test]
        fn a_known_suffix_is_not_read(
            before in any::<u32>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..2_000),
            from in any::<prop::sample::Index>(),
        ) {
            let from = from.index(bytes.len() + 1);
            let suffix = SuffixSum { from, crc: of(&bytes[from..]) };
            let whole = append(before, &bytes);
            prop_assert_eq!(append_known(before, &bytes, suffix), whole);
            let mut changed = bytes.clone();
            changed[from..].fill(0);
            prop_assert_eq!(append_known(before, &changed, suffix), whole, "of the bytes before");
        }

        #[test]
        fn any_lengths_agree_with_the_slow_way(first: u32, second: u32, len: usize) {
            let slow = crc32c::crc32c_combine(first, second, len);
            prop_assert_eq!(combine(first, second, len), slow);
        }
    }
}
