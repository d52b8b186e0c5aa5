//! Messages survive their encoding, and no bytes make decoding panic.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn any_id() -> impl Strategy<Value = EntryId> {
    (any::<u64>(), any::<u64>()).prop_map(|(index, term)| EntryId { index, term })
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let kind = prop_oneof![Just(EntryKind::Normal), Just(EntryKind::Members)];
    (any_id(), kind, vec(any::<u8>(), 0..40)).prop_map(|(id, kind, data)| Entry {
        index: id.index,
        term: id.term,
        kind,
        data: Bytes::from(data).into(),
    })
}

fn any_context() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..=limits::CONTEXT_BYTES_MAX).prop_map(Bytes::from)
}

fn any_body() -> impl Strategy<Value = Body> {
    prop_oneof![
        (any_id(), any::<u64>(), vec(any_entry(), 0..4))
            .prop_map(|(previous, commit, entries)| Body::Append { previous, commit, entries }),
        (any::<u64>(), any::<u64>()).prop_map(|(index, commit)| Body::Appended { index, commit }),
        (any::<u64>(), any_id(), any::<u64>())
            .prop_map(|(index, hint, commit)| Body::AppendRejected { index, hint, commit }),
        (any::<u64>(), any_context())
            .prop_map(|(commit, context)| Body::Heartbeat { commit, context }),
        (any::<u64>(), any_context(), any::<bool>()).prop_map(|(commit, context, is_full)| {
            Body::HeartbeatResponse { commit, context, is_full }
        }),
        (any_id(), any_id(), any::<bool>(), any::<bool>()).prop_map(
            |(last, committed, is_pre_vote, is_transfer)| Body::RequestVote {
                last,
                committed,
                is_pre_vote,
                is_transfer
            }
        ),
        (any::<bool>(), any::<bool>(), any_id()).prop_map(|(granted, is_pre_vote, committed)| {
            Body::Vote { granted, is_pre_vote, committed }
        }),
        Just(Body::TimeoutNow),
        (any::<u64>(), any::<u32>())
            .prop_map(|(index, digest)| Body::StateDigest { index, digest }),
    ]
}

fn any_message() -> impl Strategy<Value = Message> {
    (any::<u64>(), any::<u64>(), any::<u64>(), any_body())
        .prop_map(|(from, to, term, body)| Message { from, to, term, body })
}

/// The history of both replicas.
const OWN: HistoryId = HistoryId(0);

proptest! {
    #[test]
    fn a_message_survives_its_encoding(message in any_message()) {
        prop_assert_eq!(Message::decode(message.encode(OWN).to_bytes(), OWN), Ok(message));
    }

    #[test]
    fn a_cut_message_is_refused(message in any_message(), cut in any::<prop::sample::Index>()) {
        let bytes = message.encode(OWN).to_bytes();
        let end = cut.index(bytes.len());
        prop_assert!(Message::decode(bytes.slice(..end), OWN).is_err());
    }

    #[test]
    fn any_bytes_decode_to_what_encodes_to_them(bytes in vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        if let Ok(message) = Message::decode(bytes.clone(), OWN) {
            prop_assert_eq!(message.encode(OWN).to_bytes(), bytes);
        }
    }
}

fn append(sizes: &[usize]) -> Message {
    let entries = (3..).zip(sizes).map(|(index, size)| Entry {
        index,
        term: 2,
        kind: EntryKind::Normal,
        data: vec![Bytes::from(vec![1; 20]), vec![index as u8; *size].into()].into(),
    });
    let previous = EntryId { index: 2, term: 1 };
    let body = Body::Append { previous, commit: 4, entries: entries.collect() };
    Message { from: 1, to: 2, term: 2, body }
}

#[test]
fn large_payloads_are_sent_as_the_chunks_that_they_are() {
    let message = append(&[600, 10, 700]);
    let encoded = message.encode(OWN);
    let payloads = message.entries().iter().map(|entry| &entry.data.chunks()[1]);
    let large: Vec<_> = payloads.filter(|chunk| chunk.len() > 512).map(|c| c.as_ptr()).collect();
    let sent: Vec<_> = encoded.chunks().iter().map(|chunk| chunk.as_ptr()).collect();
    assert!(large.len() == 2 && large.iter().all(|chunk| sent.contains(chunk)));
    assert_eq!(Message::decode(encoded.to_bytes(), OWN), Ok(message));
}

#[test]
fn a_message_with_too_many_bytes_is_split_into_a_sequence() {
    const HALF: usize = limits::MESSAGE_BYTES_MAX as usize / 2;
    let message = append(&[HALF - 20, HALF - 20, 3 * HALF, 1, 1]);
    let parts = message.clone().split();
    let sizes: Vec<_> = parts.iter().map(|part| part.entries().len()).collect();
    assert_eq!(sizes, [2, 1, 2]);
    let mut last = EntryId { index: 2, term: 1 };
    for part in &parts {
        let Body::Append { previous, commit: 4, entries } = &part.body else { panic!() };
        assert_eq!(*previous, last);
        last = entries.last().expect("entries").id();
    }
    let joined = parts.iter().flat_map(Message::entries).cloned().collect::<Vec<_>>();
    assert_eq!(joined, message.entries());
    let small = append(&[1, 1]);
    assert_eq!(small.clone().split(), [small]);
}

#[test]
fn d4_a_message_of_another_history_is_refused_in_both_directions() {
    let message = Message { from: 1, to: 2, term: 3, body: Body::TimeoutNow };
    let new = HistoryId(7);
    for (sender, receiver) in [(OWN, new), (new, OWN), (HistoryId(8), new)] {
        let refused = Message::decode(message.encode(sender).to_bytes(), receiver);
        assert_eq!(refused, Err(DecodeError::History { found: sender, own: receiver }));
    }
    assert_eq!(Message::decode(message.encode(new).to_bytes(), new), Ok(message));
}

#[test]
fn a_newer_version_is_refused_by_number() {
    let message = Message { from: 1, to: 2, term: 3, body: Body::TimeoutNow };
    let mut bytes = message.encode(OWN).to_bytes().to_vec();
    bytes[0] = 3;
    assert_eq!(Message::decode(bytes.into(), OWN), Err(DecodeError::Version(3)));
}
