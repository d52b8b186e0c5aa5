//! Splits the stream into frames: four bytes of length, then as many bytes.
//!
//! Small frames pass through a scratch buffer of the thread; one that arrives complete is copied
//! out of it at its exact size. A large frame is read into its own buffer, together with the first
//! bytes of what follows it, so that pipelined requests take one call each and are not copied. Only
//! an incomplete frame holds memory of its connection, and that grows with the received bytes,
//! never with the announced length. Every frame has its own allocation, so a batch that stays in
//! memory pins no other frame.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::time::Instant;

use crate::limits;
use crate::listen::{Budget, Close, Lanes, Options, Permit, Service};

const LENGTH_BYTES: usize = 4;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; limits::READ_BYTES].into());
}

/// A complete frame without its length, and its share of the budget: empty if it is still to be
/// acquired.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) bytes: Bytes,
    pub(super) permit: Permit,
}

/// The result of a read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// Bytes were read, or the buffer has room for more.
    Some,
    /// The client closed its sending side.
    End,
}

/// The frame reader of one connection.
#[derive(Debug)]
pub(super) struct Frames {
    lanes: Lanes,
    service: Arc<dyn Service>,
    size_bytes_max: usize,
    time_max: Duration,
    whole: VecDeque<Frame>,
    whole_bytes: usize,
    /// The bytes of an incomplete length field, and their number.
    length: ([u8; LENGTH_BYTES], usize),
    partial: Option<PartialFrame>,
    /// When the incomplete frame was begun, or its reading resumed.
    begun: Option<Instant>,
    /// When the last bytes of the incomplete frame arrived.
    progressed: Instant,
    /// The largest frame that this connection has completed, up to a bound.
    trusted_bytes: usize,
    /// The size of the frame that was completed last. The next one is expected to be like it.
    last_bytes: usize,
}

#[derive(Debug)]
struct PartialFrame {
    /// The received bytes. With room for the whole frame it also has some for bytes beyond it.
    buffer: Vec<u8>,
    size_bytes: usize,
    permit: Permit,
    /// Whether the service has checked the API key and the size.
    is_checked: bool,
}

impl Frames {
    pub(super) fn new(lanes: Lanes, service: Arc<dyn Service>, options: &Options) -> Self {
        Self {
            lanes,
            service,
            size_bytes_max: options.frame_bytes_max,
            time_max: options.frame_time_max,
            whole: VecDeque::new(),
            whole_bytes: 0,
            length: ([0; LENGTH_BYTES], 0),
            partial: None,
            begun: None,
            progressed: Instant::now(),
            trusted_bytes: limits::FRAME_BYTES_FIRST,
            last_bytes: 0,
        }
    }

    /// The next complete frame. Its permit may still have to be acquired.
    pub(super) fn pop(&mut self) -> Option<Frame> {
        let frame = self.whole.pop_front()?;
        self.whole_bytes -= frame.bytes.len();
        if self.whole.is_empty() {
            self.whole = VecDeque::new();
        }
        Some(frame)
    }

    /// Discards everything that was read.
    pub(super) fn clear(&mut self) {
        self.whole = VecDeque::new();
        self.whole_bytes = 0;
        self.partial = None;
        self.begun = None;
    }

    pub(super) fn has_whole(&self) -> bool {
        !self.whole.is_empty()
    }

    /// Bytes that were read and not yet returned as frames.
    pub(super) fn buffered_bytes(&self) -> usize {
        self.whole_bytes + self.partial.as_ref().map_or(0, |partial| partial.buffer.len())
    }

    /// The deadline of the incomplete frame; `None` while the broker itself suspends reading.
    pub(super) fn due(&self) -> Option<Instant> {
        let size_bytes = match &self.partial {
            Some(partial) if partial.is_full() => return None,
            Some(partial) => partial.size_bytes,
            None => 0,
        };
        let due = self.begun? + limits::transfer_time_max(self.time_max, size_bytes);
        Some(due.min(self.progressed + self.time_max))
    }

    /// Resumes reading. The suspended time does not count against the client's deadline.
    pub(super) fn resume(&mut self, now: Instant) {
        if self.begun.is_some() {
            self.begun = Some(now);
            self.progressed = now;
        }
    }

