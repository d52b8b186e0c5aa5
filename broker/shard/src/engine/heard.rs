//! When the other members were last heard of.

use std::collections::BTreeMap;

use crate::limits;

/// The time of the last message of every other member, in ticks.
#[derive(Debug, Default)]
pub(super) struct Heard {
    ticks: u64,
    last: BTreeMap<u64, u64>,
}

impl Heard {
    pub(super) fn tick(&mut self) {
        self.ticks += 1;
    }

    pub(super) fn note(&mut self, member: u64) {
        self.last.insert(member, self.ticks);
    }

    /// Whether a member was not heard of for an election timeout, or never.
    pub(super) fn is_silent(&self, member: u64) -> bool {
        let last = self.last.get(&member);
        last.is_none_or(|last| self.ticks - last > limits::ELECTION_TICKS as u64)
    }

    /// Removes those that are no members.
    pub(super) fn retain(&mut self, is_member: impl Fn(u64) -> bool) {
        self.last.retain(|member, _| is_member(*member));
    }
}
