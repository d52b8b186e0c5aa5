//! The queue of the append lane: one queue for each shard, with a bound on each and on the sum.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ropewalk_shard::{Payload, ShardId};
use tokio::sync::Notify;

use super::{Held, LinkId, Next, Sent};
use crate::limits;

#[derive(Debug, Default)]
pub(crate) struct AppendQueue {
    link: Option<LinkId>,
    shards: BTreeMap<ShardId, ShardQueue>,
    /// Bytes of the messages of all shards with their overhead.
    bytes: usize,
    /// Shards without a task that sends their messages.
    unattended: Vec<ShardId>,
    /// Wakes the task that starts these.
    ready: Arc<Notify>,
}

#[derive(Debug, Default)]
struct ShardQueue {
    /// The first is being written, if there is one.
    messages: VecDeque<(Payload, Option<Held>)>,
    bytes: usize,
    ready: Arc<Notify>,
}

fn cost(message: &Payload) -> usize {
    message.len() + limits::MESSAGE_OVERHEAD_BYTES
}

impl AppendQueue {
    /// Empties the queue. It belongs to this connection from here on, or to none.
    pub(crate) fn reset(&mut self, link: Option<LinkId>) {
        // Tasks of the earlier connection find out that it has ended.
        self.ready.notify_one();
        self.shards.values().for_each(|shard| shard.ready.notify_one());
        *self = Self { link, ..Self::default() };
    }

    /// Adds a message. It counts until it is written, so that messages that are only half sent are
    /// within the bound, too. `held` is dropped when it is written or lost.
    pub(crate) fn push(&mut self, shard: ShardId, message: Payload, held: Option<Held>) -> Sent {
        if self.link.is_none() {
            return Sent::NotConnected;
        }
        let (bytes, length) = (cost(&message), message.len());
        let is_known = self.shards.contains_key(&shard);
        if length > limits::APPEND_FRAME_BYTES_MAX
            || self.bytes + bytes > limits::APPEND_QUEUED_BYTES_MAX
            || (!is_known && self.shards.len() >= limits::APPEND_SHARDS_MAX)
        {
            return Sent::Full;
        }
        let queue = self.shards.entry(shard).or_default();
        if !queue.messages.is_empty() && queue.bytes + bytes > limits::APPEND_SHARD_BYTES_MAX {
            return Sent::Full;
        }
        queue.messages.push_back((message, held));
        queue.bytes += bytes;
        queue.ready.notify_one();
        self.bytes += bytes;
        if !is_known {
            self.unattended.push(shard);
            self.ready.notify_one();
        }
        Sent::Taken
    }

    /// Shards whose first message came since the last call: the caller starts a task for each.
    pub(crate) fn unattended(&mut self, link: LinkId) -> Next<Vec<ShardId>> {
        if self.link != Some(link) {
            return Next::Ended;
        }
        match std::mem::take(&mut self.unattended) {
            none if none.is_empty() => Next::Wait(self.ready.clone()),
            some => Next::Send(some),
        }
    }

    /// The oldest message of a shard. It stays in the queue until it is reported with
    /// [`Self::is_written`].
    pub(crate) fn next(&self, link: LinkId, shard: ShardId) -> Next<Payload> {
        match self.shards.get(&shard) {
            Some(queue) if self.link == Some(link) => match queue.messages.front() {
                Some((message, _)) => Next::Send(message.clone()),
                None => Next::Wait(queue.ready.clone()),
            },
            Some(_) | None => Next::Ended,
        }
    }

    /// Removes the message that [`Self::next`] returned last.
    pub(crate) fn is_written(&mut self, link: LinkId, shard: ShardId) {
        if self.link == Some(link)
            && let Some(queue) = self.shards.get_mut(&shard)
            && let Some((message, _held)) = queue.messages.pop_front()
        {
            queue.bytes -= cost(&message);
            self.bytes -= cost(&message);
        }
    }

