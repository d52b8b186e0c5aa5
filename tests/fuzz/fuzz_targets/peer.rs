//! What another broker sends: a hello or its answer, and a stream with its preface and its frames.
//! What can be decoded is the same after encoding and decoding.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use ropewalk_peer::Lane;
use ropewalk_peer::frame::{Control, LENGTH_BYTES, PREFACE_BYTES, Preface, decode_length};
use ropewalk_peer::hello::{Answer, Hello, PROTOCOLS};

fuzz_target!(|data: &[u8]| {
    if let Ok(hello) = Hello::decode(data) {
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
    }
    if let Ok(answer) = Answer::decode(data) {
        assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
    }
    stream(Bytes::copy_from_slice(data));
});

fn stream(mut data: Bytes) {
    let Some(preface) = array::<PREFACE_BYTES>(&mut data) else { return };
    let Ok(preface) = Preface::decode(preface, PROTOCOLS.highest) else { return };
    assert_eq!(preface.encode().len(), PREFACE_BYTES);
    while let Some(length) = array::<LENGTH_BYTES>(&mut data)
        && let Ok(length) = decode_length(preface.lane, length)
        && length <= data.len()
    {
        let body = data.split_to(length);
        if preface.lane == Lane::Control
            && let Ok(frame) = Control::decode(body.clone())
        {
            let mut encoded = BytesMut::new();
            frame.encode_to(&mut encoded);
            assert_eq!(encoded[LENGTH_BYTES..], body);
        }
    }
}

fn array<const N: usize>(data: &mut Bytes) -> Option<[u8; N]> {
    if data.len() < N {
        return None;
    }
    data.split_to(N).as_ref().try_into().ok()
}
