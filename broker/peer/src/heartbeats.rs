//! Merges the heartbeats of all shards to one peer into one frame.
//!
//! A broker leads and follows dozens of shards with each peer. Their heartbeats and the answers to
//! heartbeats wait here and leave in one frame when the caller flushes them, once in each tick. A
//! later heartbeat of the same replica replaces the one that waits, because it says all that the
//! earlier one said; so the memory is bounded by the number of shards.
//!
//! A heartbeat with a context belongs to a ReadIndex round, on which a client waits. It replaces
//! and waits for nothing: everything is due as soon as one is there. Under load many are there when
//! the lane is ready to write, and leave together.

use std::collections::BTreeMap;

use bytes::Bytes;
use ropewalk_shard::ShardId;
use ropewalk_shard::message::{Body, Message};

use crate::frame::ShardMessage;
use crate::limits;

/// Whose heartbeat it is: a later one with the same key replaces an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    shard: ShardId,
    from: u64,
    to: u64,
    is_answer: bool,
}

/// Heartbeats and answers to heartbeats that wait for the next frame.
#[derive(Debug, Default)]
pub(crate) struct Merge {
    periodic: BTreeMap<Key, Bytes>,
    /// Those of ReadIndex rounds, in order.
    rounds: Vec<ShardMessage>,
    is_due: bool,
}

/// The context of a heartbeat or of an answer to one, and whether it is an answer.
#[expect(clippy::wildcard_enum_match_arm, reason = "all other messages are no heartbeats")]
pub(crate) fn context_of(message: &Message) -> Option<(&Bytes, bool)> {
    match &message.body {
        Body::Heartbeat { context, .. } => Some((context, false)),
        Body::HeartbeatResponse { context, .. } => Some((context, true)),
        _ => None,
    }
}

impl Merge {
    /// Adds a heartbeat or an answer to one, with its encoding. Returns whether there was space.
    ///
    /// Any other message is not taken.
    pub(crate) fn push(&mut self, shard: ShardId, message: &Message, encoded: Bytes) -> bool {
        let Some((context, is_answer)) = context_of(message) else { return false };
        if encoded.len() + 8 > limits::HEARTBEAT_BYTES_MAX {
            return false;
        }
        let has_space = self.len() < limits::HEARTBEATS_MAX;
        if context.is_empty() {
            let key = Key { shard, from: message.from, to: message.to, is_answer };
            if !has_space && !self.periodic.contains_key(&key) {
                return false;
            }
            self.periodic.insert(key, encoded);
            return true;
        }
        if has_space {
            self.rounds.push((shard, encoded));
            self.is_due = true;
        }
        has_space
    }

    /// Makes everything that waits due.
    pub(crate) fn flush(&mut self) {
        self.is_due |= self.len() > 0;
    }

    /// Whether there is something to send now.
    pub(crate) fn is_due(&self) -> bool {
        self.is_due
    }

    /// Everything that waits, if it is due: the periodic heartbeats, then those of rounds.
    pub(crate) fn take(&mut self) -> Option<Vec<ShardMessage>> {
        if !std::mem::take(&mut self.is_due) {
            return None;
        }
        let periodic = std::mem::take(&mut self.periodic);
        let periodic = periodic.into_iter().map(|(key, message)| (key.shard, message));
        Some(periodic.chain(std::mem::take(&mut self.rounds)).collect())
    }

    /// Number of messages that wait.
    pub(crate) fn len(&self) -> usize {
        self.periodic.len() + self.rounds.len()
    }

