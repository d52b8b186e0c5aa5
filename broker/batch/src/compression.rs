//! The codecs of record batches, with a bound on the decompressed size.
//!
//! No size stated in the data sizes an allocation: output is streamed through the caller's window,
//! or a buffer grows as data arrives, up to the caller's limit. The memory that a codec uses
//! internally is bounded by its format (zstd: a window of at most 128 MiB, of which only as much is
//! used as there is data; the others: a few MiB).

use std::io::{self, Read, Write};

use crate::codec::{Compression, LZ4_LEVEL_DEFAULT};
use crate::error::BatchError;

mod snappy;

/// Log2 of the largest window that any zstd level writes without its `--long` mode.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// The batch error for an I/O error of a codec.
pub(crate) fn failed(codec: Compression, error: &io::Error, limit_bytes: usize) -> BatchError {
    if error.kind() == io::ErrorKind::FileTooLarge {
        return BatchError::TooBig { limit_bytes };
    }
    BatchError::Codec { codec, reason: error.to_string() }
}

/// A reader of the decompressed bytes of `stored`. A codec that must decompress a block in one
/// piece refuses blocks over `limit_bytes`; the caller enforces the limit on the sum.
pub(crate) fn reader(
    codec: Compression,
    stored: &[u8],
    limit_bytes: usize,
) -> Result<Box<dyn Read + '_>, BatchError> {
    let opened: io::Result<Box<dyn Read + '_>> = match codec {
        Compression::None => Ok(Box::new(stored)),
        Compression::Gzip => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(stored))),
        Compression::Snappy => Ok(Box::new(snappy::Blocks::new(stored, limit_bytes))),
        Compression::Lz4 => lz4::Decoder::new(stored).map(|it| Box::new(it) as Box<dyn Read>),
        Compression::Zstd => zstd_reader(stored),
    };
    opened.map_err(|e| failed(codec, &e, limit_bytes))
}

fn zstd_reader(stored: &[u8]) -> io::Result<Box<dyn Read + '_>> {
    let mut decoder = zstd::Decoder::with_buffer(stored)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(Box::new(decoder))
}

/// Decompresses into memory, up to `limit_bytes`.
pub(crate) fn decompress(
    codec: Compression,
    stored: &[u8],
    limit_bytes: usize,
) -> Result<Vec<u8>, BatchError> {
    let mut plain = Vec::new();
    let bound = u64::try_from(limit_bytes).unwrap_or(u64::MAX).saturating_add(1);
    reader(codec, stored, limit_bytes)?
        .take(bound)
        .read_to_end(&mut plain)
        .map_err(|e| failed(codec, &e, limit_bytes))?;
    if plain.len() > limit_bytes {
        return Err(BatchError::TooBig { limit_bytes });
    }
    Ok(plain)
}

/// Appends the compressed form of `plain`.
pub(crate) fn compress(
    codec: Compression,
    level: i32,
    plain: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), BatchError> {
    let done = match codec {
        Compression::None => out.write_all(plain),
        Compression::Gzip => gzip(level, plain, out),
        Compression::Snappy => snappy::compress(plain, out),
        Compression::Lz4 => lz4(level, plain, out),
        Compression::Zstd => zstd::stream::copy_encode(plain, out, level),
    };
    done.map_err(|e| failed(codec, &e, usize::MAX))
}

fn gzip(level: i32, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let level = match u32::try_from(level) {
        Ok(level) => flate2::Compression::new(level.min(9)),
        Err(_) => flate2::Compression::default(),
    };
    let mut encoder = flate2::write::GzEncoder::new(out, level);
    encoder.write_all(plain)?;
    encoder.finish().map(drop)
}

/// Blocks are independent, because Java's reader supports no others.
fn lz4(level: i32, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let level = if level == LZ4_LEVEL_DEFAULT { 0 } else { u32::try_from(level).unwrap_or(0) };
    let mut encoder = lz4::EncoderBuilder::new()
        .level(level)
        .block_mode(lz4::BlockMode::Independent)
        .block_size(lz4::BlockSize::Max64KB)
        .block_checksum(lz4::liblz4::BlockChecksum::NoBlockChecksum)
        .checksum(lz4::ContentChecksum::NoChecksum)
        .build(out)?;
    encoder.write_all(plain)?;
    encoder.finish().1
}