    /// Waits for bytes and reads them once. Cancel safe.
    pub(super) async fn read(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Result<ReadOutcome, Close> {
        if let Some(partial) = &mut self.partial
            && partial.is_full()
        {
            partial.grow(self.lanes.to_read(partial.size_bytes)).await;
            self.resume(Instant::now());
        }
        let count = poll_fn(|cx| match &mut self.partial {
            Some(partial) if partial.is_direct() => {
                let count = ready!(partial.poll_read(stream, cx))?;
                partial.check(&*self.service)?;
                let beyond = self.finish_partial();
                Poll::Ready(self.cut(&beyond).map(|()| count))
            }
            Some(_) => self.poll_scratch(stream, cx, limits::READ_BYTES),
            None if self.last_bytes > limits::READ_BYTES => {
                self.poll_scratch(stream, cx, limits::READ_BYTES_BEFORE_LARGE)
            }
            None => self.poll_scratch(stream, cx, limits::READ_BYTES),
        });
        let count = count.await?;
        self.progressed = Instant::now();
        Ok(if count == 0 { ReadOutcome::End } else { ReadOutcome::Some })
    }

    /// Reads up to `bytes_max` into the scratch buffer and splits them. Returns their number.
    fn poll_scratch(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        bytes_max: usize,
    ) -> Poll<Result<usize, Close>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut target = ReadBuf::new(&mut scratch[..bytes_max]);
            ready!(Pin::new(stream).poll_read(cx, &mut target))?;
            let read = target.filled();
            Poll::Ready(self.cut(read).map(|()| read.len()))
        })
    }

    /// Splits the received bytes into frames, and keeps the incomplete rest.
    fn cut(&mut self, mut bytes: &[u8]) -> Result<(), Close> {
        if let Some(partial) = &mut self.partial {
            let (own, rest) = bytes.split_at(partial.missing().min(bytes.len()));
            partial.buffer.extend_from_slice(own);
            partial.check(&*self.service)?;
            self.finish_partial();
            bytes = rest;
        }
        while !bytes.is_empty() {
            let (length, have) = &mut self.length;
            let count = bytes.len().min(LENGTH_BYTES - *have);
            length[*have..*have + count].copy_from_slice(&bytes[..count]);
            *have += count;
            bytes = &bytes[count..];
            if *have < LENGTH_BYTES {
                self.begun.get_or_insert_with(Instant::now);
                return Ok(());
            }
            let size_bytes = checked_size(i32::from_be_bytes(*length), self.size_bytes_max)?;
            *have = 0;
            if let Some((frame, rest)) = bytes.split_at_checked(size_bytes) {
                self.push(Bytes::copy_from_slice(frame), Permit::default());
                bytes = rest;
            } else {
                let partial = self.begin_partial(size_bytes, bytes);
                self.partial.insert(partial).check(&*self.service)?;
                self.begun.get_or_insert_with(Instant::now);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Begins an incomplete frame. Its first allocation is small, unless this connection has
    /// completed large frames before.
    fn begin_partial(&self, size_bytes: usize, bytes: &[u8]) -> PartialFrame {
        let first = self.trusted_bytes.max(2 * bytes.len()).min(size_bytes);
        let mut permit = Permit::default();
        let budget = self.lanes.to_read(size_bytes);
        let capacity = if budget.try_extend(&mut permit, first) { first } else { bytes.len() };
        let beyond = if capacity == size_bytes { limits::READ_BYTES_BEYOND } else { 0 };
        let mut buffer = Vec::with_capacity(capacity + beyond);
        buffer.extend_from_slice(bytes);
        PartialFrame { buffer, size_bytes, permit, is_checked: false }
    }

    /// Completes the frame if all of it is received. Returns the bytes that were read beyond it.
    fn finish_partial(&mut self) -> Vec<u8> {
        let is_whole = |partial: &mut PartialFrame| partial.missing() == 0;
        let Some(mut partial) = self.partial.take_if(is_whole) else { return Vec::new() };
        let beyond = partial.buffer.split_off(partial.size_bytes);
        self.trusted_bytes =
            partial.size_bytes.clamp(self.trusted_bytes, limits::FRAME_BYTES_TRUSTED_MAX);
        let is_small = partial.size_bytes <= limits::SMALL_FRAME_BYTES_MAX;
        // Like a small frame that arrived complete, this one is counted again when its turn comes.
        let permit = if is_small { Permit::default() } else { partial.permit };
        self.push(partial.buffer.into(), permit);
        beyond
    }

    fn push(&mut self, bytes: Bytes, permit: Permit) {
        self.begun = None;
        self.last_bytes = bytes.len();
        self.whole_bytes += bytes.len();
        self.whole.push_back(Frame { bytes, permit });
    }
}

impl PartialFrame {
    fn missing(&self) -> usize {
        self.size_bytes.saturating_sub(self.buffer.len())
    }

    /// Whether the rest is read into the frame's own buffer, not through the scratch buffer.
    fn is_direct(&self) -> bool {
        self.size_bytes > limits::READ_BYTES || self.room() < self.missing()
    }

    /// Reads into the buffer, at most [`limits::READ_BYTES_BEYOND`] bytes beyond the frame.
    fn poll_read(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let room = self.room();
        let mut target = (&mut self.buffer).limit(room);
        pin!(stream.read_buf(&mut target)).poll(cx)
    }

    /// Checks the size of the request once its API key is received.
    fn check(&mut self, service: &dyn Service) -> Result<(), Close> {
        if !self.is_checked
            && let Some(key) = self.buffer.first_chunk()
        {
            self.is_checked = true;
            service.check_size(i16::from_be_bytes(*key), self.size_bytes)?;
        }
        Ok(())
    }

    fn room(&self) -> usize {
        let wanted = self.missing() + limits::READ_BYTES_BEYOND;
        (self.buffer.capacity() - self.buffer.len()).min(wanted)
    }

    fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// Doubles the buffer, up to the frame's size, as soon as the budget allows it.
    async fn grow(&mut self, budget: &Budget) {
        let more = self.buffer.len().max(limits::FRAME_BYTES_FIRST).min(self.missing());
        budget.extend(&mut self.permit, more).await;
        let beyond = if more == self.missing() { limits::READ_BYTES_BEYOND } else { 0 };
        self.buffer.reserve_exact(more + beyond);
    }
}

fn checked_size(length: i32, size_bytes_max: usize) -> Result<usize, Close> {
    let size_bytes = match usize::try_from(length) {
        Ok(size_bytes @ 1..) => size_bytes,
        _ => return Err(Close::FrameLength(length)),
    };
    if size_bytes > size_bytes_max {
        return Err(Close::FrameTooLarge { size_bytes, size_bytes_max });
    }
    Ok(size_bytes)
}
