//! Writes an object from batches.

use bytes::{BufMut, Bytes, BytesMut};
use ropewalk_batch::{BatchError, Header, StampedBatch};

use super::summary::{GrowingBlock, Order, Summary};
use super::{
    Block, END_MAGIC, EpochStart, Producer, TRAILER_BYTES, encode_header, header_bytes, reference,
};
use crate::content::Content;
use crate::identity::{Identity, Origin};
use crate::limits;
use crate::names::{Name, ObjectRef, PartitionKey};

/// Size in bytes of the pieces of a body. A batch is not split, so a piece may be larger.
const PIECE_BYTES: usize = 1 << 20;

/// Why an object is not written. Nothing of the encoder can be used afterwards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A batch is damaged, or does not follow the one before it.
    #[error("the batch at offset {base_offset} does not go into the object: {reason}")]
    Batch {
        /// Base offset of the batch.
        base_offset: i64,
        /// What is wrong with it.
        reason: BatchError,
    },
    /// There is no batch in the range, or the range ends before the last batch does.
    #[error(
        "offsets {base} to {end} are not the range of an object whose batches end at \
         {batches_end:?}"
    )]
    Range {
        /// First offset of the range.
        base: i64,
        /// Offset behind the range.
        end: i64,
        /// Offset behind the last batch.
        batches_end: Option<i64>,
    },
}

/// Whether a batch was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Push {
    /// The batch is in the object.
    Added,
    /// The object is at a bound of `limits.rs`, and the batch is not in it. The caller finishes
    /// this object and adds the batch to a next one, which always has room for it.
    Full,
}

/// An object that is being written. Holds a copy of all its bytes.
#[derive(Debug)]
pub struct Encoder {
    partition: PartitionKey,
    origin: Origin,
    base: i64,
    order: Order,
    summary: Summary,
    blocks: Vec<Block>,
    block: Option<GrowingBlock>,
    pieces: Vec<Bytes>,
    piece: BytesMut,
    body_at: u64,
    body_bytes: u64,
}

/// An object as it is put into a bucket.
#[derive(Debug, Clone)]
pub struct EncodedObject {
    /// The name, below the bucket's prefix.
    pub name: Name,
    /// What the manifest keeps.
    pub reference: ObjectRef,
    /// The bytes, in pieces of about 1 MiB.
    pub content: Content,
}

impl Encoder {
    /// An object of the range that begins with offset `base`.
    #[must_use]
    pub fn new(partition: PartitionKey, origin: Origin, base: i64) -> Self {
        Self {
            body_at: u64::from(header_bytes(&partition)),
            partition,
            origin,
            base,
            order: Order::new(base),
            summary: Summary::default(),
            blocks: Vec::new(),
            block: None,
            pieces: Vec::new(),
            piece: BytesMut::new(),
            body_bytes: 0,
        }
    }

    /// Adds the next batch, after its checksum was verified. The first batch contains the base
    /// offset of the range or is behind it.
    ///
    /// # Errors
    /// When the batch is damaged, its offsets overlap the batch before it, or its epoch is older.
    pub fn push(&mut self, batch: &StampedBatch) -> Result<Push, EncodeError> {
        let fail = |reason| EncodeError::Batch { base_offset: batch.base_offset, reason };
        Header::verify(&batch.bytes).map_err(fail)?;
        let header = batch.header();
        let size = batch.size_bytes();
        let is_full = self.body_bytes + size as u64 > limits::BODY_BYTES_MAX;
        if self.order.next().is_some() && (is_full || !self.summary.has_room_for(&header)) {
            return Ok(Push::Full);
        }
        if is_full {
            let limit_bytes = limits::BODY_BYTES_MAX as usize;
            return Err(fail(BatchError::TooBig { limit_bytes }));
        }
        self.order.follow(batch).map_err(fail)?;
        self.summary.add(&header);
        match &mut self.block {
            Some(block) if block.has_room_for(size) => block.add(batch, &header),
            full => {
                let position = self.body_at + self.body_bytes;
                let next = GrowingBlock::new(batch, &header, position);
                self.blocks.extend(full.replace(next).map(GrowingBlock::finish));
            }
        }
        if !self.piece.is_empty() && self.piece.len() + size > PIECE_BYTES {
            self.pieces.push(self.piece.split().freeze());
        }
        self.piece.put_slice(&batch.prefix());
        self.piece.put_slice(&batch.body());
        self.body_bytes += size as u64;
        Ok(Push::Added)
    }

