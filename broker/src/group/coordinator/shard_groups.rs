//! The groups of one shard in the term in which it leads here.
//!
//! Requests and the observer of leadership read the term of a shard on threads of their own, so
//! they may come with a term that is over.
//!
//! # Invariants
//!
//! - The term never falls, and a term that was left is not entered again.

use std::collections::HashMap;
use std::sync::Arc;

use super::GroupHandle;

/// The groups of one shard in one term.
#[derive(Debug, Default)]
pub(super) struct ShardGroups {
    /// The newest term that was entered.
    term: u64,
    /// Whether the shard no longer leads here in `term`.
    is_over: bool,
    /// Whether all groups with members have been restored.
    pub(super) is_restored: bool,
    pub(super) groups: HashMap<String, Arc<GroupHandle>>,
}

impl ShardGroups {
    /// Enters a term, and returns the groups of the previous one. `None` if `term` is over.
    pub(super) fn enter(&mut self, term: u64) -> Option<Vec<Arc<GroupHandle>>> {
        if term < self.term || (term == self.term && self.is_over) {
            return None;
        }
        if term == self.term {
            return Some(Vec::new());
        }
        Some(self.end(term, false))
    }

    /// Leaves the term, unless the shard leads here in it or in a later one; returns its groups.
    pub(super) fn leave(&mut self, leading: Option<u64>) -> Vec<Arc<GroupHandle>> {
        if leading.is_some_and(|term| term >= self.term) || self.is_over {
            return Vec::new();
        }
        self.end(self.term, true)
    }

    fn end(&mut self, term: u64, is_over: bool) -> Vec<Arc<GroupHandle>> {
        let ended = std::mem::take(self);
        (self.term, self.is_over) = (term, is_over);
        ended.groups.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entered(term: u64) -> ShardGroups {
        let mut groups = ShardGroups::default();
        assert!(groups.enter(term).is_some());
        groups.is_restored = true;
        groups
    }

    #[test]
    fn an_older_term_is_not_entered_and_the_newer_one_stays_restored() {
        let mut groups = entered(5);
        assert!(groups.enter(4).is_none(), "a request that read its term before the election");
        assert!(groups.enter(5).is_some() && groups.is_restored, "nothing began again");
        assert!(groups.enter(6).is_some() && !groups.is_restored);
    }

    #[test]
    fn a_term_that_was_left_is_not_entered_again() {
        let mut groups = entered(5);
        groups.leave(None);
        assert!(groups.enter(5).is_none() && groups.enter(4).is_none());
        assert!(groups.enter(6).is_some());
    }

    #[test]
    fn late_news_of_a_lost_term_do_not_end_the_next_one() {
        let mut groups = entered(6);
        groups.leave(Some(6));
        assert!(groups.enter(6).is_some() && groups.is_restored);
    }
}
