//! Reads the footer of an object, and finds blocks by it.

use std::ops::Range;

use super::{
    BLOCK_BYTES, Block, END_MAGIC, EPOCH_BYTES, EpochStart, PRODUCER_BATCH_BYTES,
    PRODUCER_BYTES_MIN, Producer, ProducerBatch, TRAILER_BYTES, decode_header,
};
use crate::format::{Fields, FormatError};
use crate::identity::Identity;
use crate::limits;
use crate::names::{Kind, Name, ObjectRef};

const WHAT: &str = "footer of the object";

/// What an object contains, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    /// Partition, range and origin.
    pub identity: Identity,
    /// Size of the whole object.
    pub size_bytes: u64,
    /// The blocks, ascending by offset and position, without gaps in position. At least one.
    pub blocks: Vec<Block>,
    /// The leader epochs, ascending. At least one.
    pub epochs: Vec<EpochStart>,
    /// The idempotent producers, ascending by id.
    pub producers: Vec<Producer>,
}

/// What the end of an object gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tail {
    /// The footer, verified.
    Footer(Box<Footer>),
    /// The footer begins at this position of the object, before the bytes that were given. The
    /// caller reads everything from there on, and calls [`read_tail`] again.
    From(u64),
}

/// The positions that a reader fetches first from an object of this size.
#[must_use]
pub fn tail_range(size_bytes: u64) -> Range<u64> {
    size_bytes.saturating_sub(limits::TAIL_BYTES)..size_bytes
}

/// Reads the footer from the last bytes of the object that is called `name` and has `size_bytes`.
///
/// # Errors
/// When the bytes are damaged, of another object, or of a newer version.
pub fn read_tail(tail: &[u8], name: &Name, size_bytes: u64) -> Result<Tail, FormatError> {
    let (rest, trailer) = tail
        .split_last_chunk::<TRAILER_BYTES>()
        .ok_or(FormatError::Short { what: "trailer of the object" })?;
    let mut fields = Fields::new("trailer of the object", trailer);
    let (footer_bytes, crc) = (fields.u32()?, fields.u32()?);
    if fields.take(END_MAGIC.len())? != END_MAGIC {
        return Err(FormatError::Magic { what: "object" });
    }
    if footer_bytes > limits::FOOTER_BYTES_MAX {
        let (found, limit) = (u64::from(footer_bytes), u64::from(limits::FOOTER_BYTES_MAX));
        return Err(FormatError::Bound { what: "size of the footer", found, limit });
    }
    let footer_at = size_bytes
        .checked_sub(u64::from(footer_bytes) + TRAILER_BYTES as u64)
        .ok_or(FormatError::Short { what: "object" })?;
    let Some((_, footer)) = split_last(rest, footer_bytes as usize) else {
        return if tail.len() as u64 >= size_bytes {
            Err(FormatError::Short { what: WHAT })
        } else {
            Ok(Tail::From(footer_at))
        };
    };
    if ropewalk_crc::of(footer) != crc {
        return Err(FormatError::Checksum { what: WHAT });
    }
    let footer = Footer::decode(footer, footer_at, size_bytes)?;
    footer.identity.expect("object", Kind::Object, name)?;
    Ok(Tail::Footer(Box::new(footer)))
}

fn split_last(bytes: &[u8], count: usize) -> Option<(&[u8], &[u8])> {
    bytes.len().checked_sub(count).map(|at| bytes.split_at(at))
}

impl Footer {
    fn decode(bytes: &[u8], footer_at: u64, size_bytes: u64) -> Result<Self, FormatError> {
        let (identity, header_bytes) = decode_header(bytes)?;
        let mut fields = Fields::new(WHAT, &bytes[header_bytes..]);
        let blocks = decode_blocks(&mut fields, header_bytes as u64)?;
        let count = fields.count("number of epochs", EPOCH_BYTES, limits::EPOCHS_MAX)?;
        let epochs = (0..count)
            .map(|_| Ok(EpochStart { epoch: fields.i32()?, start_offset: fields.i64()? }))
            .collect::<Result<Vec<_>, FormatError>>()?;
        let producers = decode_producers(&mut fields)?;
        fields.finish()?;
        let footer = Self { identity, size_bytes, blocks, epochs, producers };
        footer.check(footer_at)?;
        Ok(footer)
    }

    /// Refuses blocks and epochs that contradict the range.
    fn check(&self, footer_at: u64) -> Result<(), FormatError> {
        let invalid = |why: String| Err(FormatError::invalid(WHAT, why));
        let (Some(first), Some(last)) = (self.blocks.first(), self.blocks.last()) else {
            return invalid("it has no blocks".to_owned());
        };
        let ascend = self.blocks.windows(2).all(|pair| pair[0].end_offset <= pair[1].first_offset);
        let each = self.blocks.iter().all(|block| block.first_offset < block.end_offset);
        let is_inside = 0 <= first.first_offset
            && first.end_offset > self.identity.base
            && last.end_offset <= self.identity.end;
        if !(ascend && each && is_inside) {
            return invalid("its blocks are not in the order of offsets in its range".to_owned());
        }
        if block_end(last) != footer_at {
            return invalid("its blocks do not end where it begins".to_owned());
        }
        let mut starts = self.epochs.iter();
        let begins = starts.next().is_some_and(|start| start.start_offset == first.first_offset);
        let ascend = self.epochs.windows(2).all(|pair| {
            pair[0].epoch < pair[1].epoch && pair[0].start_offset < pair[1].start_offset
        });
        let ends = self.epochs.last().is_some_and(|start| start.start_offset < last.end_offset);
        if !(begins && ascend && ends) {
            return invalid("its epochs are not those of its range".to_owned());
        }
        if !self.producers.windows(2).all(|pair| pair[0].id < pair[1].id) {
            return invalid("its producers do not ascend".to_owned());
        }
        Ok(())
    }