    /// Bytes that wait or are being written.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn open() -> AppendQueue {
        let mut queue = AppendQueue::default();
        queue.reset(Some(1));
        queue
    }

    fn payload(bytes: usize) -> Payload {
        Bytes::from(vec![0; bytes]).into()
    }

    fn next(queue: &AppendQueue, shard: u32) -> Option<usize> {
        match queue.next(1, ShardId(shard)) {
            Next::Send(message) => Some(message.len()),
            Next::Wait(_) => None,
            Next::Ended => panic!("the connection has not ended"),
        }
    }

    fn unattended(queue: &mut AppendQueue, link: LinkId) -> Vec<ShardId> {
        if let Next::Send(shards) = queue.unattended(link) { shards } else { Vec::new() }
    }

    #[test]
    fn each_shard_keeps_its_order_and_waits_for_no_other() {
        let mut queue = open();
        for (shard, bytes) in [(1, 10), (2, 20), (1, 11)] {
            assert_eq!(queue.push(ShardId(shard), payload(bytes), None), Sent::Taken);
        }
        assert_eq!(unattended(&mut queue, 1), [ShardId(1), ShardId(2)]);
        assert!(unattended(&mut queue, 1).is_empty(), "each shard needs one task");
        assert_eq!(next(&queue, 2), Some(20));
        assert_eq!(next(&queue, 1), Some(10));
        assert_eq!(next(&queue, 1), Some(10), "it is not written yet");
        queue.is_written(1, ShardId(1));
        assert_eq!(next(&queue, 1), Some(11));
        queue.is_written(1, ShardId(1));
        queue.is_written(1, ShardId(2));
        assert_eq!((next(&queue, 1), next(&queue, 2), queue.bytes()), (None, None, 0));
    }

    #[test]
    fn r1_a_busy_shard_leaves_space_to_the_others() {
        let mut queue = open();
        let piece = 1 << 20;
        let mut taken = 0;
        while queue.push(ShardId(1), payload(piece), None) == Sent::Taken {
            taken += 1;
        }
        assert_eq!(taken, limits::APPEND_SHARD_BYTES_MAX / piece - 1, "with the overhead");
        assert_eq!(queue.push(ShardId(2), payload(piece), None), Sent::Taken);
        for shard in 3..100 {
            while queue.push(ShardId(shard), payload(piece), None) == Sent::Taken {}
        }
        assert!(queue.bytes() <= limits::APPEND_QUEUED_BYTES_MAX, "{}", queue.bytes());
        queue.is_written(1, ShardId(1));
        assert_eq!(queue.push(ShardId(1), payload(piece), None), Sent::Taken);
    }

    #[test]
    fn the_largest_message_is_taken_alone() {
        let mut queue = open();
        let largest = || payload(limits::APPEND_FRAME_BYTES_MAX);
        assert_eq!(queue.push(ShardId(1), largest(), None), Sent::Taken);
        assert_eq!(queue.push(ShardId(1), payload(1), None), Sent::Full, "the shard has its share");
        assert_eq!(queue.push(ShardId(2), largest(), None), Sent::Full, "the sum is bounded");
        assert_eq!(queue.push(ShardId(2), payload(1), None), Sent::Taken);
        queue.is_written(1, ShardId(1));
        let too_large = payload(limits::APPEND_FRAME_BYTES_MAX + 1);
        assert_eq!(queue.push(ShardId(1), too_large, None), Sent::Full);
    }

    #[test]
    fn what_comes_with_a_message_is_dropped_when_it_is_written_or_lost() {
        let held = Arc::new(());
        let with = || Some(Box::new(Arc::clone(&held)) as Held);
        let count = || Arc::strong_count(&held) - 1;
        let mut queue = AppendQueue::default();
        assert_eq!(queue.push(ShardId(1), payload(1), with()), Sent::NotConnected);
        assert_eq!(count(), 0, "it was not taken");
        queue.reset(Some(1));
        for _ in 0..3 {
            assert_eq!(queue.push(ShardId(1), payload(1), with()), Sent::Taken);
        }
        assert_eq!((next(&queue, 1), count()), (Some(1), 3), "it is being written");
        queue.is_written(1, ShardId(1));
        assert_eq!(count(), 2);
        queue.reset(None);
        assert_eq!(count(), 0, "the connection has ended");
    }

    #[test]
    fn r1_shards_beyond_the_bound_are_not_taken() {
        let mut queue = open();
        let shards = u32::try_from(limits::APPEND_SHARDS_MAX).expect("it is small");
        for shard in 0..shards {
            assert_eq!(queue.push(ShardId(shard), payload(1), None), Sent::Taken);
        }
        assert_eq!(queue.push(ShardId(shards), payload(1), None), Sent::Full);
        assert_eq!(queue.push(ShardId(0), payload(1), None), Sent::Taken);
    }

    #[test]
    fn a_task_of_an_earlier_connection_takes_nothing() {
        let mut queue = AppendQueue::default();
        assert_eq!(queue.push(ShardId(1), payload(1), None), Sent::NotConnected);
        queue.reset(Some(1));
        assert_eq!(queue.push(ShardId(1), payload(1), None), Sent::Taken);
        queue.reset(Some(2));
        assert_eq!(queue.push(ShardId(1), payload(2), None), Sent::Taken);
        assert!(matches!(queue.next(1, ShardId(1)), Next::Ended));
        queue.is_written(1, ShardId(1));
        assert!(matches!(queue.next(2, ShardId(1)), Next::Send(message) if message.len() == 2));
        assert!(matches!(queue.unattended(1), Next::Ended));
        assert_eq!(unattended(&mut queue, 2), [ShardId(1)]);
    }
}
