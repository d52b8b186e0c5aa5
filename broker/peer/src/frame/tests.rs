//! Round trips, the layout of version 1, lengths at the bounds, and arbitrary bytes.

use proptest::prelude::*;

use super::*;

fn encoded(frame: &Control) -> Bytes {
    let mut out = BytesMut::new();
    frame.encode_to(&mut out);
    out.freeze()
}

#[test]
fn the_layout_is_fixed() {
    let preface = Preface { protocol: 1, lane: Lane::Append, shard: ShardId(7) };
    assert_eq!(preface.encode(), [1, 0, 1, 7, 0, 0, 0].as_slice());
    let message = Control::Message((ShardId(2), Bytes::from_static(b"ab")));
    assert_eq!(encoded(&message), [7, 0, 0, 0, 0, 2, 0, 0, 0, b'a', b'b'].as_slice());
    let heartbeats = Control::Heartbeats(vec![(ShardId(3), Bytes::from_static(b"x"))]);
    let expected = [14, 0, 0, 0, 1, 1, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, b'x'];
    assert_eq!(encoded(&heartbeats), expected.as_slice());
}

#[test]
fn r1_a_length_above_the_bound_of_the_lane_is_refused() {
    for lane in Lane::ALL {
        let max = lane.frame_bytes_max();
        assert_eq!(encode_length(lane, max).map(|bytes| bytes.len()), Ok(LENGTH_BYTES));
        let length = u32::try_from(max + 1).expect("a bound is small");
        let refused = FrameError::TooLong { lane, length };
        assert_eq!(encode_length(lane, max + 1), Err(refused));
        assert_eq!(decode_length(lane, length.to_le_bytes()), Err(refused));
        let longest = FrameError::TooLong { lane, length: u32::MAX };
        assert_eq!(decode_length(lane, [0xff; 4]), Err(longest));
        assert_eq!(encode_length(lane, usize::MAX), Err(longest));
    }
}

#[test]
fn each_field_is_checked() {
    let preface = |bytes| Preface::decode(bytes, 1);
    assert_eq!(preface([2, 0, 0, 0, 0, 0, 0]), Err(FrameError::Protocol { found: 2, agreed: 1 }));
    assert_eq!(preface([1, 0, 3, 0, 0, 0, 0]), Err(FrameError::Lane(3)));
    let decode = |bytes: &'static [u8]| Control::decode(Bytes::from_static(bytes));
    assert_eq!(decode(&[]), Err(FrameError::Truncated));
    assert_eq!(decode(&[2]), Err(FrameError::Kind(2)));
    assert_eq!(decode(&[0, 1, 0, 0]), Err(FrameError::Truncated));
    assert_eq!(decode(&[1, 1, 0, 0, 0]), Err(FrameError::Truncated));
    assert_eq!(decode(&[1, 0, 0, 0, 0, 9]), Err(FrameError::Trailing(1)));
    assert_eq!(
        decode(&[1, 255, 255, 255, 255, 0, 0, 0, 0, 255, 255, 255, 255]),
        Err(FrameError::Truncated)
    );
}

fn shard_messages() -> impl Strategy<Value = ShardMessage> {
    (any::<u32>(), prop::collection::vec(any::<u8>(), 0..40))
        .prop_map(|(shard, message)| (ShardId(shard), message.into()))
}

fn frames() -> impl Strategy<Value = Control> {
    prop_oneof![
        shard_messages().prop_map(Control::Message),
        prop::collection::vec(shard_messages(), 0..8).prop_map(Control::Heartbeats),
    ]
}

proptest! {
    #[test]
    fn a_frame_survives_its_encoding(frame in frames()) {
        let mut bytes = encoded(&frame);
        let length = decode_length(Lane::Control, bytes.split_to(4)[..].try_into().unwrap());
        prop_assert_eq!(length, Ok(bytes.len()));
        prop_assert_eq!(Control::decode(bytes), Ok(frame));
    }

    #[test]
    fn a_preface_survives_its_encoding(protocol: u16, lane in 0..3usize, shard: u32) {
        let preface = Preface { protocol, lane: Lane::ALL[lane], shard: ShardId(shard) };
        let bytes = preface.encode()[..].try_into().unwrap();
        prop_assert_eq!(Preface::decode(bytes, protocol), Ok(preface));
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        kind in 0..4u8,
        bytes in prop::collection::vec(any::<u8>(), 0..64),
        preface: [u8; PREFACE_BYTES],
    ) {
        let _ = Control::decode([&[kind], bytes.as_slice()].concat().into());
        let _ = Control::decode(bytes.into());
        let _ = Preface::decode(preface, 1);
    }
}
