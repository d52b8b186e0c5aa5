//! The codecs of record batches: codes, names, levels.

use std::fmt;

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// No compression at all.
    #[default]
    None,
    /// Deflate with gzip's header and checksum.
    Gzip,
    /// Snappy: blocks in Java's framing, or one raw block as librdkafka sends it.
    Snappy,
    /// The LZ4 frame format.
    Lz4,
    /// The Zstandard frame format.
    Zstd,
}

impl Compression {
    /// Every codec, in the order of their codes.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec with this code in the attributes.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The codec with this name in a configuration. Topics call [`Compression::None`]
    /// `uncompressed`.
    pub fn from_name(name: &str) -> Option<Self> {
        let named = |codec: &Self| codec.name() == name;
        Self::ALL.into_iter().find(named).or((name == "uncompressed").then_some(Self::None))
    }

    /// The code in the attributes of a batch.
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

    /// Kafka's default for this codec's `level`; unused for codecs without levels.
    pub fn level_default(self) -> i32 {
        match self {
            Self::None | Self::Snappy => 0,
            Self::Gzip => -1,
            Self::Lz4 => LZ4_LEVEL_DEFAULT,
            Self::Zstd => 3,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Kafka's default level, for which the fast compressor is used; any other level selects the
/// high-compression one.
pub(crate) const LZ4_LEVEL_DEFAULT: i32 = 9;