    /// Bytes of the messages that wait.
    pub(crate) fn bytes(&self) -> usize {
        let periodic = self.periodic.values().map(Bytes::len).sum::<usize>();
        periodic + self.rounds.iter().map(|(_, message)| message.len()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use ropewalk_shard::HistoryId;

    use super::*;

    fn heartbeat(from: u64, commit: u64, context: &'static [u8]) -> Message {
        let body = Body::Heartbeat { commit, context: Bytes::from_static(context) };
        Message { from, to: 9, term: 1, body }
    }

    fn push(merge: &mut Merge, shard: u32, message: &Message) -> bool {
        merge.push(ShardId(shard), message, message.encode(HistoryId(0)).to_bytes())
    }

    fn taken(merge: &mut Merge) -> Vec<(u32, Message)> {
        let decode = |bytes| Message::decode(bytes, HistoryId(0)).expect("it was encoded");
        let all = merge.take().expect("it is due");
        all.into_iter().map(|(shard, message)| (shard.0, decode(message))).collect()
    }

    #[test]
    fn heartbeats_of_all_shards_leave_together_when_they_are_flushed() {
        let mut merge = Merge::default();
        for shard in 0..24 {
            assert!(push(&mut merge, shard, &heartbeat(1, 5, b"")));
        }
        assert_eq!(merge.take(), None, "nothing is due before the tick");
        merge.flush();
        assert_eq!(taken(&mut merge).len(), 24);
        merge.flush();
        assert_eq!(merge.take(), None, "nothing waits");
    }

    #[test]
    fn a_later_heartbeat_replaces_an_earlier_one_of_the_same_replica() {
        let mut merge = Merge::default();
        let answer = Message {
            body: Body::HeartbeatResponse { commit: 1, context: Bytes::new(), is_full: false },
            ..heartbeat(1, 0, b"")
        };
        for message in [heartbeat(1, 5, b""), answer.clone(), heartbeat(1, 6, b"")] {
            assert!(push(&mut merge, 3, &message));
        }
        assert!(push(&mut merge, 3, &heartbeat(2, 4, b"")));
        merge.flush();
        let expected =
            [heartbeat(1, 6, b""), answer, heartbeat(2, 4, b"")].map(|message| (3, message));
        assert_eq!(taken(&mut merge), expected);
    }

    #[test]
    fn a_heartbeat_of_a_read_is_due_at_once_and_takes_the_others_along() {
        let mut merge = Merge::default();
        let all = [heartbeat(1, 1, b""), heartbeat(1, 1, b"read 1"), heartbeat(1, 1, b"read 2")];
        for message in &all {
            assert!(push(&mut merge, 0, message));
        }
        assert!(merge.is_due());
        assert_eq!(taken(&mut merge), all.map(|message| (0, message)));
        assert_eq!((merge.len(), merge.bytes()), (0, 0));
    }

    #[test]
    fn r1_heartbeats_beyond_the_bound_are_not_taken_but_replace() {
        let mut merge = Merge::default();
        for shard in 0..u32::try_from(limits::HEARTBEATS_MAX).expect("it is small") {
            assert!(push(&mut merge, shard, &heartbeat(1, 1, b"")));
        }
        assert!(!push(&mut merge, u32::MAX, &heartbeat(1, 1, b"")));
        assert!(!push(&mut merge, 0, &heartbeat(1, 1, b"read")));
        assert!(push(&mut merge, 0, &heartbeat(1, 2, b"")));
        assert_eq!(merge.len(), limits::HEARTBEATS_MAX);
        let longest = limits::HEARTBEATS_MAX * limits::HEARTBEAT_BYTES_MAX;
        assert!(merge.bytes() + 8 * merge.len() <= longest);
    }

    #[test]
    fn the_longest_heartbeat_fits() {
        static CONTEXT: [u8; ropewalk_shard::limits::CONTEXT_BYTES_MAX] =
            [1; ropewalk_shard::limits::CONTEXT_BYTES_MAX];
        let mut merge = Merge::default();
        assert!(push(&mut merge, 0, &heartbeat(u64::MAX, u64::MAX, &CONTEXT)));
        let vote = Message { body: Body::TimeoutNow, ..heartbeat(1, 1, b"") };
        assert!(!push(&mut merge, 0, &vote), "it is no heartbeat");
    }
}
