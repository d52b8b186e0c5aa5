//! The check of every message before the `raft` crate sees it.
//!
//! The crate panics on messages that no correct replica sends: a commit index beyond the log, a
//! conflict with a committed entry, a vote that was not requested. A peer that is damaged, or whose
//! disk lost what it had acknowledged, may send one. No byte of a peer reaches such a panic.
//!
//! Two findings are more than a bad message: [`MessageRejection::LogLost`] means that this replica
//! lacks entries that it acknowledged, and [`MessageRejection::Diverged`] that two replicas have
//! committed different entries. The replica that reports them must not vote again.

use raft::StateRole;

use super::{Engine, Entry, EntryId};
use crate::limits;
use crate::message::{Body, Message};

/// The highest term and index in a message: the engine counts up from them.
const TERM_MAX: u64 = 1 << 62;
const INDEX_MAX: u64 = 1 << 62;

/// Why a message is not handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageRejection {
    /// It names another replica as its receiver, or this one as its sender, or an impossible term.
    #[error("it is from replica {from} to replica {to} in term {term}")]
    Misdirected {
        /// Raft id of the sender.
        from: u64,
        /// Raft id of the receiver.
        to: u64,
        /// The sender's term.
        term: u64,
    },
    /// The answer of a replica that is no member.
    #[error("it is an answer of replica {0}, which is no member")]
    NotMember(u64),
    /// Entries with gaps, of falling terms, or of terms after the message's own.
    #[error("its entries do not follow each other at index {0}")]
    Disordered(u64),
    /// More entries or bytes than a message may carry.
    #[error("its entries have {0} bytes, more than a message may carry")]
    TooLarge(usize),
    /// An answer about entries that the leader does not have, or that contradicts an earlier one.
    #[error("it acknowledges or refuses index {index}, which contradicts what is known")]
    Contradiction {
        /// The index in the answer.
        index: u64,
    },
    /// Entries or a heartbeat of a replica other than the one that leads in the term.
    #[error("replica {from} acts as leader in term {term}, in which replica {leader} leads")]
    SecondLeader {
        /// Raft id of the sender.
        from: u64,
        /// Raft id of the leader of the term.
        leader: u64,
        /// The sender's term.
        term: u64,
    },
    /// A vote that this replica did not ask for, or before its request was durable.
    #[error("it is a vote that was not requested")]
    UnrequestedVote,
    /// An order to campaign from a replica that does not lead, or to the only voter.
    #[error("it orders a campaign, but its sender does not lead")]
    UnrequestedCampaign,
    /// The leader knows that this replica had entries through `commit`, and it lacks them.
    #[error("entries through {commit} were acknowledged, and the log ends at {last}")]
    LogLost {
        /// The commit index that the leader sent.
        commit: u64,
        /// The last index of this replica.
        last: u64,
    },
    /// The sender's state differs. Who is wrong, a majority decides.
    #[error("the state after entry {index} has the digest {received:08x} there, {own:08x} here")]
    StateDiffers {
        /// Index of the entry.
        index: u64,
        /// The digest of this replica.
        own: u32,
        /// The digest in the message.
        received: u32,
    },
    /// Another entry is committed at this index.
    #[error("another entry is committed at index {index} (term {own} here, term {received} there)")]
    Diverged {
        /// The index of the entry.
        index: u64,
        /// Its term in this replica.
        own: u64,
        /// Its term in the message.
        received: u64,
    },
}

impl MessageRejection {
    /// Whether this replica's own log is at fault, so that it must not vote again.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::LogLost { .. } | Self::Diverged { .. })
    }
}

impl Engine {
    /// Whether the engine can handle `message`.
    pub(super) fn admit(&self, message: &Message) -> Result<(), MessageRejection> {
        let Message { from, to, term, body } = message;
        let (from, to, term) = (*from, *to, *term);
        if to != self.id() || from == to || from == 0 || term == 0 || term > TERM_MAX {
            return Err(MessageRejection::Misdirected { from, to, term });
        }
        match body {
            Body::Append { previous, commit, entries } => {
                let end = previous.index.max(*commit);
                if end > INDEX_MAX {
                    return Err(MessageRejection::Disordered(end));
                }
                self.admit_leader(from, term)?;
                self.admit_append(term, *previous, entries)
            }
            Body::Heartbeat { commit, .. } => {
                self.admit_leader(from, term)?;
                self.admit_commit(term, *commit)
            }
            Body::RequestVote { .. } => Ok(()),
            Body::Appended { .. }
            | Body::AppendRejected { .. }
            | Body::HeartbeatResponse { .. }
            | Body::Vote { .. }
            | Body::StateDigest { .. }
                if self.node.raft.prs().get(from).is_none() =>
            {
                Err(MessageRejection::NotMember(from))
            }
            Body::Appended { index, .. } => self.admit_appended(term, *index),
            Body::AppendRejected { index, hint, .. } => {
                self.admit_rejected(from, term, *index, *hint)
            }
            Body::HeartbeatResponse { .. } | Body::StateDigest { .. } => Ok(()),
            Body::Vote { .. } => self.admit_vote(term),
            Body::TimeoutNow => self.admit_timeout(from, term),
        }
    }

