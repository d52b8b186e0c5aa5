//! What the formats of this crate share: little-endian fields, and why bytes are refused.
//!
//! Invariant: no length or count that was read sizes an allocation before it is known to fit into
//! the bytes that are there.

use uuid::Uuid;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes begin or end with something else.
    #[error("this is no {what} of ropewalk: the magic bytes are missing")]
    Magic {
        /// What was expected.
        what: &'static str,
    },
    /// A newer broker wrote this. It is not damaged.
    #[error(
        "the {what} has version {found} of its format, this broker reads up to {newest}: \
         use the version of the broker that wrote it, or a later one"
    )]
    Version {
        /// What has the version.
        what: &'static str,
        /// The version in the bytes.
        found: u32,
        /// The newest version that this code reads.
        newest: u32,
    },
    /// There are fewer bytes than the fields need.
    #[error("the {what} is cut off")]
    Short {
        /// What is cut off.
        what: &'static str,
    },
    /// The checksum does not match the bytes.
    #[error("the checksum of the {what} is wrong")]
    Checksum {
        /// What has the checksum.
        what: &'static str,
    },
    /// The checksum of a block does not match its bytes.
    #[error("the checksum of block {block} is wrong, offsets {first_offset} to {end_offset}")]
    Block {
        /// Number of the block in its object, from 0.
        block: usize,
        /// First offset of the block.
        first_offset: i64,
        /// Offset behind the block.
        end_offset: i64,
    },
    /// A bound of `limits.rs` is exceeded.
    #[error("the {what} is {found}, over the limit of {limit}")]
    Bound {
        /// What is bounded.
        what: &'static str,
        /// The value in the bytes.
        found: u64,
        /// The bound in `limits.rs`.
        limit: u64,
    },
    /// The checksums match, but the contents contradict themselves or their name.
    #[error("the {what} is invalid: {why}")]
    Invalid {
        /// What is invalid.
        what: &'static str,
        /// What contradicts what.
        why: String,
    },
}

impl FormatError {
    pub(crate) fn invalid(what: &'static str, why: impl Into<String>) -> Self {
        Self::Invalid { what, why: why.into() }
    }
}

/// What is around the fields of a whole object of the bucket: magic bytes and version in front, and
/// a CRC-32C of all bytes before it at the end.
pub(crate) struct Frame {
    /// The name of the whole in errors.
    pub(crate) what: &'static str,
    pub(crate) magic: &'static [u8; 8],
    pub(crate) version: u32,
}

impl Frame {
    /// Size of magic and version.
    pub(crate) const FRONT_BYTES: usize = 8 + 4;

    /// The fields, after magic, version and checksum were checked in this order.
    pub(crate) fn open<'a>(&self, bytes: &'a [u8]) -> Result<Fields<'a>, FormatError> {
        let Self { what, magic, version } = *self;
        if !bytes.starts_with(magic) {
            return Err(FormatError::Magic { what });
        }
        let found = Fields::new(what, &bytes[magic.len()..]).u32()?;
        if found != version {
            return Err(FormatError::Version { what, found, newest: version });
        }
        let (summed, crc) = bytes.split_last_chunk::<4>().map_or((bytes, &[0; 4]), |split| split);
        if ropewalk_crc::of(summed).to_le_bytes() != *crc {
            return Err(FormatError::Checksum { what });
        }
        Ok(Fields::new(what, summed.get(Self::FRONT_BYTES..).unwrap_or_default()))
    }

    /// Adds magic, version and checksum to the bytes of the fields.
    #[cfg(feature = "testing")]
    pub(crate) fn seal(&self, fields: &[u8]) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(fields);
        out.extend(ropewalk_crc::of(&out).to_le_bytes());
        out
    }
}

/// Reads fields one after the other.
pub(crate) struct Fields<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// `what` is the name of the whole in errors.
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    pub(crate) fn take(&mut self, bytes: usize) -> Result<&'a [u8], FormatError> {
        let (taken, rest) =
            self.rest.split_at_checked(bytes).ok_or(FormatError::Short { what: self.what })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (taken, rest) =
            self.rest.split_first_chunk().ok_or(FormatError::Short { what: self.what })?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        self.array().map(u8::from_le_bytes)
    }

    /// A byte that is 0 or 1.
    pub(crate) fn flag(&mut self) -> Result<bool, FormatError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            byte => Err(FormatError::invalid(self.what, format!("a flag of it is {byte}"))),
        }
    }

    pub(crate) fn uuid(&mut self) -> Result<Uuid, FormatError> {
        self.array().map(Uuid::from_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i16(&mut self) -> Result<i16, FormatError> {
        self.array().map(i16::from_le_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, FormatError> {
        self.array().map(i32::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, FormatError> {
        self.array().map(i64::from_le_bytes)
    }

    /// A number of elements of at least `bytes_each`, at most `limit`, that fit into the rest.
    pub(crate) fn count(
        &mut self,
        what: &'static str,
        bytes_each: usize,
        limit: u32,
    ) -> Result<usize, FormatError> {
        let count = self.u32()?;
        if count > limit {
            let (found, limit) = (u64::from(count), u64::from(limit));
            return Err(FormatError::Bound { what, found, limit });
        }
        if count as usize > self.rest.len() / bytes_each {
            return Err(FormatError::Short { what: self.what });
        }
        Ok(count as usize)
    }

    /// Refuses bytes behind the last field.
    pub(crate) fn finish(self) -> Result<(), FormatError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(FormatError::invalid(self.what, format!("{} bytes follow its end", self.rest.len())))
    }
}
