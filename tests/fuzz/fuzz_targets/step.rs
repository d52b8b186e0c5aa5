//! A live replica that gets messages with any content: it refuses them or continues, never panics,
//! and keeps no more than its bounds allow.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../broker/shard/tests/step/forge.rs"]
mod forge;

fuzz_target!(|data: &[u8]| forge::step_forged(data));