    /// Bytes of the batches so far.
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// Offset behind the last batch; the base offset before the first one.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.order.next().unwrap_or(self.base)
    }

    /// Completes the object of the range up to `end`, usually [`Encoder::next_offset`]. Computes
    /// the SHA-256 of all bytes, some 50 ms for 64 MiB: not on a thread that serves others.
    ///
    /// # Errors
    /// When no batch was added, or the last one ends behind `end`.
    pub fn finish(mut self, end: i64) -> Result<EncodedObject, EncodeError> {
        let batches_end = self.order.next();
        if batches_end.is_none_or(|last| last > end || end <= self.base) || self.base < 0 {
            return Err(EncodeError::Range { base: self.base, end, batches_end });
        }
        self.blocks.extend(self.block.take().map(GrowingBlock::finish));
        let Self { partition, base, origin, .. } = self;
        let identity = Identity { partition, base, end, origin };
        let first_epoch = self.summary.epochs.first().map_or(0, |first| first.epoch);
        let mut reference = reference(&identity, &self.blocks, first_epoch);

        let front = encode_header(&identity);
        let epochs = std::mem::take(&mut self.summary.epochs);
        let footer = encode_footer(&front, &self.blocks, &epochs, &self.summary.producers());
        let mut pieces = vec![Bytes::from(front)];
        pieces.append(&mut self.pieces);
        pieces.push(self.piece.freeze());
        pieces.push(footer.into());

        let content = Content::new(pieces);
        reference.size_bytes = content.size_bytes();
        reference.digest = content.short();
        Ok(EncodedObject { name: reference.name(&identity.partition), reference, content })
    }
}

/// The footer and the trailer.
fn encode_footer(
    header: &[u8],
    blocks: &[Block],
    epochs: &[EpochStart],
    producers: &[Producer],
) -> Vec<u8> {
    let mut out = header.to_vec();
    out.extend((blocks.len() as u32).to_le_bytes());
    for block in blocks {
        out.extend(block.first_offset.to_le_bytes());
        out.extend(block.end_offset.to_le_bytes());
        out.extend(block.length.to_le_bytes());
        out.extend(block.max_timestamp_ms.to_le_bytes());
        out.extend(block.records.to_le_bytes());
        out.extend(block.crc.to_le_bytes());
    }
    out.extend((epochs.len() as u32).to_le_bytes());
    for epoch in epochs {
        out.extend(epoch.epoch.to_le_bytes());
        out.extend(epoch.start_offset.to_le_bytes());
    }
    out.extend((producers.len() as u32).to_le_bytes());
    for producer in producers {
        out.extend(producer.id.to_le_bytes());
        out.extend(producer.epoch.to_le_bytes());
        out.push(producer.batches.len() as u8);
        for batch in &producer.batches {
            out.extend(batch.first_sequence.to_le_bytes());
            out.extend(batch.last_sequence.to_le_bytes());
            out.extend(batch.base_offset.to_le_bytes());
            out.extend(batch.timestamp_ms.to_le_bytes());
        }
    }
    seal(out)
}

/// Adds the trailer to a footer.
pub(super) fn seal(mut footer: Vec<u8>) -> Vec<u8> {
    let crc = ropewalk_crc::of(&footer);
    footer.reserve_exact(TRAILER_BYTES);
    footer.extend((footer.len() as u32).to_le_bytes());
    footer.extend(crc.to_le_bytes());
    footer.extend(END_MAGIC);
    footer
}