    /// Without the producers, which only a restore needs: for a cache.
    #[must_use]
    pub fn without_producers(mut self) -> Self {
        self.producers = Vec::new();
        self
    }

    /// Bytes that this footer takes in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let producers: usize = self
            .producers
            .iter()
            .map(|p| size_of::<Producer>() + p.batches.capacity() * size_of::<ProducerBatch>())
            .sum();
        size_of::<Self>()
            + self.identity.partition.cluster.as_str().len()
            + self.blocks.capacity() * size_of::<Block>()
            + self.epochs.capacity() * size_of::<EpochStart>()
            + producers
    }

    /// Number of the first block that has records at or behind `offset`; `None` if there is none.
    /// In a gap that is the block behind it.
    #[must_use]
    pub fn block_at_offset(&self, offset: i64) -> Option<usize> {
        let at = self.blocks.partition_point(|block| block.end_offset <= offset);
        (at < self.blocks.len()).then_some(at)
    }

    /// Number of the first block from `from` on that has a record with this timestamp or a later
    /// one. Timestamps need not ascend: "first" is by offset.
    #[must_use]
    pub fn block_at_timestamp(&self, from: usize, timestamp_ms: i64) -> Option<usize> {
        let mut blocks = self.blocks.iter().enumerate().skip(from);
        blocks.find(|(_, block)| block.max_timestamp_ms >= timestamp_ms).map(|(at, _)| at)
    }

    /// As many blocks from `first` on as have at most `bytes_max` together, but at least one if
    /// there is one.
    #[must_use]
    pub fn run(&self, first: usize, bytes_max: u64) -> Range<usize> {
        let behind = self.blocks.get(first..).unwrap_or_default();
        let Some(start) = behind.first() else { return first..first };
        let fit = behind.partition_point(|block| block_end(block) - start.position <= bytes_max);
        first..first + fit.max(1)
    }

    /// The positions of some blocks in the object.
    ///
    /// # Panics
    /// When there are no such blocks, or the range is empty.
    #[must_use]
    pub fn positions(&self, blocks: Range<usize>) -> Range<u64> {
        let blocks = &self.blocks[blocks];
        let (first, last) = (blocks.first(), blocks.last());
        let (first, last) = first.zip(last).expect("the range of blocks is not empty");
        first.position..block_end(last)
    }

    /// Verifies the bytes of some blocks, those of [`Footer::positions`].
    ///
    /// # Errors
    /// Names the first block whose checksum is wrong, or says that the bytes are too few or many.
    ///
    /// # Panics
    /// When there are no such blocks.
    pub fn verify_blocks(&self, blocks: Range<usize>, bytes: &[u8]) -> Result<(), FormatError> {
        let mut fields = Fields::new("body of the object", bytes);
        for (at, block) in self.blocks[blocks.clone()].iter().enumerate() {
            if ropewalk_crc::of(fields.take(block.length as usize)?) != block.crc {
                let Block { first_offset, end_offset, .. } = *block;
                let block = blocks.start + at;
                return Err(FormatError::Block { block, first_offset, end_offset });
            }
        }
        fields.finish()
    }

    /// What a manifest keeps of this object, with the digest from its name: to write a manifest
    /// again from a list of the bucket.
    #[must_use]
    pub fn reference(&self, digest: u64) -> ObjectRef {
        let first_epoch = self.epochs.first().map_or(0, |first| first.epoch);
        let size_bytes = self.size_bytes;
        ObjectRef {
            size_bytes,
            digest,
            ..super::reference(&self.identity, &self.blocks, first_epoch)
        }
    }
}

fn block_end(block: &Block) -> u64 {
    block.position + u64::from(block.length)
}

fn decode_blocks(fields: &mut Fields<'_>, body_at: u64) -> Result<Vec<Block>, FormatError> {
    let count = fields.count("number of blocks", BLOCK_BYTES, limits::BLOCKS_MAX)?;
    let mut blocks = Vec::with_capacity(count);
    let mut position = body_at;
    for _ in 0..count {
        let block = Block {
            first_offset: fields.i64()?,
            end_offset: fields.i64()?,
            position,
            length: fields.u32()?,
            max_timestamp_ms: fields.i64()?,
            records: fields.u32()?,
            crc: fields.u32()?,
        };
        if block.length == 0 {
            return Err(FormatError::invalid(WHAT, "a block is empty"));
        }
        position = block_end(&block);
        blocks.push(block);
    }
    Ok(blocks)
}

fn decode_producers(fields: &mut Fields<'_>) -> Result<Vec<Producer>, FormatError> {
    let count = fields.count("number of producers", PRODUCER_BYTES_MIN, limits::PRODUCERS_MAX)?;
    let mut producers = Vec::with_capacity(count);
    for _ in 0..count {
        let (id, epoch, batches) = (fields.i64()?, fields.i16()?, usize::from(fields.u8()?));
        if batches == 0 || batches > limits::PRODUCER_BATCHES_MAX {
            let why = format!("producer {id} has {batches} batches");
            return Err(FormatError::invalid(WHAT, why));
        }
        let mut bytes = Fields::new(WHAT, fields.take(batches * PRODUCER_BATCH_BYTES)?);
        let batches = (0..batches)
            .map(|_| {
                Ok(ProducerBatch {
                    first_sequence: bytes.i32()?,
                    last_sequence: bytes.i32()?,
                    base_offset: bytes.i64()?,
                    timestamp_ms: bytes.i64()?,
                })
            })
            .collect::<Result<Vec<_>, FormatError>>()?;
        producers.push(Producer { id, epoch, batches });
    }
    Ok(producers)
}
