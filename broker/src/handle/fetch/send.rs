//! Sends the records of segments in pieces.
//!
//! A piece is some blocks, read into a buffer and verified. While one is sent the next is read, on
//! a thread that may block: one call for each piece, so a client that does not keep up holds its
//! pieces and no thread. The buffers are used again without being cleared, and the one that was
//! used last is used first, because it is still in the processor's cache.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use parking_lot::Mutex;
use ropewalk_codec::Part as WrittenPart;
use ropewalk_node::blocking::{self, Blocking};
use ropewalk_segment::{Piece, SegmentError, Stretch};
use ropewalk_store::log::Part;

use crate::limits;
use crate::listen::{Close, Permit, Reply, Rest};

/// Buffers of [`limits::ANSWER_PIECE_BYTES`] that are not in use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

/// A buffer in use. It is returned to the idle ones when it is dropped.
struct Buffer {
    bytes: Vec<u8>,
    idle: Buffers,
}

impl Buffers {
    /// A buffer of at least this size. Only one for an oversized batch is allocated for it.
    fn take(&self, size_bytes: usize) -> Buffer {
        let usual = limits::ANSWER_PIECE_BYTES;
        let kept = if size_bytes <= usual { self.0.lock().pop() } else { None };
        let bytes = kept.unwrap_or_else(|| vec![0; size_bytes.max(usual)]);
        Buffer { bytes, idle: self.clone() }
    }

    /// Reads and verifies a piece.
    fn read(&self, stretch: &Stretch, piece: &Piece) -> Result<Bytes, SegmentError> {
        let mut buffer = self.take(stretch.buffer_bytes(piece));
        let range = stretch.read(piece, &mut buffer.bytes)?;
        Ok(Bytes::from_owner(buffer).slice(range))
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut idle = self.idle.0.lock();
        let is_usual = self.bytes.len() == limits::ANSWER_PIECE_BYTES;
        if is_usual && idle.len() < limits::IDLE_BUFFERS_MAX {
            idle.push(mem::take(&mut self.bytes));
        }
    }
}

/// Records in the order in which they are sent.
#[derive(Debug, Default)]
pub(super) struct Queue(VecDeque<Item>);

#[derive(Debug)]
enum Item {
    Bytes(Bytes),
    /// A stretch, and the piece of it that was read last.
    Stretch(Arc<Stretch>, Option<Piece>),
}

impl From<Vec<Part>> for Queue {
    fn from(parts: Vec<Part>) -> Self {
        let item = |part| match part {
            Part::Memory(bytes) => Item::Bytes(bytes),
            Part::Segment(stretch) => Item::Stretch(Arc::new(stretch), None),
        };
        Self(parts.into_iter().map(item).collect())
    }
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes that are in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        let size = |item: &Item| match item {
            Item::Bytes(bytes) => bytes.len(),
            Item::Stretch(..) => 0,
        };
        self.0.iter().map(size).sum()
    }

    /// Size of the two buffers that sending these needs at once, before any piece is read.
    pub(super) fn buffers_bytes<'a>(queues: impl Iterator<Item = &'a Self>) -> usize {
        let stretches = queues.flat_map(|queue| &queue.0).filter_map(|item| match item {
            Item::Bytes(_) => None,
            Item::Stretch(stretch, _) => Some(stretch),
        });
        let (mut count, mut largest) = (0_usize, limits::ANSWER_PIECE_BYTES);
        for stretch in stretches {
            let mut piece = next_piece(stretch, None);
            while let Some(next) = piece {
                count += 1;
                largest = largest.max(stretch.buffer_bytes(&next));
                piece = next_piece(stretch, Some(&next));
            }
        }
        count.min(2) * largest
    }

    /// Reads the first piece of the first stretch. Returns whether there is one.
    pub(super) fn read_first(&mut self, buffers: &Buffers) -> Result<bool, SegmentError> {
        let Some((stretch, piece)) = self.next() else { return Ok(false) };
        let bytes = buffers.read(&stretch, &piece)?;
        self.put(piece, bytes);
        Ok(true)
    }

    /// The piece that has to be read next.
    fn next(&self) -> Option<(Arc<Stretch>, Piece)> {
        self.0.iter().find_map(|item| match item {
            Item::Bytes(_) => None,
            Item::Stretch(stretch, read) => {
                Some((Arc::clone(stretch), next_piece(stretch, read.as_ref())?))
            }
        })
    }

    /// Puts the bytes of the piece that was read in its place.
    fn put(&mut self, piece: Piece, bytes: Bytes) {
        let place = self.0.iter().position(|item| matches!(item, Item::Stretch(..)));
        let place = place.expect("the piece is of the first stretch");
        if let Item::Stretch(stretch, read) = &mut self.0[place] {
            let is_last = next_piece(stretch, Some(&piece)).is_none();
            *read = Some(piece);
            if is_last {
                self.0[place] = Item::Bytes(bytes);
            } else {
                self.0.insert(place, Item::Bytes(bytes));
            }
        }
    }

    /// Takes what is in memory in front of the first stretch.
    fn take_ready(&mut self) -> Vec<Bytes> {
        let mut ready = Vec::new();
        while let Some(item) = self.0.pop_front() {
            match item {
                Item::Bytes(bytes) => ready.push(bytes),
                Item::Stretch(..) => {
                    self.0.push_front(item);
                    break;
                }
            }
        }
        ready
    }
}

