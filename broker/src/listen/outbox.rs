//! Responses waiting for the socket: chunks that are written with vectored writes and never joined.
//!
//! The rest of a response that is read while it is sent is asked for piece by piece, each when the
//! one before has left. A piece that cannot be read ends the connection, because the client expects
//! the bytes that the length of the frame has promised.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::limits;
use crate::listen::{Close, Permit, Reply, Rest};

/// Most chunks of one write.
const SLICES_MAX: usize = 64;

/// The chunks to write.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    chunks: VecDeque<Bytes>,
    /// Size of the chunks.
    size_bytes: usize,
    rest: Option<Rest>,
    /// Budget shares of the responses, held until they are sent.
    held: Vec<Arc<Permit>>,
}

impl Outbox {
    pub(super) fn push(&mut self, reply: Reply) {
        debug_assert!(self.is_open(), "the rest of a response leaves before the next one");
        self.held.extend(reply.held);
        self.add(reply.chunks);
        self.rest = reply.rest;
    }

    /// Bytes that were not sent, those that are not read yet included.
    pub(super) fn size_bytes(&self) -> usize {
        self.size_bytes + self.rest.as_ref().map_or(0, |rest| rest.size_bytes)
    }

    /// Whether another response may follow.
    pub(super) fn is_open(&self) -> bool {
        self.rest.is_none()
    }

    fn add(&mut self, chunks: Vec<Bytes>) {
        for chunk in chunks.into_iter().filter(|chunk| !chunk.is_empty()) {
            self.size_bytes += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    /// Writes everything. Fails if the client receives nothing for `time_max` or is too slow
    /// overall, or if the rest cannot be read.
    pub(super) async fn flush(
        &mut self,
        stream: &TcpStream,
        time_max: Duration,
    ) -> Result<(), Close> {
        let mut due = None;
        loop {
            self.write_all(stream, time_max, &mut due).await?;
            let Some(rest) = &mut self.rest else { break };
            match rest.pieces.next().await.transpose()? {
                Some(chunks) => {
                    let read_bytes: usize = chunks.iter().map(Bytes::len).sum();
                    let left = rest.size_bytes.checked_sub(read_bytes);
                    rest.size_bytes = left.ok_or_else(|| broken("it is too long"))?;
                    self.add(chunks);
                }
                None if rest.size_bytes > 0 => return Err(broken("it is too short")),
                None => self.rest = None,
            }
        }
        // Frees the memory, so that an idle connection holds none.
        self.chunks = VecDeque::new();
        self.held = Vec::new();
        Ok(())
    }

    /// Writes the chunks. `due` is when the client must have received the whole response, set when
    /// it first does not keep up.
    async fn write_all(
        &mut self,
        stream: &TcpStream,
        time_max: Duration,
        due: &mut Option<Instant>,
    ) -> Result<(), Close> {
        if self.write(stream)? {
            return Ok(());
        }
        let now = Instant::now();
        let size_bytes = self.size_bytes();
        let due = *due.get_or_insert_with(|| now + limits::transfer_time_max(time_max, size_bytes));
        let mut stalled_due = now + time_max;
        loop {
            let writable = timeout_at(due.min(stalled_due), stream.writable()).await;
            writable.map_err(|_| Close::AnswerNotTaken)??;
            let before = self.size_bytes;
            if self.write(stream)? {
                return Ok(());
            }
            if self.size_bytes < before {
                stalled_due = Instant::now() + time_max;
            }
        }
    }

    /// Writes until the queue is empty (true) or the socket is full.
    fn write(&mut self, stream: &TcpStream) -> Result<bool, Close> {
        while self.size_bytes > 0 {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = slices.iter_mut().zip(&self.chunks).map(|(slice, chunk)| {
                *slice = IoSlice::new(chunk);
            });
            let count = count.count();
            match stream.try_write_vectored(&slices[..count]) {
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    fn advance(&mut self, mut written: usize) {
        self.size_bytes -= written;
        while let Some(first) = self.chunks.front_mut() {
            if first.len() > written {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.chunks.pop_front();
        }
    }
}

fn broken(what: &str) -> Close {
    Close::AnswerBroken(what.to_owned())
}
