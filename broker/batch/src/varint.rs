//! Writes zigzag variable-length integers, as in the framing of records.
//!
//! [`crate::frame`] reads them, because it must read from memory and from a decompressor alike.

/// Appends a 32-bit integer: 1 to 5 bytes.
pub(crate) fn write_i32(out: &mut Vec<u8>, value: i32) {
    write_i64(out, i64::from(value));
}

/// Appends a 64-bit integer: 1 to 10 bytes. A value of 32 bits has the same form as by
/// [`write_i32`].
pub(crate) fn write_i64(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Number of bytes that [`write_i64`] appends.
pub(crate) fn len_i64(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
    (64 - (zigzag | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_forms() {
        for (value, form) in [
            (0, &[0u8][..]),
            (-1, &[1]),
            (1, &[2]),
            (63, &[0x7e]),
            (64, &[0x80, 0x01]),
            (-65, &[0x81, 0x01]),
            (i32::MAX, &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i32::MIN, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ] {
            let mut out = Vec::new();
            write_i32(&mut out, value);
            assert_eq!(out, form, "{value}");
            assert_eq!(len_i64(i64::from(value)), form.len(), "{value}");
        }
        for value in [i64::MIN, i64::MAX, 1 << 40] {
            let mut out = Vec::new();
            write_i64(&mut out, value);
            assert_eq!(len_i64(value), out.len(), "{value}");
        }
    }
}
