//! Functions on messages that several fuzz targets share.

use bytes::Bytes;
use ropewalk_codec::testing::{Sample, Source};
use ropewalk_codec::{Message, Reader, Writer};

/// Decodes a message. If this succeeds, the message must be the same after encoding and decoding.
///
/// The bytes may differ: unknown tags are dropped, and a varint has more than one encoding.
pub fn decode<M: Message>(body: &Bytes, version: i16) {
    if let Ok(message) = M::decode(&mut Reader::new(body.clone()), version) {
        rewrite(&message, version);
    }
}

/// Generates a message from the bytes, then encodes and decodes it.
pub fn grow<M: Sample>(seed: &[u8], version: i16) {
    rewrite(&M::sample(&mut Source::new(seed), version), version);
}

/// Compares bytes and not messages, because a float may be NaN.
fn rewrite<M: Message>(message: &M, version: i16) {
    let wire = encode(message, version);
    let mut r = Reader::new(wire.clone());
    let read = match M::decode(&mut r, version) {
        Ok(read) => read,
        // The encoded bytes may be shorter than the input, which lowers the allocation limit.
        Err(ropewalk_codec::DecodeError::TooLarge) => return,
        Err(error) => panic!("{} v{version}: {error}\n{message:#?}", M::MESSAGE_NAME),
    };
    assert_eq!(r.finish(), Ok(()));
    assert_eq!(encode(&read, version), wire, "{} v{version}\n{message:#?}", M::MESSAGE_NAME);
}

fn encode<M: Message>(message: &M, version: i16) -> Bytes {
    let mut w = Writer::new();
    message
        .encode(&mut w, version)
        .unwrap_or_else(|error| panic!("{} v{version}: {error}\n{message:#?}", M::MESSAGE_NAME));
    w.into_bytes()
}
