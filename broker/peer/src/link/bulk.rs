//! Requests and answers of the bulk lane: a stream for each request.

use bytes::Bytes;
use quinn::{ReadError, RecvStream, SendStream, VarInt};
use ropewalk_shard::{Payload, ShardId};

use super::Shared;
use crate::frame::{FrameError, Lane, Preface};
use crate::queue::Next;
use crate::queue::bulk::{Request, RequestError};
use crate::stream::{SendError, StreamError, read_frame, read_preface, write_frame};
use crate::tasks::Tasks;

/// The error code with which a stream is reset instead of an answer, or of the rest of a request.
const REFUSED: u32 = 1;

/// Starts a task for each request that waits.
pub(super) async fn send(shared: Shared) {
    let mut tasks = Tasks::default();
    loop {
        let next = shared.peer.bulk.lock().take(shared.id);
        match next {
            Next::Send(request) => {
                tasks.start(ask(shared.clone(), request));
            }
            Next::Wait(ready) => {
                tokio::select! {
                    () = ready.notified() => {}
                    panic = tasks.panicked() => shared.fail(&panic),
                }
            }
            Next::Ended => return,
        }
    }
}

async fn ask(shared: Shared, mut request: Request) {
    let answer = tokio::select! {
        answer = exchange(&shared, &request.payload) => answer,
        // Dropping the streams ends the request at the peer.
        () = request.answer.closed() => return,
    };
    request.finish(answer);
}

/// A request that is being written. A stream that is dropped ends as if it were complete, so one
/// that is not complete is reset.
struct Outgoing {
    stream: SendStream,
    is_complete: bool,
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.is_complete {
            // It fails only if the peer has stopped the stream.
            let _ = self.stream.reset(VarInt::from_u32(REFUSED));
        }
    }
}

async fn exchange(shared: &Shared, request: &Payload) -> Result<Bytes, RequestError> {
    let opened = shared.connection.open_bi().await;
    let (send, mut receive) = opened.map_err(|_| RequestError::Disconnected)?;
    let mut send = Outgoing { stream: send, is_complete: false };
    let preface = Preface { protocol: shared.protocol, lane: Lane::Bulk, shard: ShardId::CATALOG };
    let written = match send.stream.write_chunk(preface.encode()).await {
        Ok(()) => write_frame(&mut send.stream, Lane::Bulk, request).await,
        Err(error) => Err(error.into()),
    };
    match written {
        Ok(bytes) => shared.peer.lane(Lane::Bulk).sent(1, bytes),
        Err(SendError::Stream(quinn::WriteError::Stopped(_))) => return Err(RequestError::Refused),
        Err(_) => return Err(RequestError::Disconnected),
    }
    send.is_complete = true;
    // It fails only if the peer has stopped the stream; then the answer says so.
    let _ = send.stream.finish();
    match read_frame(&mut receive, Lane::Bulk, Some(&shared.budget)).await {
        Ok(Some(frame)) => {
            shared.peer.lane(Lane::Bulk).received(frame.bytes());
            Ok(frame.body)
        }
        Ok(None) | Err(StreamError::Ended(ReadError::Reset(_))) => Err(RequestError::Refused),
        Err(StreamError::Ended(_)) => Err(RequestError::Disconnected),
        Err(error) => {
            shared.check(&error);
            Err(RequestError::Answer(error.to_string()))
        }
    }
}

/// Starts a task for each request of the peer.
pub(super) async fn receive(shared: Shared) {
    let mut tasks = Tasks::default();
    loop {
        tokio::select! {
            streams = shared.connection.accept_bi() => match streams {
                Ok((send, receive)) => {
                    tasks.start(answer(shared.clone(), send, receive));
                }
                // The owner of the connection observes its end.
                Err(_) => return,
            },
            panic = tasks.panicked() => shared.fail(&panic),
        }
    }
}

async fn answer(shared: Shared, mut send: SendStream, receive: RecvStream) {
    match answer_request(&shared, &mut send, receive).await {
        Ok(true) => {}
        Ok(false) => {
            // It fails only if the peer no longer waits.
            let _ = send.reset(VarInt::from_u32(REFUSED));
        }
        Err(error) => shared.check(&error),
    }
}

/// Whether the peer has its answer, or no longer waits for one.
async fn answer_request(
    shared: &Shared,
    send: &mut SendStream,
    mut receive: RecvStream,
) -> Result<bool, StreamError> {
    let Some(preface) = read_preface(&mut receive, shared.protocol).await? else {
        return Ok(false);
    };
    if preface.lane != Lane::Bulk {
        return Err(FrameError::Lane(preface.lane as u8).into());
    }
    let budget = Some(&shared.budget);
    let Some(frame) = read_frame(&mut receive, Lane::Bulk, budget).await? else { return Ok(false) };
    let lane = shared.peer.lane(Lane::Bulk);
    lane.received(frame.bytes());
    let answer = tokio::select! {
        answer = shared.local.inbox.request(shared.peer.broker, frame.body.clone()) => answer,
        _ = send.stopped() => return Ok(true),
    };
    let Some(answer) = answer else { return Ok(false) };
    match write_frame(send, Lane::Bulk, &answer).await {
        Ok(bytes) => {
            lane.sent(1, bytes);
            let _ = send.finish();
            Ok(true)
        }
        // The peer no longer waits, or the connection has ended.
        Err(SendError::Stream(_)) => Ok(true),
        Err(SendError::Frame(error)) => {
            tracing::error!(broker = shared.peer.broker.0, %error, "answer to broker not sent");
            Ok(false)
        }
    }
}
