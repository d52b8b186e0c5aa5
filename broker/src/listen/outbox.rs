//! Responses waiting for the socket: chunks that are written with vectored writes and never joined.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::limits;
use crate::listen::{Close, Permit, Reply};

/// Most chunks of one write.
const SLICES_MAX: usize = 64;

/// The chunks to write.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    chunks: VecDeque<Bytes>,
    size_bytes: usize,
    /// Budget shares of the responses, held until they are sent.
    held: Vec<Permit>,
}

impl Outbox {
    pub(super) fn push(&mut self, reply: Reply) {
        self.held.extend(reply.held);
        let chunks = reply.chunks.into_iter().filter(|chunk| !chunk.is_empty());
        for chunk in chunks {
            self.size_bytes += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Writes everything. Fails if the client receives nothing for `time_max` or is too slow
    /// overall.
    pub(super) async fn flush(
        &mut self,
        stream: &TcpStream,
        time_max: Duration,
    ) -> Result<(), Close> {
        if self.write(stream)? {
            return Ok(());
        }
        let now = Instant::now();
        let due = now + limits::transfer_time_max(time_max, self.size_bytes);
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
        // Frees the memory, so that an idle connection holds none.
        self.chunks = VecDeque::new();
        self.held = Vec::new();
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
