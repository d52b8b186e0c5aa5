//! Round trips of hellos and answers, the layout of version 1, and arbitrary bytes.

use proptest::prelude::*;

use super::*;

fn hello() -> Hello {
    Hello {
        protocols: Protocols { lowest: 1, highest: 2 },
        class: Class::Bulk,
        broker: BrokerId(3),
        to: BrokerId(4),
        incarnation: 5,
        process: 6,
        features: 7,
        cluster_id: "c1".to_owned(),
        earlier: vec![Start { incarnation: 4, process: 9 }],
    }
}

#[test]
fn the_layout_is_fixed() {
    let expected = [
        b"RWPEER".as_slice(),
        &[1, 0, 2, 0, 1, 3, 0, 0, 0, 4, 0, 0, 0],
        &[5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 2],
        b"c1",
        &[1, 4, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    assert_eq!(hello().encode(), expected);
    let refusal = Answer::Refused(Refusal::new(Reason::Stale, "old"));
    assert_eq!(refusal.encode(), [1, 7, 3, 0, b'o', b'l', b'd'].as_slice());
    let accepted = Answer::Accepted { protocol: 2, hello: hello() };
    assert_eq!(accepted.encode(), [[0, 2, 0].as_slice(), &expected].concat());
}

#[test]
fn later_fields_are_ignored_and_missing_ones_are_not() {
    let bytes = hello().encode();
    assert_eq!(Hello::decode(&[&bytes, b"more".as_slice()].concat()), Ok(hello()));
    let before_the_starts = bytes.len() - 17;
    for end in (0..bytes.len()).filter(|end| *end != before_the_starts) {
        assert_eq!(Hello::decode(&bytes[..end]), Err(DecodeError::Truncated), "{end} bytes");
    }
    let older = Hello { earlier: Vec::new(), ..hello() };
    assert_eq!(Hello::decode(&bytes[..before_the_starts]), Ok(older), "of an older broker");
}

#[test]
fn each_field_is_checked() {
    let change = |at: usize, byte: u8| {
        let mut bytes = hello().encode().to_vec();
        bytes[at] = byte;
        Hello::decode(&bytes)
    };
    assert_eq!(change(0, b'X'), Err(DecodeError::Magic));
    assert_eq!(change(6, 9), Err(DecodeError::Range));
    assert_eq!(change(10, 2), Err(DecodeError::Class(2)));
    assert_eq!(change(39, 64), Err(DecodeError::Length(64)));
    assert_eq!(change(40, 0xff), Err(DecodeError::Text));
    assert_eq!(change(42, 17), Err(DecodeError::Starts(17)));
    assert_eq!(Answer::decode(&[2]), Err(DecodeError::Answer(2)));
    assert_eq!(Answer::decode(&[1, 1, 1, 1]), Err(DecodeError::Length(257)));
    assert_eq!(Answer::decode(&[1, 1, 1, 0]), Err(DecodeError::Truncated));
}

#[test]
fn an_unknown_reason_keeps_its_code() {
    let answer = Answer::decode(&[1, 200, 1, 0, b'x']);
    let refusal = Refusal { reason: Reason::Other(200), text: "x".to_owned() };
    assert_eq!(answer, Ok(Answer::Refused(refusal)));
}

#[test]
fn the_common_version_is_the_highest_of_both() {
    let range = |lowest, highest| Protocols { lowest, highest };
    assert_eq!(range(1, 3).common(range(2, 5)), Some(3));
    assert_eq!(range(2, 5).common(range(1, 3)), Some(3));
    assert_eq!(range(1, 1).common(range(2, 5)), None);
    assert_eq!(range(4, 5).common(range(1, 3)), None);
}

fn hellos() -> impl Strategy<Value = Hello> {
    let range = any::<(u16, u16)>();
    let ids = any::<(i32, i32, u64, u64, u32)>();
    let start =
        any::<(u64, u64)>().prop_map(|(incarnation, process)| Start { incarnation, process });
    let starts = prop::collection::vec(start, 0..=limits::EARLIER_STARTS_MAX);
    (range, any::<bool>(), ids, "[ -~]{0,63}", starts).prop_map(
        |((a, b), bulk, ids, cluster_id, earlier)| Hello {
            protocols: Protocols { lowest: a.min(b), highest: a.max(b) },
            class: if bulk { Class::Bulk } else { Class::Raft },
            broker: BrokerId(ids.0),
            to: BrokerId(ids.1),
            incarnation: ids.2,
            process: ids.3,
            features: ids.4,
            cluster_id,
            earlier,
        },
    )
}

fn answers() -> impl Strategy<Value = Answer> {
    let accepted =
        (any::<u16>(), hellos()).prop_map(|(protocol, hello)| Answer::Accepted { protocol, hello });
    let refused = (any::<u8>(), ".{0,200}")
        .prop_map(|(code, text)| Answer::Refused(Refusal::new(Reason::of_code(code), text)));
    prop_oneof![accepted, refused]
}

proptest! {
    #[test]
    fn a_hello_survives_its_encoding(hello in hellos()) {
        let bytes = hello.encode();
        prop_assert!(bytes.len() <= limits::HELLO_BYTES_MAX);
        prop_assert_eq!(Hello::decode(&bytes), Ok(hello));
    }

    #[test]
    fn an_answer_survives_its_encoding(answer in answers()) {
        let bytes = answer.encode();
        prop_assert!(bytes.len() <= limits::HELLO_BYTES_MAX);
        prop_assert_eq!(Answer::decode(&bytes), Ok(answer));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
        let _ = Hello::decode(&bytes);
        let _ = Answer::decode(&bytes);
        let _ = Hello::decode(&[MAGIC.as_slice(), &bytes].concat());
    }
}
