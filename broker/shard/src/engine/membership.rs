//! Changes of the members: what the leader proposes, and how every replica applies it.

use super::{
    ChangeRejection, Engine, EngineError, EntryId, EntryKind, Members, MembersChange, convert,
};
use crate::limits;
use crate::payload::Payload;

impl Engine {
    /// Proposes a change of the members; returns its index. Only one is proposed at a time.
    ///
    /// # Errors
    /// See [`ChangeRejection`].
    pub fn propose_members(&mut self, change: MembersChange) -> Result<u64, ChangeRejection> {
        self.check_change(change)?;
        let data = Payload::from(change.encode());
        if !self.uncommitted.admits(self.term(), self.committed(), data.len()) {
            return Err(ChangeRejection::Pending);
        }
        let entry = convert::outline(EntryId::default(), EntryKind::Members, false);
        let raft = &mut self.node.raft;
        // Not `RawNode::propose_conf_change`, which parses the payload as a format of its own.
        if !raft.append_entry(&mut [entry]) {
            return Err(ChangeRejection::Pending);
        }
        raft.pending_conf_index = raft.raft_log.last_index();
        raft.bcast_append();
        Ok(self.proposed(data))
    }

    fn check_change(&self, change: MembersChange) -> Result<(), ChangeRejection> {
        let raft = &self.node.raft;
        if !self.is_leader() {
            return Err(ChangeRejection::NotLeader);
        }
        if raft.has_pending_conf() || raft.lead_transferee.is_some() {
            return Err(ChangeRejection::Pending);
        }
        let members = &self.members;
        match change {
            MembersChange::AddLearner(replica) if members.contains(replica) => {
                Err(ChangeRejection::NoChange)
            }
            MembersChange::AddLearner(_) if members.iter().count() >= limits::MEMBERS_MAX => {
                Err(ChangeRejection::Pending)
            }
            MembersChange::AddLearner(_) => Ok(()),
            MembersChange::Promote(replica) if members.is_voter(replica) => {
                Err(ChangeRejection::NoChange)
            }
            MembersChange::Promote(replica) => match raft.prs().get(replica) {
                None => Err(ChangeRejection::NoLearner(replica)),
                Some(_) if self.is_caught_up(replica) => Ok(()),
                Some(progress) => {
                    let (matched, last) = (progress.matched, self.last_index());
                    Err(ChangeRejection::NotCaughtUp { replica, matched, last })
                }
            },
            MembersChange::Remove(replica) if !members.contains(replica) => {
                Err(ChangeRejection::NoChange)
            }
            MembersChange::Remove(replica) if members.voters == [replica] => {
                Err(ChangeRejection::OnlyVoter(replica))
            }
            MembersChange::Remove(_) => Ok(()),
            MembersChange::Survive { .. } => Err(ChangeRejection::OnlyByRepair),
        }
    }

    /// Applies a change of the members. Entries of this kind are applied in the order of the log,
    /// before [`Engine::applied`] is called for them.
    ///
    /// # Errors
    /// When the members do not allow it; a leader proposes no such change.
    pub fn apply_members(&mut self, change: MembersChange) -> Result<(), EngineError> {
        let history = match change {
            MembersChange::Survive { history, .. } => history,
            MembersChange::AddLearner(_) | MembersChange::Promote(_) | MembersChange::Remove(_) => {
                self.members.history
            }
        };
        for change in change.to_conf_changes(&self.members) {
            let state = self.node.apply_conf_change(&change).map_err(EngineError::from_raft)?;
            self.members = Members::from_conf_state(&state, history);
        }
        self.heard.retain(|member| self.members.contains(member));
        self.full.retain(|member| self.members.contains(*member));
        if self.is_leader() && !self.members.is_voter(self.id()) {
            // The others learn that the entry is committed before they elect another leader.
            self.node.raft.bcast_append();
            let term = self.term();
            self.node.raft.become_follower(term, 0);
        }
        Ok(())
    }
}