fn next_piece(stretch: &Stretch, read: Option<&Piece>) -> Option<Piece> {
    stretch.piece_after(read, limits::ANSWER_PIECE_BYTES)
}

/// The records of a response that are read while it is sent.
#[derive(Debug)]
pub(crate) struct Later {
    /// Of each partition with such records, in the order of the response.
    queues: Vec<Queue>,
    buffers: Buffers,
    share: Arc<Permit>,
}

impl Later {
    pub(super) fn new(queues: Vec<Queue>, buffers: Buffers, share: Arc<Permit>) -> Self {
        Self { queues, buffers, share }
    }

    /// Fills the places of a response's records. Begins to read the next piece at once.
    pub(crate) fn reply(self, parts: Vec<WrittenPart>, held: Vec<Arc<Permit>>) -> Reply {
        let mut queues = self.queues.into_iter();
        let (mut queue, mut size_bytes) = (Queue::default(), 0);
        for part in parts {
            match part {
                WrittenPart::Bytes(bytes) => {
                    size_bytes += bytes.len();
                    queue.0.push_back(Item::Bytes(bytes));
                }
                WrittenPart::Later(later_bytes) => {
                    size_bytes += later_bytes;
                    queue.0.extend(queues.next().expect("each place has its records").0);
                }
            }
        }
        let chunks = queue.take_ready();
        let size_bytes = size_bytes - chunks.iter().map(Bytes::len).sum::<usize>();
        let mut sending = Sending { queue, next: None, buffers: self.buffers, share: self.share };
        sending.read_on();
        let pieces = stream::try_unfold(sending, Sending::step).boxed();
        Reply { chunks, rest: (size_bytes > 0).then_some(Rest { size_bytes, pieces }), held }
    }
}

/// The rest of a response.
struct Sending {
    queue: Queue,
    /// The piece that is being read.
    next: Option<Blocking<Result<(Piece, Bytes), SegmentError>>>,
    buffers: Buffers,
    /// Held by each read as well, which may outlive the connection.
    share: Arc<Permit>,
}

impl Sending {
    /// Begins to read the next piece, if there is one.
    fn read_on(&mut self) {
        let (buffers, share) = (self.buffers.clone(), Arc::clone(&self.share));
        self.next = self.queue.next().map(|(stretch, piece)| {
            blocking::start(move || {
                let bytes = buffers.read(&stretch, &piece);
                drop(share);
                Ok((piece, bytes?))
            })
        });
    }

    /// Waits for the piece that is being read, and begins to read the one after it.
    async fn step(mut self) -> Result<Option<(Vec<Bytes>, Self)>, Close> {
        if let Some(next) = self.next.take() {
            let read = next.await.map_err(Close::Panicked)?;
            let (piece, bytes) = read.map_err(|error| {
                tracing::warn!(%error, "records that an answer has promised cannot be read");
                Close::AnswerBroken(error.to_string())
            })?;
            self.queue.put(piece, bytes);
            self.read_on();
        }
        let ready = self.queue.take_ready();
        Ok((!ready.is_empty()).then_some((ready, self)))
    }
}
