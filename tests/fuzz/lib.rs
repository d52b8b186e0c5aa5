//! What several fuzz targets do to a message.

use bytes::Bytes;
use ropewalk_codec::testing::{Sample, Source};
use ropewalk_codec::{Message, Reader, Writer};

/// Decodes a message. If that works, what it says must survive being written and read again.
///
/// The bytes themselves need not: unknown tags are dropped, and varints may be spelled in more than one way.
pub fn decode<M: Message>(body: &Bytes, version: i16) {
    if let Ok(message) = M::decode(&mut Reader::new(body.clone()), version) {
        rewrite(&message, version);
    }
}

/// Grows a message from the bytes, and takes it through the wire.
pub fn grow<M: Sample>(seed: &[u8], version: i16) {
    rewrite(&M::sample(&mut Source::new(seed), version), version);
}

/// Compares bytes and not messages, because a float need not be equal to itself.
fn rewrite<M: Message>(message: &M, version: i16) {
    let wire = encode(message, version);
    let mut r = Reader::new(wire.clone());
    let read = match M::decode(&mut r, version) {
        Ok(read) => read,
        // Its own bytes are shorter than those it was read from, and so is what it may allocate.
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
