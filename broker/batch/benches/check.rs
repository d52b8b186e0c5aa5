//! Cost of validation: nanoseconds per batch of about 16 KiB.
//!
//! `cargo bench -p ropewalk-batch` prints a line per record size and codec. The fast path
//! (uncompressed, nothing to rewrite) is a checksum and one pass over the length fields.

#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use ropewalk_batch::{Builder, Compression, Header, Rules, Target, TimestampType, check, records};

const BATCH_BYTES: usize = 16 * 1024;
const NOW_MS: i64 = 1_700_000_000_000;
const RULES: Rules = Rules {
    size_bytes_max: 1 << 20,
    compacted: true,
    timestamp: TimestampType::CreateTime,
    before_ms_max: i64::MAX,
    after_ms_max: 3_600_000,
    compression: Target::Producer,
    zstd_allowed: true,
    decompressed_bytes_max: 64 << 20,
};

/// Values with about the compression ratio of JSON.
fn value(seed: usize, len: usize) -> Vec<u8> {
    let mut text = String::new();
    let mut state = seed as u64 + 1;
    while text.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text.push_str(&format!("{{\"id\":{},\"state\":\"active\"}}", state >> 40));
    }
    text.truncate(len);
    text.into_bytes()
}

fn batch(record_bytes: usize, codec: Compression) -> Bytes {
    let count = BATCH_BYTES / record_bytes;
    let add = |builder: Builder, index: usize| {
        let key = format!("key-{index}");
        builder.record(
            NOW_MS + index as i64,
            Some(key.as_bytes()),
            Some(&value(index, record_bytes)),
        )
    };
    (0..count).fold(Builder::new().compression(codec), add).build()
}

/// The shortest of many runs, to leave out other load on the machine.
fn best_ns(mut work: impl FnMut()) -> u128 {
    const CALLS: u32 = 200;
    let round = |_| {
        let started = Instant::now();
        (0..CALLS).for_each(|_| work());
        started.elapsed().as_nanos() / u128::from(CALLS)
    };
    (0..50).map(round).min().unwrap_or_default()
}

fn main() {
    println!(
        "{:>12} {:>8} {:>8} {:>12} {:>12} {:>12}",
        "record", "codec", "bytes", "checksum ns", "check ns", "open ns"
    );
    for record_bytes in [1024, 100] {
        for codec in Compression::ALL {
            let bytes = batch(record_bytes, codec);
            let sealed = best_ns(|| drop(black_box(Header::verify(black_box(&bytes)))));
            let checked = best_ns(|| drop(black_box(check(bytes.clone(), &RULES, NOW_MS))));
            let opened = best_ns(|| {
                let header = Header::parse(&bytes).expect("a good batch");
                let all = records(&header, bytes.clone(), 1 << 20).expect("a good batch");
                all.for_each(|record| drop(black_box(record)));
            });
            println!(
                "{record_bytes:>12} {codec:>8} {:>8} {sealed:>12} {checked:>12} {opened:>12}",
                bytes.len()
            );
        }
    }
}
