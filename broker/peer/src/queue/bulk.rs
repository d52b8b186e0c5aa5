//! The queue of the bulk lane: requests that wait for a stream.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use ropewalk_shard::Payload;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use super::{LinkId, Next, Sent};
use crate::limits;

/// Why a request has no answer. The caller may repeat it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The connection ended before the answer was complete.
    #[error("the connection ended before the answer came")]
    Disconnected,
    /// The other broker has no answer: it is stopping, or it has no handler for the request.
    #[error("the broker refused the request")]
    Refused,
    /// The answer is no frame of the bulk lane.
    #[error("the answer cannot be read: {0}")]
    Answer(String),
}

pub(crate) type AnswerSender = oneshot::Sender<Result<Bytes, RequestError>>;
pub(crate) type AnswerReceiver = oneshot::Receiver<Result<Bytes, RequestError>>;

/// A request to the peer.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) payload: Payload,
    pub(crate) answer: AnswerSender,
    /// Its share of [`limits::BULK_BYTES_MAX`], until the answer is delivered.
    share: OwnedSemaphorePermit,
}

#[derive(Debug)]
pub(crate) struct BulkQueue {
    link: Option<LinkId>,
    requests: VecDeque<Request>,
    shares: Arc<Semaphore>,
    ready: Arc<Notify>,
}

impl Request {
    /// Delivers the answer. The caller may have stopped waiting.
    pub(crate) fn finish(self, answer: Result<Bytes, RequestError>) {
        // First, so that a caller that has its answer finds space for the next request.
        drop(self.share);
        let _ = self.answer.send(answer);
    }
}

impl Default for BulkQueue {
    fn default() -> Self {
        let shares = Arc::new(Semaphore::new(limits::BULK_BYTES_MAX));
        Self { link: None, requests: VecDeque::new(), shares, ready: Arc::default() }
    }
}

impl BulkQueue {
    /// Ends the requests that wait. The queue belongs to this connection from here on, or to none.
    pub(crate) fn reset(&mut self, link: Option<LinkId>) {
        self.link = link;
        // The task of the earlier connection finds out that it has ended.
        std::mem::take(&mut self.ready).notify_one();
        for request in self.requests.drain(..) {
            request.finish(Err(RequestError::Disconnected));
        }
    }

    pub(crate) fn push(&mut self, payload: Payload, answer: AnswerSender) -> Sent {
        if self.link.is_none() {
            return Sent::NotConnected;
        }
        let length = payload.len();
        if length > limits::BULK_FRAME_BYTES_MAX {
            return Sent::Full;
        }
        let share = u32::try_from(length + limits::BULK_FRAME_BYTES_MAX).expect("it is bounded");
        let Ok(share) = self.shares.clone().try_acquire_many_owned(share) else {
            return Sent::Full;
        };
        self.requests.push_back(Request { payload, answer, share });
        self.ready.notify_one();
        Sent::Taken
    }

    /// The oldest request that waits.
    pub(crate) fn take(&mut self, link: LinkId) -> Next<Request> {
        if self.link != Some(link) {
            return Next::Ended;
        }
        match self.requests.pop_front() {
            Some(request) => Next::Send(request),
            None => Next::Wait(self.ready.clone()),
        }
    }

    /// Bytes of the requests that wait or are under way, with the space for their answers.
    pub(crate) fn bytes(&self) -> usize {
        limits::BULK_BYTES_MAX - self.shares.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(queue: &mut BulkQueue, bytes: usize) -> (Sent, AnswerReceiver) {
        let (sender, receiver) = oneshot::channel();
        (queue.push(Bytes::from(vec![0; bytes]).into(), sender), receiver)
    }

    #[test]
    fn r1_requests_count_until_they_are_answered() {
        let mut queue = BulkQueue::default();
        assert_eq!(push(&mut queue, 1).0, Sent::NotConnected);
        queue.reset(Some(1));
        let mut taken = 0;
        while push(&mut queue, 1000).0 == Sent::Taken {
            taken += 1;
        }
        assert_eq!(taken, limits::BULK_BYTES_MAX / (limits::BULK_FRAME_BYTES_MAX + 1000));
        let Next::Send(request) = queue.take(1) else { panic!("there are some") };
        assert_eq!(push(&mut queue, 1000).0, Sent::Full, "it is under way");
        drop(request);
        assert_eq!(push(&mut queue, 1000).0, Sent::Taken);
        assert_eq!(push(&mut queue, limits::BULK_FRAME_BYTES_MAX + 1).0, Sent::Full);
    }

    #[test]
    fn requests_end_with_their_connection() {
        let mut queue = BulkQueue::default();
        queue.reset(Some(1));
        let (sent, mut answer) = push(&mut queue, 1);
        assert_eq!(sent, Sent::Taken);
        assert!(matches!(queue.take(2), Next::Ended), "another connection");
        queue.reset(Some(2));
        assert_eq!(answer.try_recv(), Ok(Err(RequestError::Disconnected)));
        assert!(matches!(queue.take(2), Next::Wait(_)), "the earlier requests are gone");
        assert_eq!(queue.bytes(), 0);
    }
}
