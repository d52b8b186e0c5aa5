//! Decoding a frame takes at most a fixed multiple of its size in memory, whatever counts it
//! states.

use allocation_counter::measure;
use bytes::Bytes;
use proptest::prelude::*;
use ropewalk_codec::testing::{Sample, Source};
use ropewalk_codec::{ALLOCATION_BASE_BYTES, ALLOCATION_FACTOR, Reader, Writer};

/// Memory for sharing a frame, once per frame, not counted by arrays.
const SHARING_BYTES: u64 = 1024;

fn decode_is_bounded<M: Sample>(frame: &Bytes) {
    let length = frame.len();
    let bound = (length * ALLOCATION_FACTOR + ALLOCATION_BASE_BYTES) as u64 + SHARING_BYTES;
    for version in M::VERSIONS {
        let frame = frame.clone();
        let taken = measure(|| drop(M::decode(&mut Reader::new(frame), version)));
        assert!(
            taken.bytes_total <= bound,
            "{} v{version} takes {} bytes for a frame of {}",
            M::MESSAGE_NAME,
            taken.bytes_total,
            length
        );
    }
}

/// Inserts `bomb` at every position of a valid message in turn.
fn bombs_are_bounded<M: Sample>(seed: &[u8], bomb: &[u8]) {
    let message = M::sample(&mut Source::new(seed), M::MAX_VERSION);
    let mut w = Writer::new();
    message.encode(&mut w, M::MAX_VERSION).expect("a sample fits its version");
    let wire = w.into_bytes();
    for at in 0..wire.len() {
        let mut frame = wire[..at].to_vec();
        frame.extend_from_slice(bomb);
        frame.extend_from_slice(&wire[at..]);
        decode_is_bounded::<M>(&frame.into());
    }
}

macro_rules! call_each {
    (($call:ident $arguments:tt) $($module:ident::$message:ident,)*) => {
        $($call::<ropewalk_codec::$module::$message> $arguments;)*
    };
}

/// A count of 2³¹−1 in both encodings, and the longest varints.
const BOMBS: [&[u8]; 4] = [
    b"\x7f\xff\xff\xff",
    b"\x80\x80\x80\x80\x08",
    b"\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
];

#[test]
fn a_count_of_two_billion_costs_nothing() {
    let seed: Vec<u8> = (0..60).map(|byte: u8| byte.wrapping_mul(37) | 1).collect();
    for bomb in BOMBS {
        ropewalk_codec::for_each_message!(call_each, bombs_are_bounded(&seed, bomb));
    }
}

#[test]
fn counts_that_the_frame_can_just_hold_are_bounded_too() {
    // Long runs of one byte: as many of the smallest elements as the frame holds, at every depth.
    for filling in [0, 1, 2, 3, 4, 0x10, 0x7f] {
        for head in [b"".as_slice(), b"\0\x01\xff\xff", b"\0\x01\xff\xf0\0\0", b"\x80\x80\x04"] {
            let mut frame = head.to_vec();
            frame.resize(128 * 1024, filling);
            let frame = Bytes::from(frame);
            ropewalk_codec::for_each_message!(call_each, decode_is_bounded(&frame));
        }
    }
}

#[test]
fn a_metadata_request_for_as_many_topics_as_fit_is_bounded() {
    use ropewalk_codec::metadata_request::MetadataRequest;
    let frame_bytes = 8 * 1024 * 1024;
    let count = u32::try_from(frame_bytes / 2 - 2).expect("small");
    let mut frame = count.to_be_bytes().to_vec();
    frame.resize(frame_bytes, 0);
    decode_is_bounded::<MetadataRequest>(&frame.into());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.div_ceil(8)))]

    #[test]
    fn noise_is_bounded(noise in prop::collection::vec(any::<u8>(), 0..4096)) {
        let noise = Bytes::from(noise);
        ropewalk_codec::for_each_message!(call_each, decode_is_bounded(&noise));
    }
}
