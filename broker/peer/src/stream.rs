//! Reads and writes frames on QUIC streams.

use std::sync::Arc;

use bytes::Bytes;
use quinn::{ReadError, ReadExactError, RecvStream, SendStream, WriteError};
use ropewalk_shard::Payload;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::frame::{self, FrameError, LENGTH_BYTES, Lane, PREFACE_BYTES, Preface};
use crate::limits;

/// Buffers grow by at least so many bytes.
const GROWTH_BYTES: usize = 16 << 10;

/// A buffer grows to at most so many times the bytes that have arrived. Each growth copies them and
/// touches new memory: by doubling, a message of 1 MiB would be copied once more as a whole.
const GROWTH_FACTOR: usize = 16;

/// Why a stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// The stream or the connection has ended. That is no error of the peer's code.
    #[error(transparent)]
    Ended(#[from] ReadError),
    /// The peer sends what the protocol does not allow.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The stream ends inside a frame.
    #[error("a stream ends inside a frame")]
    CutOff,
}

/// A frame that was received.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) body: Bytes,
    /// Its share of the bytes that a connection receives at once.
    _share: Option<OwnedSemaphorePermit>,
}

impl Frame {
    /// Bytes of the frame with its length.
    pub(crate) fn bytes(&self) -> usize {
        LENGTH_BYTES + self.body.len()
    }
}

/// Reads a frame; `None` if the stream ends before it. The frame waits for its share of `budget`
/// before it is read.
pub(crate) async fn read_frame(
    stream: &mut RecvStream,
    lane: Lane,
    budget: Option<&Arc<Semaphore>>,
) -> Result<Option<Frame>, StreamError> {
    let Some(length) = read_array::<LENGTH_BYTES>(stream).await? else { return Ok(None) };
    let length = frame::decode_length(lane, length)?;
    let share = match budget {
        Some(budget) => {
            let bytes = u32::try_from(length).expect("a frame is bounded");
            let share = budget.clone().acquire_many_owned(bytes).await;
            Some(share.expect("the budget is never closed"))
        }
        None => None,
    };
    Ok(Some(Frame { body: read_body(stream, length).await?, _share: share }))
}

/// Reads the preface of a stream; `None` if the stream ends before it.
pub(crate) async fn read_preface(
    stream: &mut RecvStream,
    protocol: u16,
) -> Result<Option<Preface>, StreamError> {
    let Some(bytes) = read_array::<PREFACE_BYTES>(stream).await? else { return Ok(None) };
    Ok(Some(Preface::decode(bytes, protocol)?))
}

/// Reads a hello or its answer: a frame of at most [`limits::HELLO_BYTES_MAX`].
pub(crate) async fn read_hello(stream: &mut RecvStream) -> Result<Bytes, StreamError> {
    let length = read_array::<LENGTH_BYTES>(stream).await?.ok_or(StreamError::CutOff)?;
    let length = u32::from_le_bytes(length);
    match usize::try_from(length) {
        Ok(length) if length <= limits::HELLO_BYTES_MAX => read_body(stream, length).await,
        Ok(_) | Err(_) => Err(FrameError::Hello(length).into()),
    }
}

/// Writes a hello or its answer, and finishes the stream.
pub(crate) async fn write_hello(stream: &mut SendStream, body: Bytes) -> Result<(), WriteError> {
    let length = u32::try_from(body.len()).expect("a hello is bounded");
    stream.write_all(&length.to_le_bytes()).await?;
    stream.write_chunk(body).await?;
    // It fails only if the stream is closed, and then the peer has what it wants.
    let _ = stream.finish();
    Ok(())
}

async fn read_array<const N: usize>(
    stream: &mut RecvStream,
) -> Result<Option<[u8; N]>, StreamError> {
    let mut bytes = [0; N];
    match stream.read_exact(&mut bytes).await {
        Ok(()) => Ok(Some(bytes)),
        Err(ReadExactError::FinishedEarly(0)) => Ok(None),
        Err(ReadExactError::FinishedEarly(_)) => Err(StreamError::CutOff),
        Err(ReadExactError::ReadError(error)) => Err(error.into()),
    }
}

/// Reads `length` bytes. The buffer grows as they arrive, and ends with exactly this capacity.
async fn read_body(stream: &mut RecvStream, length: usize) -> Result<Bytes, StreamError> {
    let mut body = Vec::new();
    while body.len() < length {
        let left = length - body.len();
        let chunk = stream.read_chunk(left, true).await?.ok_or(StreamError::CutOff)?.bytes;
        if body.capacity() - body.len() < chunk.len() {
            body.reserve_exact(growth(body.len(), chunk.len(), left));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}

/// By how much a full buffer grows, when a chunk is the next of the bytes that are left.
fn growth(arrived: usize, chunk: usize, left: usize) -> usize {
    (arrived * (GROWTH_FACTOR - 1)).max(GROWTH_BYTES).max(chunk).min(left)
}

/// Why a frame is not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error(transparent)]
    Stream(#[from] WriteError),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Writes a frame without copying it. Returns its bytes with its length.
pub(crate) async fn write_frame(
    stream: &mut SendStream,
    lane: Lane,
    payload: &Payload,
) -> Result<usize, SendError> {
    let length = payload.len();
    let head = frame::encode_length(lane, length)?;
    let chunks = payload.chunks().iter().filter(|chunk| !chunk.is_empty()).cloned();
    let mut chunks: Vec<Bytes> = [head].into_iter().chain(chunks).collect();
    stream.write_all_chunks(&mut chunks).await?;
    Ok(LENGTH_BYTES + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The capacities that a buffer has had, and how many bytes moved with it, when a frame arrives
    /// in chunks of equal size.
    fn grown(length: usize, chunk: usize) -> (Vec<(usize, usize)>, usize) {
        let (mut capacity, mut arrived, mut moved) = (0, 0, 0);
        let mut grown = Vec::new();
        while arrived < length {
            let left = length - arrived;
            let chunk = chunk.min(left);
            if capacity - arrived < chunk {
                moved += arrived;
                capacity = arrived + growth(arrived, chunk, left);
                grown.push((arrived + chunk, capacity));
            }
            arrived += chunk;
        }
        assert_eq!(capacity, length, "no memory is left over");
        (grown, moved)
    }

    #[test]
    fn r1_a_length_sizes_no_allocation() {
        for chunk in [1, 1200, 6400, 70_000] {
            for length in [1, 5000, 100_000, limits::APPEND_FRAME_BYTES_MAX] {
                for (arrived, capacity) in grown(length, chunk).0 {
                    let most = GROWTH_BYTES.max(GROWTH_FACTOR * arrived);
                    assert!(capacity <= most, "{capacity} bytes for {arrived} of {length}");
                }
            }
        }
    }

    #[test]
    fn a_large_message_is_hardly_moved_while_its_buffer_grows() {
        let (grown, moved) = grown(1 << 20, 6400);
        assert!(grown.len() <= 4, "{grown:?}");
        assert!(moved <= (1 << 20) / 3, "{moved} bytes");
    }
}
