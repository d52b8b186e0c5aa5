//! Offsets of a partition that could not be read after their size had been promised.
//!
//! Invariant: **R1**, at most [`SUSPECTS_MAX`] of them are kept.

use std::ops::Range;

use parking_lot::Mutex;

/// Most suspects of a partition; the oldest is removed first.
const SUSPECTS_MAX: usize = 16;

/// Offsets of pieces that could not be read.
#[derive(Debug, Default)]
pub(crate) struct Suspects(Mutex<Vec<Range<i64>>>);

impl Suspects {
    pub(crate) fn add(&self, offsets: Range<i64>) {
        let mut suspects = self.0.lock();
        suspects.retain(|suspect| *suspect != offsets);
        if suspects.len() >= SUSPECTS_MAX {
            suspects.remove(0);
        }
        suspects.push(offsets);
    }

    pub(crate) fn all(&self) -> Vec<Range<i64>> {
        self.0.lock().clone()
    }

    pub(crate) fn remove(&self, suspect: &Range<i64>) {
        self.0.lock().retain(|kept| kept != suspect);
    }
}
