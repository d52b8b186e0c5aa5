//! The members of a shard, and the entries that change them.
//!
//! An entry changes one member, so Raft's joint configurations are never entered (Ongaro's thesis,
//! section 4.1). A broker is replaced in three entries: add a learner, make it a voter when it has
//! caught up, remove the old voter.
//!
//! # Encoding of a change
//!
//! `version: u8` (1), `kind: u8` (0 adds a learner, 1 makes a learner a voter, 2 removes),
//! `replica: u64` little-endian.

use bytes::Bytes;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};
use serde::{Deserialize, Serialize};

/// The members of a shard: Raft's `ConfState`, joint configurations included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Replicas that vote.
    pub voters: Vec<u64>,
    /// Replicas that receive the log and do not vote.
    pub learners: Vec<u64>,
    /// The voters of the configuration that a joint configuration leaves.
    pub voters_outgoing: Vec<u64>,
    /// Voters that become learners when the joint configuration is left.
    pub learners_next: Vec<u64>,
    /// Whether the leader leaves the joint configuration by itself.
    pub auto_leave: bool,
}

impl Members {
    /// A shard with one replica.
    #[must_use]
    pub fn lone(replica: u64) -> Self {
        Self { voters: vec![replica], ..Self::default() }
    }

    pub(super) fn to_conf_state(&self) -> ConfState {
        let mut state = ConfState::default();
        state.set_voters(self.voters.clone());
        state.set_learners(self.learners.clone());
        state.set_voters_outgoing(self.voters_outgoing.clone());
        state.set_learners_next(self.learners_next.clone());
        state.set_auto_leave(self.auto_leave);
        state
    }

    pub(super) fn from_conf_state(state: &ConfState) -> Self {
        let sorted = |ids: &[u64]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        };
        Self {
            voters: sorted(state.get_voters()),
            learners: sorted(state.get_learners()),
            voters_outgoing: sorted(state.get_voters_outgoing()),
            learners_next: sorted(state.get_learners_next()),
            auto_leave: state.get_auto_leave(),
        }
    }

    /// Whether `replica` is the only member.
    #[must_use]
    pub fn is_lone(&self, replica: u64) -> bool {
        self.voters == [replica] && self.voters_outgoing.is_empty() && self.learners.is_empty()
    }

    /// Whether `replica` votes, in the old or in the new configuration.
    #[must_use]
    pub fn is_voter(&self, replica: u64) -> bool {
        self.voters.contains(&replica) || self.voters_outgoing.contains(&replica)
    }

    /// Whether `replica` is a member of any kind.
    #[must_use]
    pub fn contains(&self, replica: u64) -> bool {
        self.is_voter(replica)
            || self.learners.contains(&replica)
            || self.learners_next.contains(&replica)
    }

    /// Every member, voters first.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.voters.iter().chain(&self.learners).copied()
    }
}

/// A change of one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MembersChange {
    /// Adds a replica that receives the log and does not vote.
    AddLearner(u64),
    /// Makes a learner a voter.
    Promote(u64),
    /// Removes a replica. The leader removes itself only when another voter can lead.
    Remove(u64),
}

/// Why a change of the members is not proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRejection {
    /// This replica does not lead.
    #[error("the replica does not lead")]
    NotLeader,
    /// An earlier change is not applied, or leadership is being transferred.
    #[error("an earlier change of the members or a transfer of leadership is not complete")]
    Pending,
    /// The members are already as the change would make them.
    #[error("the members are already as requested")]
    NoChange,
    /// A replica has to be a learner before it votes.
    #[error("replica {0} is no learner")]
    NoLearner(u64),
    /// The learner lacks entries, or was not heard of for an election timeout.
    #[error("replica {replica} has the log through {matched} of {last}, or does not answer")]
    NotCaughtUp {
        /// Raft id of the learner.
        replica: u64,
        /// The last index that the learner is known to have durable.
        matched: u64,
        /// The leader's last index.
        last: u64,
    },
    /// Without this voter no replica could lead.
    #[error("replica {0} is the only voter")]
    OnlyVoter(u64),
}

/// Why the payload of an entry is no change of the members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the change of the members has an unknown format: version {version}, kind {kind}, {len} bytes"
)]
pub struct UnknownChange {
    version: u8,
    kind: u8,
    len: usize,
}

const CHANGE_VERSION: u8 = 1;
const CHANGE_BYTES: usize = 10;

impl MembersChange {
    /// The replica that is added, promoted or removed.
    #[must_use]
    pub fn replica(self) -> u64 {
        match self {
            Self::AddLearner(replica) | Self::Promote(replica) | Self::Remove(replica) => replica,
        }
    }

    fn kind(self) -> u8 {
        match self {
            Self::AddLearner(_) => 0,
            Self::Promote(_) => 1,
            Self::Remove(_) => 2,
        }
    }

    /// The payload of the entry.
    #[must_use]
    pub fn encode(self) -> Bytes {
        let mut out = vec![CHANGE_VERSION, self.kind()];
        out.extend_from_slice(&self.replica().to_le_bytes());
        out.into()
    }

    /// The reverse of [`Self::encode`].
    ///
    /// # Errors
    /// When the payload has another format, which a newer broker wrote.
    pub fn decode(data: &[u8]) -> Result<Self, UnknownChange> {
        let version = data.first().copied().unwrap_or(0);
        let kind = data.get(1).copied().unwrap_or(0);
        let unknown = UnknownChange { version, kind, len: data.len() };
        let replica: [u8; 8] = match data.get(2..) {
            Some(rest) if data.len() == CHANGE_BYTES && version == CHANGE_VERSION => {
                rest.try_into().expect("eight bytes are left")
            }
            Some(_) | None => return Err(unknown),
        };
        let replica = u64::from_le_bytes(replica);
        match kind {
            0 => Ok(Self::AddLearner(replica)),
            1 => Ok(Self::Promote(replica)),
            2 => Ok(Self::Remove(replica)),
            _ => Err(unknown),
        }
    }

    pub(super) fn to_conf_change(self) -> ConfChangeV2 {
        let mut single = ConfChangeSingle::default();
        single.set_change_type(match self {
            Self::AddLearner(_) => ConfChangeType::AddLearnerNode,
            Self::Promote(_) => ConfChangeType::AddNode,
            Self::Remove(_) => ConfChangeType::RemoveNode,
        });
        single.node_id = self.replica();
        let mut change = ConfChangeV2::default();
        change.set_changes(vec![single].into());
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_survives_its_encoding_and_unknown_formats_are_named() {
        let changes = [
            MembersChange::AddLearner(1),
            MembersChange::Promote(u64::MAX),
            MembersChange::Remove(7),
        ];
        for change in changes {
            assert_eq!(MembersChange::decode(&change.encode()), Ok(change));
        }
        let mut newer = changes[0].encode().to_vec();
        newer[0] = 2;
        let error = MembersChange::decode(&newer).expect_err("version 2").to_string();
        assert!(error.contains("version 2"), "{error}");
        for bytes in [&b""[..], &[1, 0], &[1, 3, 0, 0, 0, 0, 0, 0, 0, 0], &[1; 11]] {
            MembersChange::decode(bytes).expect_err("another format");
        }
    }
}