    /// A term has one leader at most.
    fn admit_leader(&self, from: u64, term: u64) -> Result<(), MessageRejection> {
        let leader = self.node.raft.leader_id;
        if term == self.term() && leader != 0 && leader != from {
            return Err(MessageRejection::SecondLeader { from, leader, term });
        }
        Ok(())
    }

    /// A leader sends a commit index only up to what it knows this replica to have.
    fn admit_commit(&self, term: u64, commit: u64) -> Result<(), MessageRejection> {
        let last = self.last_index();
        if term >= self.term() && commit > last {
            return Err(MessageRejection::LogLost { commit, last });
        }
        Ok(())
    }

    fn admit_append(
        &self,
        term: u64,
        previous: EntryId,
        entries: &[Entry],
    ) -> Result<(), MessageRejection> {
        let mut before = previous;
        let mut bytes = 0;
        for entry in entries {
            let follows = before.index.checked_add(1) == Some(entry.index);
            if !follows || entry.term < before.term || entry.term == 0 || entry.term > term {
                return Err(MessageRejection::Disordered(entry.index));
            }
            bytes += entry.data.len();
            before = entry.id();
        }
        if previous.term > term || (previous.index == 0) != (previous.term == 0) {
            return Err(MessageRejection::Disordered(previous.index));
        }
        let is_within = entries.len() <= 1 || bytes as u64 <= limits::MESSAGE_BYTES_MAX;
        if !is_within || entries.iter().any(|e| e.data.len() > limits::ENTRY_BYTES_HARD_MAX) {
            return Err(MessageRejection::TooLarge(bytes));
        }
        let log = &self.node.raft.raft_log;
        // An older leader's message, and one that begins before what is committed, are only
        // answered.
        if term < self.term() || previous.index < log.committed {
            return Ok(());
        }
        // Every leader has the committed entries, so its log has this term or a later one there.
        let index = log.committed;
        let own = log.term(index).unwrap_or(0);
        let received = previous.term;
        if received < own || (previous.index == index && received != own) {
            return Err(MessageRejection::Diverged { index, own, received });
        }
        Ok(())
    }

    fn admit_appended(&self, term: u64, index: u64) -> Result<(), MessageRejection> {
        let is_current = term == self.term() && self.is_leader();
        if is_current && index > self.last_index() {
            return Err(MessageRejection::Contradiction { index });
        }
        Ok(())
    }

    /// A follower that refuses what it acknowledged before has lost a part of its log: the leader
    /// must neither send from before the acknowledged index nor count it as durable there.
    fn admit_rejected(
        &self,
        from: u64,
        term: u64,
        index: u64,
        hint: EntryId,
    ) -> Result<(), MessageRejection> {
        let raft = &self.node.raft;
        if term != raft.term || !self.is_leader() {
            return Ok(());
        }
        let Some(progress) = raft.prs().get(from) else { return Ok(()) };
        let probe = match hint.term {
            0 => hint.index,
            term => raft.raft_log.find_conflict_by_term(hint.index, term).0,
        };
        // A late duplicate: the crate would set the next index to send to one that is acknowledged
        // (raft-rs issue 557).
        let is_late = index <= progress.matched;
        let is_unknown = index > self.last_index() || hint.index > index;
        if is_late || is_unknown || probe < progress.matched {
            return Err(MessageRejection::Contradiction { index });
        }
        Ok(())
    }

    fn admit_vote(&self, term: u64) -> Result<(), MessageRejection> {
        let raft = &self.node.raft;
        let is_candidate = matches!(raft.state, StateRole::Candidate | StateRole::PreCandidate);
        if !is_candidate || term < raft.term {
            // The engine ignores it, or learns a newer term from it.
            return Ok(());
        }
        let is_durable = self.persisted == self.number && raft.msgs.is_empty();
        if is_durable && raft.raft_log.persisted == self.last_index() {
            Ok(())
        } else {
            Err(MessageRejection::UnrequestedVote)
        }
    }

    fn admit_timeout(&self, from: u64, term: u64) -> Result<(), MessageRejection> {
        let raft = &self.node.raft;
        let leads = raft.leader_id == from && term == raft.term;
        if leads && !raft.prs().is_singleton() {
            Ok(())
        } else {
            Err(MessageRejection::UnrequestedCampaign)
        }
    }
}
