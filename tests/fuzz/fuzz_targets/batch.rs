//! A record batch from a client or a disk: header and records from the fuzzer, or a valid header
//! before records from the fuzzer.
//!
//! The checksum is corrected in half of the inputs, so that the fuzzer reaches the code after its
//! check.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ropewalk_batch::{Builder, Compression, HEADER_LEN, Rules, Target, TimestampType};

#[path = "../../../broker/batch/tests/properties/every_entrance.rs"]
mod every_entrance;
use every_entrance::{RULES, seal, use_every_entrance};

fuzz_target!(|data: &[u8]| {
    let [codecs, flags, count, stored @ ..] = data else { return };
    let mut bytes = if flags & 1 == 0 {
        stored.to_vec()
    } else {
        let sent = Compression::ALL[usize::from(codecs & 15) % 5];
        let mut good = Builder::new().compression(sent).build()[..HEADER_LEN].to_vec();
        good[23..27].copy_from_slice(&(i32::from(*count) - 1).to_be_bytes());
        good[57..61].copy_from_slice(&i32::from(*count).to_be_bytes());
        [&good, stored].concat()
    };
    if flags & 2 == 0 {
        seal(&mut bytes);
    }
    let wanted = Compression::ALL[usize::from(codecs >> 4) % 5];
    let rules = Rules {
        compacted: flags & 4 != 0,
        compression: if flags & 8 == 0 { Target::Producer } else { Target::Codec(wanted, 1) },
        timestamp: TimestampType::CreateTime,
        ..RULES
    };
    use_every_entrance(&bytes.into(), &rules);
});
