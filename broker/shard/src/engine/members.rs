//! The members of a shard, and the entries that change them.
//!
//! An entry changes one member, so Raft's joint configurations are never entered (Ongaro's thesis,
//! section 4.1). A broker is replaced in three entries: add a learner, make it a voter when it has
//! caught up, remove the old voter.
//!
//! # Encoding of a change
//!
//! `version: u8` (1), `kind: u8` (0 adds a learner, 1 makes a learner a voter, 2 removes),
//! `replica: u64` little-endian. A repair's change has version 2 and kind 3, and `history: u64`
//! behind the replica.

use bytes::Bytes;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};
use serde::{Deserialize, Serialize};

use crate::id::HistoryId;

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
    /// The history that these members belong to.
    pub history: HistoryId,
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

    pub(super) fn from_conf_state(state: &ConfState, history: HistoryId) -> Self {
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
            history,
        }
    }

    /// The members after a change, without a check of whether it is allowed.
    #[must_use]
    pub fn after(&self, change: MembersChange) -> Self {
        let replica = change.replica();
        let mut after = self.clone();
        let Self { voters, learners, .. } = &mut after;
        for members in [&mut *voters, &mut *learners] {
            members.retain(|member| *member != replica);
        }
        match change {
            MembersChange::AddLearner(_) => learners.push(replica),
            MembersChange::Promote(_) => voters.push(replica),
            MembersChange::Remove(_) => {}
            MembersChange::Survive { history, .. } => {
                return Self { history, ..Self::lone(replica) };
            }
        }
        after
    }

    /// Members other than `replica`.
    pub fn others(&self, replica: u64) -> impl Iterator<Item = u64> + '_ {
        self.iter().filter(move |member| *member != replica)
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
    /// Makes a replica the only member, in a new history. Only a repair writes it, into the log of
    /// a replica whose peers are lost for good.
    Survive {
        /// The replica that is left.
        replica: u64,
        /// The history that it founds.
        history: HistoryId,
    },
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
    /// A running replica never founds a new history.
    #[error("only a repair makes a replica the only survivor")]
    OnlyByRepair,
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

impl UnknownChange {
    /// Whether a newer version of the broker wrote it, which has a version of its own then.
    #[must_use]
    pub fn is_newer(&self) -> bool {
        self.version > SURVIVE_VERSION
    }
}

const CHANGE_VERSION: u8 = 1;
const CHANGE_BYTES: usize = 10;
const SURVIVE_VERSION: u8 = 2;
const SURVIVE_BYTES: usize = 18;

impl MembersChange {
    /// The replica that is added, promoted or removed.
    #[must_use]
    pub fn replica(self) -> u64 {
        match self {
            Self::AddLearner(replica)
            | Self::Promote(replica)
            | Self::Remove(replica)
            | Self::Survive { replica, .. } => replica,
        }
    }

    fn kind(self) -> u8 {
        match self {
            Self::AddLearner(_) => 0,
            Self::Promote(_) => 1,
            Self::Remove(_) => 2,
            Self::Survive { .. } => 3,
        }
    }

    /// The payload of the entry.
    #[must_use]
    pub fn encode(self) -> Bytes {
        let history = match self {
            Self::Survive { history, .. } => Some(history),
            Self::AddLearner(_) | Self::Promote(_) | Self::Remove(_) => None,
        };
        let version = if history.is_some() { SURVIVE_VERSION } else { CHANGE_VERSION };
        let mut out = vec![version, self.kind()];
        out.extend_from_slice(&self.replica().to_le_bytes());
        out.extend(history.into_iter().flat_map(|HistoryId(id)| id.to_le_bytes()));
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
        let is_whole = match version {
            CHANGE_VERSION => data.len() == CHANGE_BYTES,
            SURVIVE_VERSION => data.len() == SURVIVE_BYTES,
            _ => false,
        };
        if !is_whole {
            return Err(unknown);
        }
        let number =
            |at: usize| u64::from_le_bytes(data[at..at + 8].try_into().expect("eight bytes"));
        let replica = number(2);
        match (version, kind) {
            (CHANGE_VERSION, 0) => Ok(Self::AddLearner(replica)),
            (CHANGE_VERSION, 1) => Ok(Self::Promote(replica)),
            (CHANGE_VERSION, 2) => Ok(Self::Remove(replica)),
            (SURVIVE_VERSION, 3) => {
                Ok(Self::Survive { replica, history: HistoryId(number(CHANGE_BYTES)) })
            }
            _ => Err(unknown),
        }
    }

    /// The changes of single members that lead from `members` to those after this one, in order.
    pub(super) fn to_conf_changes(self, members: &Members) -> Vec<ConfChangeV2> {
        let single = match self {
            Self::AddLearner(replica) => (ConfChangeType::AddLearnerNode, replica),
            Self::Promote(replica) => (ConfChangeType::AddNode, replica),
            Self::Remove(replica) => (ConfChangeType::RemoveNode, replica),
            Self::Survive { replica, .. } => {
                let others = members.others(replica);
                let removed = others.map(|other| (ConfChangeType::RemoveNode, other));
                let all = std::iter::once((ConfChangeType::AddNode, replica)).chain(removed);
                return all.map(conf_change).collect();
            }
        };
        vec![conf_change(single)]
    }
}

fn conf_change((kind, replica): (ConfChangeType, u64)) -> ConfChangeV2 {
    let mut single = ConfChangeSingle::default();
    single.set_change_type(kind);
    single.node_id = replica;
    let mut change = ConfChangeV2::default();
    change.set_changes(vec![single].into());
    change
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
            MembersChange::Survive { replica: 7, history: HistoryId(u64::MAX - 1) },
        ];
        for change in changes {
            assert_eq!(MembersChange::decode(&change.encode()), Ok(change));
        }
        let mut newer = changes[0].encode().to_vec();
        newer[0] = 3;
        let error = MembersChange::decode(&newer).expect_err("version 3").to_string();
        assert!(error.contains("version 3"), "{error}");
        assert!(MembersChange::decode(&newer).is_err_and(|error| error.is_newer()));
        newer[0] = 2;
        let short = MembersChange::decode(&newer).expect_err("too short for version 2");
        assert!(!short.is_newer());
        for bytes in [&b""[..], &[1, 0], &[1, 3, 0, 0, 0, 0, 0, 0, 0, 0], &[1; 11]] {
            MembersChange::decode(bytes).expect_err("another format");
        }
    }
}
