//! A checkpoint in a bucket from any bytes behind its magic, with a corrected checksum. What can be
//! decoded is the same after encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ropewalk_tier::testing;

fuzz_target!(|data: &[u8]| testing::survive_checkpoint(data));
