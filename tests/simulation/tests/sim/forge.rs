//! Messages that no correct replica sends. The core refuses each of them, or ignores an answer that
//! it did not wait for.

use bytes::Bytes;
use ropewalk_shard::Payload;
use ropewalk_shard::engine::{Entry, EntryId, EntryKind, MessageRejection};
use ropewalk_shard::limits;
use ropewalk_shard::message::{Body, Message};
use ropewalk_shard::replica::Replica;

use crate::dice::Dice;

/// Past every index and term of a run.
const FAR: u64 = 1 << 40;

/// A message with one part replaced, so that it is wrong whatever its receiver has.
pub(crate) fn altered(message: &Message, dice: &mut Dice) -> Message {
    let mut forged = message.clone();
    match &mut forged.body {
        Body::Append { previous, commit, entries } => match (dice.below(5), &mut entries[..]) {
            (0, [.., last]) => last.index += 1,
            (1, [.., last]) => last.term = message.term + 1,
            (2, [first, ..]) => first.term = 0,
            (3, _) => previous.term = message.term + 1,
            _ => *commit = u64::MAX,
        },
        Body::Appended { index, .. } | Body::AppendRejected { index, .. } => *index = FAR,
        Body::Heartbeat { .. }
        | Body::HeartbeatResponse { .. }
        | Body::RequestVote { .. }
        | Body::Vote { .. }
        | Body::StateDigest { .. }
        | Body::TimeoutNow => match dice.below(3) {
            0 => forged.term = 0,
            1 => forged.term = u64::MAX,
            _ => forged.from = 0,
        },
    }
    forged
}

/// A forged message, and whether a rejection is the one that it has to get.
pub(crate) struct Forged {
    pub what: &'static str,
    pub message: Message,
    pub is_expected: fn(&MessageRejection) -> bool,
}

/// Messages to `to`, whose whole log is applied. `leader` is the one that it follows, itself
/// included, and `other` a follower other than `to`.
pub(crate) fn forged(to: &Replica, leader: u64, other: u64) -> Vec<Forged> {
    let (id, term, last) = (to.id().0, to.term(), to.applied());
    let from = if leader == id { other } else { leader };
    let of = |from, term, body| Message { from, to: id, term, body };
    let append = |previous, entries| Body::Append { previous, commit: last.index, entries };
    let beat = || Body::Heartbeat { commit: last.index, context: Bytes::new() };
    let next = |ahead, term| entry(last.index + ahead, term, 10);
    let mut all = vec![
        misdirected("to another replica", Message { to: id + 100, ..of(from, term, beat()) }),
        misdirected("from its receiver", of(id, term, beat())),
        misdirected("from no replica", of(0, term, beat())),
        misdirected("of term 0", of(from, 0, beat())),
        misdirected("of the last term", of(from, u64::MAX, beat())),
        Forged {
            what: "an answer of no member",
            message: of(77, term, Body::Appended { index: last.index, commit: last.index }),
            is_expected: |r| matches!(r, MessageRejection::NotMember(77)),
        },
        Forged {
            what: "an order to campaign of a follower",
            message: of(other, term, Body::TimeoutNow),
            is_expected: |r| matches!(r, MessageRejection::UnrequestedCampaign),
        },
        second_leader(
            "entries of a second leader",
            of(other, term, append(last, vec![next(1, term)])),
        ),
        second_leader("a heartbeat of a second leader", of(other, term, beat())),
    ];
    // As if the sender were elected in a later term, so that only the entries are wrong.
    let term = term + 1;
    let entries = |what, entries| disordered(what, of(from, term, append(last, entries)));
    all.extend([
        entries("a gap before the entries", vec![next(2, term)]),
        entries("a gap between entries", vec![next(1, term), next(3, term)]),
        entries("falling terms", vec![next(1, term), next(2, term - 1)]),
        entries("an entry of a later term", vec![next(1, term + 1)]),
        entries("an entry of term 0", vec![next(1, 0)]),
        disordered(
            "entries behind the last index",
            of(from, term, append(EntryId { index: u64::MAX, term }, Vec::new())),
        ),
        disordered(
            "a commit index of all",
            of(from, term, Body::Append { previous: last, commit: u64::MAX, entries: Vec::new() }),
        ),
        Forged {
            what: "two entries that are too large together",
            message: of(from, term, append(last, vec![large(last, 1, term), large(last, 2, term)])),
            is_expected: |r| matches!(r, MessageRejection::TooLarge(_)),
        },
    ]);
    if leader == id {
        all.extend(to_leader(id, from, to.term(), last));
    }
    all
}

/// Answers to a leader that contradict what it knows.
fn to_leader(leader: u64, from: u64, term: u64, last: EntryId) -> [Forged; 4] {
    let contradiction = |what, body| Forged {
        what,
        message: Message { from, to: leader, term, body },
        is_expected: |r| matches!(r, MessageRejection::Contradiction { .. }),
    };
    let (index, commit) = (last.index, last.index);
    [
        contradiction("more than the leader has", Body::Appended { index: index + 1000, commit }),
        contradiction(
            "a refusal of what was acknowledged",
            Body::AppendRejected { index: 1, hint: EntryId { index: 1, term: 1 }, commit },
        ),
        contradiction(
            "a refusal of more than the leader has",
            Body::AppendRejected { index: index + 5, hint: last, commit },
        ),
        contradiction(
            "a refusal with a later hint",
            Body::AppendRejected { index, hint: EntryId { index: index + 9, term }, commit },
        ),
    ]
}

fn misdirected(what: &'static str, message: Message) -> Forged {
    let is_expected =
        |rejection: &MessageRejection| matches!(rejection, MessageRejection::Misdirected { .. });
    Forged { what, message, is_expected }
}

fn disordered(what: &'static str, message: Message) -> Forged {
    let is_expected =
        |rejection: &MessageRejection| matches!(rejection, MessageRejection::Disordered(_));
    Forged { what, message, is_expected }
}

fn second_leader(what: &'static str, message: Message) -> Forged {
    let is_expected =
        |rejection: &MessageRejection| matches!(rejection, MessageRejection::SecondLeader { .. });
    Forged { what, message, is_expected }
}

fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    let data = Payload::from(Bytes::from(vec![1; bytes]));
    Entry { index, term, kind: EntryKind::Normal, data }
}

fn large(last: EntryId, ahead: u64, term: u64) -> Entry {
    let half = usize::try_from(limits::MESSAGE_BYTES_MAX / 2).expect("small");
    entry(last.index + ahead, term, half + 1)
}
