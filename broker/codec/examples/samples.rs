//! Prints random instances of every message in every version, to compare with another codec.
//!
//! One line each: the name in the schema, the version, `sample` or `default`, the bytes in
//! hexadecimal. The first argument is the number of instances of each message, the second the seed.
//! `tests/suites/kafka-codec/run` feeds them to the classes of Apache Kafka.

use std::io::Write;

use ropewalk_codec::testing::{Sample, Source};
use ropewalk_codec::{Message, Writer};

fn print<M: Sample>(seed: &[u8], out: &mut impl Write) -> std::io::Result<()> {
    for version in M::VERSIONS {
        line("sample", &M::sample(&mut Source::new(seed), version), version, out)?;
    }
    Ok(())
}

fn print_default<M: Sample>(out: &mut impl Write) -> std::io::Result<()> {
    M::VERSIONS.into_iter().try_for_each(|version| line("default", &M::default(), version, out))
}

fn line<M: Message>(kind: &str, m: &M, version: i16, out: &mut impl Write) -> std::io::Result<()> {
    let mut w = Writer::new();
    m.encode(&mut w, version).map_err(std::io::Error::other)?;
    let hexadecimal: String = w.into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(out, "{} {version} {kind} {hexadecimal}", M::MESSAGE_NAME)
}

macro_rules! call_each {
    (($call:ident $arguments:tt) $($module:ident::$message:ident,)*) => {
        $($call::<ropewalk_codec::$module::$message> $arguments?;)*
    };
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let mut next = || arguments.next().and_then(Result::ok).unwrap_or(1);
    let (instances, mut state) = (next(), next());
    let mut out = std::io::stdout().lock();
    for _ in 0..instances {
        // SplitMix64, because any generator with well-spread bytes is good enough.
        let seed: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed >> 56) as u8
        })
        .take(400)
        .collect();
        ropewalk_codec::for_each_message!(call_each, print(&seed, &mut out));
    }
    ropewalk_codec::for_each_message!(call_each, print_default(&mut out));
    Ok(())
}
