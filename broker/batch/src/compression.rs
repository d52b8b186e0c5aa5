//! The codecs of record batches, always with a bound on what comes out.
//!
//! Data decides nothing here: output is either streamed through the caller's window or grown as
//! it comes, and stops at the caller's limit. What a codec holds internally is bounded by its
//! format (zstd's window: 128 MiB at most, touched only as far as data fills it; the others: a
//! few MiB).

use std::fmt;
use std::io::{self, Read, Write};

use crate::error::BatchError;

mod snappy;

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Deflate with gzip's header and checksum.
    Gzip,
    /// Snappy: blocks in Java's framing, or one raw block as librdkafka sends it.
    Snappy,
    /// The LZ4 frame format.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// Every codec, in the order of their codes.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec an attribute field names.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The codec a configuration names. `uncompressed` is what topics call [`Compression::None`].
    pub fn from_name(name: &str) -> Option<Self> {
        let named = |codec: &Self| codec.name() == name;
        Self::ALL.into_iter().find(named).or((name == "uncompressed").then_some(Self::None))
    }

    /// The number in the attributes.
    pub fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The name in configurations and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Kafka's default for this codec's `level`; it means nothing for codecs without levels.
    pub fn level_default(self) -> i32 {
        match self {
            Self::None | Self::Snappy => 0,
            Self::Gzip => -1,
            Self::Lz4 => LZ4_LEVEL_DEFAULT,
            Self::Zstd => 3,
        }
    }

    /// What an error of this codec means to whoever reads the batch.
    pub(crate) fn failed(self, error: &io::Error, limit_bytes: usize) -> BatchError {
        if error.kind() == io::ErrorKind::FileTooLarge {
            return BatchError::TooBig { limit_bytes };
        }
        BatchError::Codec { codec: self, reason: error.to_string() }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Kafka's level for "the fast compressor"; other levels ask for the thorough one.
const LZ4_LEVEL_DEFAULT: i32 = 9;
/// The largest window any level of zstd writes. Beyond it a frame would need `--long` mode.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Reads what `stored` decompresses to. A codec that must decompress in one piece refuses pieces
/// over `limit_bytes`; whoever reads enforces the limit on the sum.
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
    opened.map_err(|e| codec.failed(&e, limit_bytes))
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
        .map_err(|e| codec.failed(&e, limit_bytes))?;
    if plain.len() > limit_bytes {
        return Err(BatchError::TooBig { limit_bytes });
    }
    Ok(plain)
}

/// Appends what `plain` compresses to.
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
    done.map_err(|e| codec.failed(&e, usize::MAX))
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

/// Blocks stand alone: Java's reader knows no others.
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
