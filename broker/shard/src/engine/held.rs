//! Followers to which no entries are sent for a while, because the broker has too many bytes on
//! their way: see [`crate::send_budget`].
//!
//! The `raft` crate takes every message that it returns for sent. When the follower's turn comes,
//! entries are sent from the first one on that was not sent. So nothing is sent twice that is on
//! its way.

use std::collections::BTreeMap;

use raft::ProgressState;

use super::Engine;
use crate::message::{Body, Message};

/// The first entry that was not sent to each held follower.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<u64, u64>);

impl Held {
    /// Whether a message is held back. What is behind an entry that was not sent is of no use.
    pub(super) fn takes(&mut self, message: &Message) -> bool {
        let Body::Append { entries, .. } = &message.body else { return false };
        let Some(first) = self.0.get_mut(&message.to) else { return false };
        *first = entries.first().map_or(*first, |entry| entry.index.min(*first));
        true
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Removes those that are no members.
    pub(super) fn retain(&mut self, is_member: impl Fn(u64) -> bool) {
        self.0.retain(|follower, _| is_member(*follower));
    }
}

impl Engine {
    /// Reports that the entries from `first` on were not sent to `replica`. None is sent to it
    /// until [`Engine::release`].
    pub fn hold(&mut self, replica: u64, first: u64) {
        if self.is_leader() && replica != self.id() && self.members.contains(replica) {
            let held = self.held.0.entry(replica).or_insert(first);
            *held = first.min(*held);
        }
    }

    /// Sends entries to a held follower again.
    pub fn release(&mut self, replica: u64) {
        let Some(first) = self.held.0.remove(&replica) else { return };
        if !self.is_leader() {
            return;
        }
        let raft = &mut self.node.raft;
        let Some(progress) = raft.mut_prs().get_mut(replica) else { return };
        match progress.state {
            ProgressState::Replicate => {
                let next = first.min(progress.next_idx).max(progress.matched + 1);
                // This frees the places of the messages that were not sent.
                progress.become_replicate();
                progress.next_idx = next;
            }
            ProgressState::Probe => progress.resume(),
            ProgressState::Snapshot => return,
        }
        raft.send_append(replica);
    }
}
