//! The queue of the control lane: votes and answers in order, heartbeats merged.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ropewalk_shard::ShardId;
use ropewalk_shard::message::Message;
use tokio::sync::Notify;

use super::{LinkId, Next, Sent};
use crate::frame::{Control, ShardMessage};
use crate::heartbeats::Merge;
use crate::limits;

#[derive(Debug, Default)]
pub(crate) struct ControlQueue {
    link: Option<LinkId>,
    messages: VecDeque<ShardMessage>,
    /// Bytes of `messages` with their overhead.
    bytes: usize,
    heartbeats: Merge,
    ready: Arc<Notify>,
}

/// Frames that are written at once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) bytes: Bytes,
    pub(crate) frames: u64,
}

impl ControlQueue {
    /// Empties the queue. It belongs to this connection from here on, or to none.
    pub(crate) fn reset(&mut self, link: Option<LinkId>) {
        // The task of the earlier connection finds out that it has ended.
        self.ready.notify_one();
        *self = Self { link, ..Self::default() };
    }

    pub(crate) fn push(&mut self, shard: ShardId, message: Bytes) -> Sent {
        let bytes = message.len() + limits::MESSAGE_OVERHEAD_BYTES;
        if self.link.is_none() {
            return Sent::NotConnected;
        }
        if self.bytes + bytes > limits::CONTROL_QUEUED_BYTES_MAX
            || bytes > limits::CONTROL_FRAME_BYTES_MAX
        {
            return Sent::Full;
        }
        self.bytes += bytes;
        self.messages.push_back((shard, message));
        self.ready.notify_one();
        Sent::Taken
    }

    pub(crate) fn push_heartbeat(
        &mut self,
        shard: ShardId,
        message: &Message,
        encoded: Bytes,
    ) -> Sent {
        if self.link.is_none() {
            return Sent::NotConnected;
        }
        if !self.heartbeats.push(shard, message, encoded) {
            return Sent::Full;
        }
        self.notify_if_due();
        Sent::Taken
    }

    /// Makes the heartbeats that wait due.
    pub(crate) fn flush_heartbeats(&mut self) {
        self.heartbeats.flush();
        self.notify_if_due();
    }

    fn notify_if_due(&self) {
        if self.heartbeats.is_due() {
            self.ready.notify_one();
        }
    }

    /// The next frames for a connection: up to [`limits::CONTROL_WRITE_BYTES`] of messages and one
    /// more, and the heartbeats if they are due.
    pub(crate) fn take(&mut self, link: LinkId) -> Next<Batch> {
        if self.link != Some(link) {
            return Next::Ended;
        }
        if self.messages.is_empty() && !self.heartbeats.is_due() {
            return Next::Wait(self.ready.clone());
        }
        let (mut out, mut frames) = (BytesMut::new(), 0);
        while out.len() < limits::CONTROL_WRITE_BYTES
            && let Some(message) = self.messages.pop_front()
        {
            self.bytes -= message.1.len() + limits::MESSAGE_OVERHEAD_BYTES;
            Control::Message(message).encode_to(&mut out);
            frames += 1;
        }
        if let Some(all) = self.heartbeats.take() {
            Control::Heartbeats(all).encode_to(&mut out);
            frames += 1;
        }
        Next::Send(Batch { bytes: out.freeze(), frames })
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.heartbeats.bytes()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf;
    use ropewalk_shard::HistoryId;
    use ropewalk_shard::message::Body;

    use super::*;

    fn open() -> ControlQueue {
        let mut queue = ControlQueue::default();
        queue.reset(Some(1));
        queue
    }

    /// What a connection takes, or why it takes nothing.
    fn take(queue: &mut ControlQueue, link: LinkId) -> Result<Batch, &'static str> {
        match queue.take(link) {
            Next::Send(batch) => Ok(batch),
            Next::Wait(_) => Err("nothing is due"),
            Next::Ended => Err("another connection"),
        }
    }

    fn frames(mut batch: Batch) -> Vec<Control> {
        let mut all = Vec::new();
        while batch.bytes.has_remaining() {
            let length = usize::try_from(batch.bytes.get_u32_le()).expect("it is small");
            all.push(Control::decode(batch.bytes.split_to(length)).expect("it was encoded"));
        }
        assert_eq!(all.len() as u64, batch.frames);
        all
    }

    #[test]
    fn messages_keep_their_order_and_heartbeats_follow_when_due() {
        let mut queue = open();
        let body = Body::Heartbeat { commit: 1, context: Bytes::new() };
        let heartbeat = Message { from: 1, to: 2, term: 3, body };
        let encoded = heartbeat.encode(HistoryId(0)).to_bytes();
        let beat = (ShardId(9), encoded.clone());
        assert_eq!(queue.push_heartbeat(ShardId(9), &heartbeat, encoded), Sent::Taken);
        assert_eq!(take(&mut queue, 1), Err("nothing is due"), "it waits for the tick");
        let message = |text: &'static str| (ShardId(4), Bytes::from_static(text.as_bytes()));
        for text in ["one", "two"] {
            assert_eq!(queue.push(ShardId(4), message(text).1), Sent::Taken);
        }
        queue.flush_heartbeats();
        let expected = [
            Control::Message(message("one")),
            Control::Message(message("two")),
            Control::Heartbeats(vec![beat]),
        ];
        assert_eq!(frames(take(&mut queue, 1).expect("there are three")), expected);
        assert_eq!(take(&mut queue, 1), Err("nothing is due"));
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn r1_a_full_queue_takes_nothing_until_it_is_taken() {
        let mut queue = open();
        let message = Bytes::from_static(&[0; 1000]);
        let mut taken = 0;
        while queue.push(ShardId(1), message.clone()) == Sent::Taken {
            taken += 1;
        }
        assert!(queue.bytes() <= limits::CONTROL_QUEUED_BYTES_MAX);
        assert!(taken >= limits::CONTROL_QUEUED_BYTES_MAX / 2000);
        assert_eq!(queue.push(ShardId(1), message.clone()), Sent::Full);
        let batch = take(&mut queue, 1).expect("it is full");
        assert!(batch.bytes.len() < limits::CONTROL_WRITE_BYTES + 2000, "a write is bounded");
        assert_eq!(queue.push(ShardId(1), message), Sent::Taken);
        let large = Bytes::from(vec![0; limits::CONTROL_FRAME_BYTES_MAX]);
        assert_eq!(open().push(ShardId(1), large), Sent::Full);
    }

    #[test]
    fn a_queue_serves_only_its_connection() {
        let mut queue = ControlQueue::default();
        assert_eq!(queue.push(ShardId(1), Bytes::new()), Sent::NotConnected);
        queue.reset(Some(1));
        assert_eq!(queue.push(ShardId(1), Bytes::new()), Sent::Taken);
        assert_eq!(take(&mut queue, 2), Err("another connection"));
        queue.reset(Some(2));
        assert_eq!(take(&mut queue, 1), Err("another connection"));
        assert_eq!(take(&mut queue, 2), Err("nothing is due"), "the earlier messages are gone");
        queue.reset(None);
        assert_eq!(take(&mut queue, 2), Err("another connection"));
        assert_eq!(queue.push(ShardId(1), Bytes::new()), Sent::NotConnected);
    }
}
