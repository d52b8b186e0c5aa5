//! A directory of log files with correct checksums and numbers from the fuzzer: opening it
//! succeeds or fails, and never panics.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../broker/wal/tests/power_loss/forge.rs"]
mod forge;

fuzz_target!(|data: &[u8]| forge::open_forged(data));
