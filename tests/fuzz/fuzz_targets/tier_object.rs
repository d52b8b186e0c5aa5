//! An object with changed bytes and corrected checksums: its footer, its blocks and the whole.
//!
//! The first bytes define what is cut off at the end; each group of four bytes after them changes
//! one byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ropewalk_tier::testing;

fuzz_target!(|data: &[u8]| {
    let [cut, changes @ ..] = data else { return };
    let (changes, _) = changes.as_chunks::<4>();
    testing::survive_object(*cut, changes);
});
