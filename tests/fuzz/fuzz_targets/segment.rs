//! The files of a partition with changed bytes and corrected checksums, opened with any durable
//! end.
//!
//! The first bytes define the durable end and the lengths of log and index; each group of four
//! bytes after them changes one byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ropewalk_segment::{DurableEnd, testing};

fuzz_target!(|data: &[u8]| {
    let [base, at_low, at_high, blocks, next, start, log_cut, index_cut, changes @ ..] = data
    else {
        return;
    };
    let (mut log, mut index) = testing::sample();
    log.truncate(log.len() - usize::from(*log_cut));
    index.truncate(index.len() - usize::from(*index_cut));
    let (changes, _) = changes.as_chunks::<4>();
    for [file, low, high, value] in changes {
        let file = if file % 2 == 0 { &mut log } else { &mut index };
        let at = usize::from(u16::from_le_bytes([*low, *high])) % file.len();
        file[at] = *value;
    }
    testing::seal_log(&mut log);
    let end = DurableEnd {
        segment_base: i64::from(*base),
        position_bytes: u64::from(u16::from_le_bytes([*at_low, *at_high])),
        blocks: u32::from(*blocks),
        next_offset: i64::from(*next),
    };
    testing::survive(&log, &index, end, i64::from(*start));
});
