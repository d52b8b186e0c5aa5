//! B1: what a hostile batch makes validation allocate stays within the limit, whatever sizes it
//! states.
//!
//! The tests measure the peak memory of the process, so this file has no others and runs them one
//! after another.

#![expect(clippy::disallowed_methods, reason = "it reads what the kernel counts")]
#![cfg(target_os = "linux")]

use std::fs;

use bytes::Bytes;
use ropewalk_batch::{
    Builder, Compression, HEADER_LEN, Header, Refusal, Rules, Target, TimestampType, check, records,
};

const MIB: usize = 1 << 20;
const LIMIT_BYTES: usize = 8 * MIB;

const RULES: Rules = Rules {
    size_bytes_max: 64 * MIB,
    compacted: false,
    timestamp: TimestampType::CreateTime,
    before_ms_max: i64::MAX,
    after_ms_max: i64::MAX,
    compression: Target::Producer,
    zstd_allowed: true,
    decompressed_bytes_max: LIMIT_BYTES,
};

fn peak_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("Linux");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("KiB") * 1024
}

/// Bytes by which `run` raises the peak.
fn grows_by(run: impl FnOnce()) -> usize {
    // Resets the peak to the memory that is resident now.
    fs::write("/proc/self/clear_refs", "5").expect("Linux");
    let before = peak_bytes();
    run();
    peak_bytes() - before
}

fn sealed(header: &[u8], stored: &[u8]) -> Bytes {
    let mut bytes = [header, stored].concat();
    let length = (bytes.len() - 12) as u32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

/// 128 MiB of zeroes as one record, read with at most a few MiB of memory.
fn bomb(codec: Compression) -> Bytes {
    let builder = Builder::new().compression(codec);
    builder.record(0, None, Some(&vec![0; 128 * MIB])).build()
}

#[test]
fn b1_memory_stays_within_the_limit() {
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let bytes = bomb(codec);
        let streamed = grows_by(|| {
            let refused = check(bytes.clone(), &RULES, 0);
            assert!(matches!(refused, Err(Refusal::TooLarge { .. })), "{codec}: {refused:?}");
        });
        assert!(streamed < 4 * MIB + LIMIT_BYTES / 4, "{codec}: {streamed} to check");
        let in_memory = grows_by(|| {
            let header = Header::parse(&bytes).expect("a batch");
            assert!(records(&header, bytes.clone(), LIMIT_BYTES).is_err());
            let plain = Rules { compression: Target::Uncompressed, ..RULES };
            assert!(check(bytes.clone(), &plain, 0).is_err());
        });
        // Growing a buffer to the limit briefly holds its old and its new allocation.
        assert!(in_memory < 4 * LIMIT_BYTES, "{codec}: {in_memory} to decompress");
    }

    let good = Builder::new().record(0, None, None).build();
    let mut header = good[..HEADER_LEN].to_vec();
    let claims = grows_by(|| {
        for code in 0..=4 {
            header[22] = code;
            // A record, a key, a list of headers of 2 GiB; a count of 2^31 records; blocks and
            // frames that state a larger size than they have.
            for stored in [
                &[0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 1, 1, 0][..],
                &[30, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0x0f, 1, 0],
                &[30, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0],
                &[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0],
                b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\x7f\xff\xff\xff\xff\xff\xff\xff\x0f",
                &[
                    0x04, 0x22, 0x4d, 0x18, 0x68, 0x70, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                    0x7f, 0x0e,
                ],
                &[
                    0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
                    0x01, 0, 0,
                ],
            ] {
                for count in [1, i32::MAX] {
                    header[57..61].copy_from_slice(&count.to_be_bytes());
                    header[23..27].copy_from_slice(&(count - 1).to_be_bytes());
                    let bytes = sealed(&header, stored);
                    assert!(check(bytes.clone(), &RULES, 0).is_err());
                    let header = Header::parse(&bytes).expect("a header");
                    if let Ok(mut all) = records(&header, bytes, LIMIT_BYTES) {
                        assert!(all.any(|record| record.is_err()));
                    }
                }
            }
        }
    });
    assert!(claims < 2 * MIB, "{claims} for claims without content");
}
