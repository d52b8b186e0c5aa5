//! Compares our bytes with those of the crate `kafka-protocol`, which has an independent generator.
//!
//! It must be able to read what we write, and must write the same bytes again. Messages and
//! versions that only one of the two has are left out.
#![recursion_limit = "512"]

use kafka_protocol::protocol::{Decodable, Encodable};
use proptest::prelude::*;
use ropewalk_codec::Writer;
use ropewalk_codec::testing::{Sample, Source};

/// Returns the number of versions that were compared.
fn agree<Ours, Theirs>(seed: &[u8]) -> usize
where
    Ours: Sample,
    Theirs: Decodable + Encodable + kafka_protocol::protocol::Message,
{
    let shared = |version: &i16| (Theirs::VERSIONS.min..=Theirs::VERSIONS.max).contains(version);
    for version in Ours::VERSIONS.filter(shared) {
        let mut w = Writer::new();
        let message = Ours::sample(&mut Source::new(seed), version);
        message.encode(&mut w, version).expect("a sample fits its version");
        let wire = w.into_bytes();
        let name = Ours::MESSAGE_NAME;
        let mut rest = wire.clone();
        let read = Theirs::decode(&mut rest, version)
            .unwrap_or_else(|error| panic!("{name} v{version}: {error}\n{message:#?}"));
        assert!(rest.is_empty(), "{name} v{version}: {} bytes left\n{message:#?}", rest.len());
        let mut again = Vec::new();
        read.encode(&mut again, version)
            .unwrap_or_else(|error| panic!("{name} v{version}: {error}\n{message:#?}"));
        assert_eq!(again, wire, "{name} v{version}\n{message:#?}");
    }
    Ours::VERSIONS.filter(shared).count()
}

/// Adds up the results of [`agree`] for all messages that the other codec has.
macro_rules! agree_on_each {
    (($seed:expr)) => { 0 };
    (($seed:expr) streams_group_describe_request::$_:ident, $($rest:tt)*) => { agree_on_each!(($seed) $($rest)*) };
    (($seed:expr) streams_group_describe_response::$_:ident, $($rest:tt)*) => { agree_on_each!(($seed) $($rest)*) };
    (($seed:expr) streams_group_heartbeat_request::$_:ident, $($rest:tt)*) => { agree_on_each!(($seed) $($rest)*) };
    (($seed:expr) streams_group_heartbeat_response::$_:ident, $($rest:tt)*) => { agree_on_each!(($seed) $($rest)*) };
    (($seed:expr) $module:ident::$message:ident, $($rest:tt)*) => {
        agree::<ropewalk_codec::$module::$message, kafka_protocol::messages::$message>($seed)
            + agree_on_each!(($seed) $($rest)*)
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.div_ceil(5)))]

    #[test]
    fn the_other_codec_reads_and_writes_the_same_bytes(seed in prop::collection::vec(any::<u8>(), 0..600)) {
        let compared = ropewalk_codec::for_each_message!(agree_on_each, &seed);
        prop_assert!(compared > 400, "only {compared} versions are known to both");
    }
}
