//! The bound on what a leader has proposed and not committed.
//!
//! The `raft` crate has such a bound, but it does not see the payloads.

use std::collections::VecDeque;

use crate::limits;

/// The sizes of the leader's own entries that are not committed, oldest first.
#[derive(Debug, Default)]
pub(super) struct Uncommitted {
    /// The term in which they were proposed.
    term: u64,
    entries: VecDeque<(u64, usize)>,
    bytes: usize,
}

impl Uncommitted {
    /// Whether an entry of `len_bytes` may be proposed in `term`, with all through `committed`
    /// committed. One entry always may, whatever its size.
    pub(super) fn admits(&mut self, term: u64, committed: u64, len_bytes: usize) -> bool {
        if self.term != term {
            *self = Self { term, ..Self::default() };
        }
        while let Some((_, len_bytes)) = self.entries.pop_front_if(|(index, _)| *index <= committed)
        {
            self.bytes -= len_bytes;
        }
        self.bytes == 0 || (self.bytes + len_bytes) as u64 <= limits::UNCOMMITTED_BYTES_MAX
    }

    /// Counts an entry that was proposed.
    pub(super) fn add(&mut self, index: u64, len_bytes: usize) {
        self.entries.push_back((index, len_bytes));
        self.bytes += len_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = limits::UNCOMMITTED_BYTES_MAX as usize;

    #[test]
    fn entries_count_until_they_are_committed_or_the_term_ends() {
        let mut uncommitted = Uncommitted::default();
        assert!(uncommitted.admits(1, 0, 2 * MAX), "the first may have any size");
        uncommitted.add(5, MAX - 1);
        assert!(uncommitted.admits(1, 4, 1) && !uncommitted.admits(1, 4, 2));
        uncommitted.add(6, 1);
        assert!(!uncommitted.admits(1, 4, 1));
        assert!(uncommitted.admits(1, 5, MAX - 1) && !uncommitted.admits(1, 5, MAX));
        assert!(uncommitted.admits(2, 5, MAX), "another leader's entries do not count");
    }
}
