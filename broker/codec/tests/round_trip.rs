//! Every message in every version: what is written can be read back, and nothing else.

use bytes::Bytes;
use proptest::prelude::*;
use ropewalk_codec::testing::{Sample, Source};
use ropewalk_codec::{DecodeError, EncodeError, Reader, Writer};

/// Writes and reads one instance in every version.
fn round_trip<M: Sample>(seed: &[u8]) {
    for version in M::VERSIONS {
        let message = M::sample(&mut Source::new(seed), version);
        let mut w = Writer::new();
        message.encode(&mut w, version).expect("a sample fits its version");
        let length = w.len();
        let wire = w.into_bytes();
        assert_eq!(wire.len(), length, "{} v{version}", M::MESSAGE_NAME);

        let mut r = Reader::new(wire.clone());
        let read = M::decode(&mut r, version).expect("what we wrote can be read");
        assert_eq!(r.finish(), Ok(()), "{} v{version}", M::MESSAGE_NAME);
        assert_eq!(read, message, "{} v{version}", M::MESSAGE_NAME);

        let mut w = Writer::new();
        read.encode(&mut w, version).expect("what was read can be written");
        assert_eq!(w.into_bytes(), wire, "{} v{version}", M::MESSAGE_NAME);
    }
}

/// Every proper prefix of a message is an error.
fn prefixes_are_refused<M: Sample>(seed: &[u8]) {
    for version in M::VERSIONS {
        let message = M::sample(&mut Source::new(seed), version);
        let mut w = Writer::new();
        message.encode(&mut w, version).expect("a sample fits its version");
        let wire = w.into_bytes();
        for end in 0..wire.len() {
            let cut = M::decode(&mut Reader::new(wire.slice(..end)), version);
            assert!(cut.is_err(), "{} v{version} was read from {end} bytes", M::MESSAGE_NAME);
        }
    }
}

/// Arbitrary bytes are a message or an error, and never a panic.
fn noise_is_survived<M: Sample>(noise: &Bytes) {
    for version in M::VERSIONS {
        let _ = M::decode(&mut Reader::new(noise.clone()), version);
    }
}

/// One byte of a valid message is changed: it is refused, or the decoded value can be written.
fn damage_is_survived<M: Sample>(seed: &[u8], at: usize, value: u8) {
    for version in M::VERSIONS {
        let message = M::sample(&mut Source::new(seed), version);
        let mut w = Writer::new();
        message.encode(&mut w, version).expect("a sample fits its version");
        let mut wire = w.into_bytes().to_vec();
        let length = wire.len();
        if let Some(byte) = wire.get_mut(at % length.max(1)) {
            *byte = value;
        }
        if let Ok(read) = M::decode(&mut Reader::new(wire.into()), version) {
            read.encode(&mut Writer::new(), version).expect("what was read can be written");
        }
    }
}

/// Versions around the range are refused on both sides.
fn other_versions_are_refused<M: Sample>() {
    for version in [M::MIN_VERSION - 1, M::MAX_VERSION + 1, i16::MIN, i16::MAX] {
        let message = M::MESSAGE_NAME;
        assert_eq!(
            M::decode(&mut Reader::new(Bytes::new()), version),
            Err(DecodeError::UnsupportedVersion { message, version })
        );
        assert_eq!(
            M::default().encode(&mut Writer::new(), version),
            Err(EncodeError::UnsupportedVersion { message, version })
        );
    }
}

/// The schema's defaults can be encoded in every version.
///
fn defaults_can_be_written<M: Sample>() {
    for version in M::VERSIONS {
        let written = M::default().encode(&mut Writer::new(), version);
        assert_eq!(written, Ok(()), "{} v{version}", M::MESSAGE_NAME);
    }
}

macro_rules! call_each {
    (($call:ident $arguments:tt) $($module:ident :: $message:ident,)*) => {
        $($call::<ropewalk_codec::$module::$message> $arguments;)*
    };
}

#[test]
fn versions_outside_the_range_are_refused() {
    ropewalk_codec::for_each_message!(call_each, other_versions_are_refused());
}

#[test]
fn the_default_of_every_message_can_be_written_in_every_version() {
    ropewalk_codec::for_each_message!(call_each, defaults_can_be_written());
}

fn seed() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..600)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.div_ceil(5)))]

    #[test]
    fn what_is_written_is_read_back(seed in seed()) {
        ropewalk_codec::for_each_message!(call_each, round_trip(&seed));
    }

    #[test]
    fn noise_never_panics(noise in seed()) {
        let noise = Bytes::from(noise);
        ropewalk_codec::for_each_message!(call_each, noise_is_survived(&noise));
    }

    #[test]
    fn damage_never_panics(seed in seed(), at in any::<usize>(), value in any::<u8>()) {
        ropewalk_codec::for_each_message!(call_each, damage_is_survived(&seed, at, value));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.div_ceil(64)))]

    #[test]
    fn a_message_cut_short_is_refused(seed in prop::collection::vec(any::<u8>(), 0..200)) {
        ropewalk_codec::for_each_message!(call_each, prefixes_are_refused(&seed));
    }
}
