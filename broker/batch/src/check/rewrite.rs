//! Changes that the broker makes to a batch before it is stored.

use std::borrow::Cow;

use bytes::Bytes;

use crate::codec::Compression;
use crate::compression;
use crate::error::BatchError;
use crate::frame::{self, Slice};
use crate::header::{HEADER_LEN, Header};
use crate::varint;

/// Makes a batch of this header and the `plain` records. The records are compressed, and if
/// `renumber` is set, their offset deltas are changed to 0, 1, 2 and so on.
pub(super) fn rebuild(
    mut header: Header,
    plain: &[u8],
    (codec, level): (Compression, i32),
    renumber: bool,
) -> Result<Bytes, BatchError> {
    let records = match renumber {
        true => Cow::Owned(renumbered(plain, header.count)?),
        false => Cow::Borrowed(plain),
    };
    let mut out = vec![0; HEADER_LEN];
    compression::compress(codec, level, &records, &mut out)?;
    // The batch may be kept for long, and only its length is counted.
    out.shrink_to(out.len() + out.len() / 8);
    header.set_compression(codec);
    header.seal(out)
}

/// The same records with the offset deltas 0, 1, 2 and so on.
fn renumbered(plain: &[u8], count: i32) -> Result<Vec<u8>, BatchError> {
    let mut source = Slice::new(plain);
    let mut out = Vec::with_capacity(plain.len());
    for offset_delta in 0..count {
        let frame = frame::next(&mut source)?;
        let before = &plain[frame.attributes_at..frame.offset_delta_at.start];
        let after = &plain[frame.offset_delta_at.end..frame.end];
        let own_len = varint::len_i64(i64::from(offset_delta));
        varint::write_i64(&mut out, (before.len() + own_len + after.len()) as i64);
        out.extend_from_slice(before);
        varint::write_i32(&mut out, offset_delta);
        out.extend_from_slice(after);
    }
    Ok(out)
}
