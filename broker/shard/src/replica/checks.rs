//! The comparison of the state between replicas, which finds one that has diverged: a bug in
//! applying entries, or memory or a disk that changed a bit.
//!
//! The leader proposes a [`CheckState`](crate::command::ShardCommand::CheckState) now and then.
//! Every replica that applies it computes the digest of its state after this entry, which is the
//! same at all replicas that are correct. It covers the whole state and a checksum of every batch
//! that was appended. Voters send theirs to all other members. A replica whose version encodes the
//! state in another way takes no part.
//!
//! # The rule
//!
//! - A replica stops when a majority of the voters have one digest at an index and it has another
//!   one. This holds for a leader, too: the others elect another one. Those that agree are a
//!   majority, so the shard continues.
//! - Without such a majority nothing is decided. Two replicas that differ while the third of three
//!   is down both continue, and each difference is reported as a
//!   [`MessageRejection::StateDiffers`].
//! - A digest that is lost is not sent again. What has diverged stays different, so the next check
//!   decides.
//! - The only replica computes no digest.

use std::collections::BTreeMap;

use super::{Replica, StopReason, Work};
use crate::command::{Command, ShardCommand};
use crate::engine::MessageRejection;
use crate::message::{Body, Message};
use crate::state::{ENCODING, State};

/// The command that has the replicas compare their states.
pub(crate) fn check() -> Command {
    Command::Shard(ShardCommand::CheckState { encoding: ENCODING })
}

/// Indexes of which digests are kept: those of other replicas wait here for a replica that lags.
const INDEXES_KEPT: usize = 4;

/// The digests that this replica knows.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// By index and replica, this one included.
    digests: BTreeMap<u64, BTreeMap<u64, u32>>,
    /// The last index at which this replica computed its own.
    newest: u64,
    /// The reason to stop, until [`Replica::poll`] takes it.
    pub(super) finding: Option<StopReason>,
}

impl Checks {
    fn note(&mut self, index: u64, replica: u64, digest: u32) {
        self.digests.entry(index).or_default().insert(replica, digest);
        while self.digests.len() > INDEXES_KEPT {
            self.digests.pop_first();
        }
    }

    fn of(&self, index: u64, replica: u64) -> Option<u32> {
        self.digests.get(&index)?.get(&replica).copied()
    }

    /// The digest that a majority of `voters` have at an index.
    fn majority(&self, index: u64, voters: &[u64]) -> Option<u32> {
        let all = self.digests.get(&index)?;
        let known = || voters.iter().filter_map(|voter| all.get(voter));
        let is_of_majority =
            |digest: &&u32| 2 * known().filter(|other| other == digest).count() > voters.len();
        known().find(is_of_majority).copied()
    }

    /// Number of digests that are kept.
    pub(super) fn len(&self) -> usize {
        self.digests.values().map(BTreeMap::len).sum()
    }
}

impl Replica {
    /// Whether the leader has something to check: it has other members, and entries were applied
    /// since the last check.
    pub(crate) fn wants_check(&self) -> bool {
        let has_peers = self.leading.is_some() && !self.engine.is_lone();
        has_peers && self.applied.index > self.checks.newest
    }

    /// Computes the digest of the state after the last applied entry, and sends it to the others.
    pub(super) fn check_state(&mut self, state: &State, work: &mut Work) {
        if self.engine.is_lone() {
            return;
        }
        let (id, term) = (self.id.0, self.engine.term());
        let (index, digest) = (self.applied.index, state.digest());
        self.checks.newest = index;
        self.checks.note(index, id, digest);
        let members = self.engine.members();
        if members.is_voter(id) {
            let body = Body::StateDigest { index, digest };
            let message = |to| Message { from: id, to, term, body: body.clone() };
            work.messages.extend(members.others(id).map(message));
        }
        self.compare(index);
    }

    /// Takes the digest of another replica.
    pub(super) fn take_digest(
        &mut self,
        from: u64,
        index: u64,
        digest: u32,
    ) -> Result<(), MessageRejection> {
        self.checks.note(index, from, digest);
        self.compare(index);
        match self.checks.of(index, self.id.0) {
            Some(own) if own != digest => {
                Err(MessageRejection::StateDiffers { index, own, received: digest })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn compare(&mut self, index: u64) {
        let own = self.checks.of(index, self.id.0);
        let majority = self.checks.majority(index, &self.engine.members().voters);
        if let (Some(own), Some(majority)) = (own, majority)
            && own != majority
        {
            self.checks.finding = Some(StopReason::Diverged { index, own, majority });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The majority of voters 1 to `voters`, of which some have these digests.
    fn majority(voters: u64, digests: &[(u64, u32)]) -> Option<u32> {
        let mut checks = Checks::default();
        for (replica, digest) in digests {
            checks.note(7, *replica, *digest);
        }
        checks.majority(7, &(1..=voters).collect::<Vec<_>>())
    }

    #[test]
    fn more_than_half_of_all_voters_decide() {
        assert_eq!(majority(3, &[(1, 10), (2, 20), (3, 20)]), Some(20));
        assert_eq!(majority(3, &[(1, 10), (2, 20)]), None, "the third may have either");
        assert_eq!(majority(3, &[(1, 10), (2, 10)]), Some(10));
        assert_eq!(majority(3, &[(1, 10), (2, 20), (3, 30)]), None);
        assert_eq!(majority(2, &[(1, 10), (2, 20)]), None);
        assert_eq!(majority(4, &[(1, 10), (2, 10), (3, 20), (4, 20)]), None);
        assert_eq!(majority(5, &[(1, 10), (2, 20), (3, 20), (4, 20), (5, 10)]), Some(20));
        assert_eq!(majority(3, &[(1, 10), (8, 20), (9, 20)]), None, "8 and 9 do not vote");
    }

    #[test]
    fn r1_the_newest_indexes_are_kept() {
        let mut checks = Checks::default();
        for index in 1..=100 {
            (1..=3).for_each(|replica| checks.note(index, replica, 0));
        }
        assert_eq!(checks.len(), 3 * INDEXES_KEPT);
        assert!(checks.of(100, 1).is_some() && checks.of(1, 1).is_none());
    }
}
