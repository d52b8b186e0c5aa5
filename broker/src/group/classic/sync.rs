//! `SyncGroup`: the leader sends the assignment, every member receives its part.

use std::collections::HashMap;

use bytes::Bytes;

use super::member::Waiting;
use super::{ClassicGroup, Output, Phase, Reply, Stage, SyncRequest, SyncResult, Token};
use crate::group::{Refusal, SizeLimit};
use crate::limits;

impl ClassicGroup {
    /// A member requests its assignment; the leader also sends the assignments of all members. The
    /// reply may be part of this call's output or of a later one's.
    pub(crate) fn sync(&mut self, request: SyncRequest, token: Token, now_ms: i64) -> Output {
        if let Err(refusal) = self.try_sync(request, token, now_ms) {
            self.output.replies.push((token, Reply::NotSynced(refusal)));
        }
        self.take()
    }

    fn try_sync(&mut self, request: SyncRequest, token: Token, now_ms: i64) -> Result<(), Refusal> {
        self.admit(&request.claim)?;
        if differ(request.protocol_type.as_ref(), self.protocol_type.as_ref())
            || differ(request.protocol.as_ref(), self.protocol.as_ref())
        {
            return Err(Refusal::InconsistentProtocol);
        }
        let id = request.claim.member_id;
        match self.phase {
            Phase::Empty { .. } => Err(Refusal::UnknownMember),
            // The number is not published yet, so the client can only have guessed it.
            Phase::Preparing { .. } | Phase::Completing { stage: Stage::Announcing { .. }, .. } => {
                Err(Refusal::RebalanceInProgress)
            }
            Phase::Completing { stage: Stage::Assigning, sync_until_ms } => {
                if self.leader.as_ref() == Some(&id) {
                    let size = |(id, bytes): &(String, Bytes)| id.len() + bytes.len();
                    let size_bytes = request.assignments.iter().map(size).sum();
                    SizeLimit::Assignment.check(size_bytes, limits::GROUP_ASSIGNMENT_BYTES_MAX)?;
                }
                self.mark_synced(&id);
                self.wait(&id, Waiting::Sync(token));
                if self.leader.as_ref() == Some(&id) {
                    self.assign(request.assignments);
                    let stage = Stage::Recording { sequence: self.persist() };
                    self.phase = Phase::Completing { stage, sync_until_ms };
                }
                Ok(())
            }
            // This includes a leader that sends the assignment again: its first one is being made
            // durable.
            Phase::Completing { stage: Stage::Recording { .. }, .. } => {
                self.mark_synced(&id);
                self.wait(&id, Waiting::Sync(token));
                Ok(())
            }
            Phase::Stable { .. } => {
                self.mark_synced(&id);
                self.extend_session(&id, now_ms);
                self.stop_expecting_syncs();
                let synced = self.synced(&id);
                self.output.replies.push((token, Reply::Synced(synced)));
                Ok(())
            }
            Phase::Dead(refusal) => Err(refusal),
        }
    }

    /// Stores the assignment. A member that the leader left out gets an empty assignment; entries
    /// of non-members are discarded.
    fn assign(&mut self, assignments: Vec<(String, Bytes)>) {
        let mut assignments: HashMap<_, _> = assignments.into_iter().collect();
        for (id, member) in self.members.values_mut() {
            member.assignment = assignments.remove(id).unwrap_or_default();
        }
    }

    /// The assignment is durable, so it may be sent to the members.
    pub(super) fn recorded(&mut self, result: Result<(), Refusal>, now_ms: i64) {
        let Phase::Completing { sync_until_ms, .. } = self.phase else { return };
        let waiting = self.members.ids_where(|m| matches!(m.waiting, Some(Waiting::Sync(_))));
        for id in waiting {
            let synced = self.synced(&id);
            let Some(member) = self.members.get_mut(&id) else { continue };
            let Some(Waiting::Sync(token)) = member.waiting.take() else { continue };
            let reply = match result {
                Ok(()) => Reply::Synced(synced),
                Err(refusal) => Reply::NotSynced(refusal),
            };
            self.output.replies.push((token, reply));
            self.extend_session(&id, now_ms);
        }
        if result.is_ok() {
            self.phase = Phase::Stable { sync_until_ms: Some(sync_until_ms) };
            self.stop_expecting_syncs();
        } else {
            self.rebalance(now_ms);
        }
    }

    /// The time to request the assignment is over.
    pub(super) fn end_of_sync(&mut self, now_ms: i64) {
        for id in self.members.ids_where(|member| !member.synced) {
            self.remove(&id);
        }
        self.rebalance(now_ms);
    }

    fn mark_synced(&mut self, id: &str) {
        if let Some(member) = self.members.get_mut(id) {
            member.synced = true;
        }
    }

    fn stop_expecting_syncs(&mut self) {
        if let Phase::Stable { sync_until_ms } = &mut self.phase
            && self.members.iter().all(|(_, member)| member.synced)
        {
            *sync_until_ms = None;
        }
    }

    fn synced(&self, id: &str) -> SyncResult {
        SyncResult {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self.members.get(id).map(|m| m.assignment.clone()).unwrap_or_default(),
        }
    }
}

/// Old clients do not send the expected value, which is not a mismatch.
fn differ(sent: Option<&String>, known: Option<&String>) -> bool {
    matches!((sent, known), (Some(sent), Some(known)) if sent != known)
}
