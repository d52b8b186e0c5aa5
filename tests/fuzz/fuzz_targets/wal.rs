//! A directory of log files with right checksums and numbers from the fuzzer: refused or taken, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../broker/wal/tests/power_loss/forge.rs"]
mod forge;

fuzz_target!(|data: &[u8]| forge::open_forged(data));
