//! The transition from one generation to the next.

use super::member::{Member, Waiting};
use super::{ClassicGroup, InitialDelay, Output, Phase, Reply, Stage};
use crate::group::Refusal;

/// Shortest interval between two checks of a rebalance that no member joined, milliseconds.
const LOOK_AGAIN_MS_MIN: i64 = 1_000;

impl ClassicGroup {
    /// Starts a rebalance, because the members changed.
    pub(super) fn rebalance(&mut self, now_ms: i64) {
        match self.phase {
            Phase::Empty { .. } | Phase::Completing { .. } | Phase::Stable { .. } => {
                self.prepare(now_ms);
            }
            Phase::Preparing { .. } => self.complete_if_all_joined(now_ms),
            Phase::Dead(_) => {}
        }
    }

    /// Reacts to removed members. An empty group that loses an unused id does not change.
    pub(super) fn after_removal(&mut self, now_ms: i64) {
        match self.phase {
            Phase::Completing { .. } | Phase::Stable { .. } | Phase::Preparing { .. } => {
                self.rebalance(now_ms);
            }
            Phase::Empty { .. } | Phase::Dead(_) => {}
        }
    }

    /// Removes a member, if it exists. The caller calls [`Self::after_removal`] after the last
    /// removal.
    pub(super) fn remove(&mut self, id: &str) -> bool {
        let Some(member) = self.members.remove(id) else { return false };
        if let Some(waiting) = member.waiting {
            // The reply carries no member id, so the client may join again as a new member.
            self.output.replies.push(waiting.refused(String::new(), Refusal::UnknownMember));
        }
        if self.leader.as_deref() == Some(id) {
            self.leader = self.members.iter().next().map(|(id, _)| id.clone());
        }
        true
    }

    /// Requires all members to join again.
    fn prepare(&mut self, now_ms: i64) {
        for (_, member) in self.members.values_mut() {
            member.waiting = match member.waiting.take() {
                Some(Waiting::Sync(token)) => {
                    let reply = Reply::NotSynced(Refusal::RebalanceInProgress);
                    self.output.replies.push((token, reply));
                    self.wake_ms = self.wake_ms.min(member.extend_session(now_ms));
                    None
                }
                Some(Waiting::Takeover { token, .. }) => Some(Waiting::Join(token)),
                waiting @ (Some(Waiting::Join(_)) | None) => waiting,
            };
        }
        let timeout_ms = self.members.rebalance_timeout_ms();
        if matches!(self.phase, Phase::Empty { .. }) {
            let delay_ms = i64::from(self.rules.initial_delay_ms.max(0));
            let remaining_ms = (timeout_ms - delay_ms).max(0);
            let initial_delay = Some(InitialDelay { remaining_ms, extend: false });
            self.prepare_until(now_ms.saturating_add(delay_ms), initial_delay);
        } else {
            self.prepare_until(now_ms.saturating_add(timeout_ms), None);
            self.complete_if_all_joined(now_ms);
        }
    }

    fn prepare_until(&mut self, until_ms: i64, initial_delay: Option<InitialDelay>) {
        self.phase = Phase::Preparing { until_ms, initial_delay };
        self.wake_by(until_ms);
    }

    fn complete_if_all_joined(&mut self, now_ms: i64) {
        let Phase::Preparing { initial_delay: None, .. } = self.phase else { return };
        if self.pending.is_empty() && self.members.iter().all(|(_, m)| m.is_joining()) {
            self.complete_join(now_ms);
        }
    }

    /// The join phase ends: the rebalance timeout passed, or the initial delay of an empty group.
    pub(super) fn end_of_join(&mut self, now_ms: i64) {
        match self.phase {
            Phase::Preparing { until_ms, initial_delay: Some(initial_delay) }
                if initial_delay.extend && initial_delay.remaining_ms > 0 =>
            {
                let delay_ms =
                    i64::from(self.rules.initial_delay_ms.max(0)).min(initial_delay.remaining_ms);
                let remaining_ms = initial_delay.remaining_ms - delay_ms;
                let initial_delay = Some(InitialDelay { remaining_ms, extend: false });
                self.prepare_until(until_ms.max(now_ms).saturating_add(delay_ms), initial_delay);
            }
            Phase::Preparing { .. } => self.complete_join(now_ms),
            Phase::Empty { .. }
            | Phase::Completing { .. }
            | Phase::Stable { .. }
            | Phase::Dead(_) => {}
        }
    }

    /// Fixes the next generation with the members that joined. Static members remain until their
    /// session ends, whether they joined or not.
    fn complete_join(&mut self, now_ms: i64) {
        for id in self.members.ids_where(|m| !m.is_joining() && !m.is_static()) {
            self.remove(&id);
        }
        if self.members.is_empty() {
            self.become_empty();
        } else if !self.elect_leader() {
            let wait_ms = self.members.rebalance_timeout_ms().max(LOOK_AGAIN_MS_MIN);
            self.prepare_until(now_ms.saturating_add(wait_ms), None);
        } else {
            self.advance();
            self.protocol = self.members.elect_protocol(self.leader.as_deref());
            let stage = Stage::Announcing { sequence: self.announce() };
            self.phase = Phase::Completing { stage, sync_until_ms: i64::MAX };
        }
    }

    fn become_empty(&mut self) {
        self.advance();
        self.leader = None;
        self.protocol = None;
        self.phase = Phase::Empty { retry_at_ms: None };
        self.persist();
    }

    fn advance(&mut self) {
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        for (_, member) in self.members.values_mut() {
            member.assignment = bytes::Bytes::new();
            member.synced = false;
        }
    }

    /// Elects a leader for the assignment. Keeps the current one if it joined.
    fn elect_leader(&mut self) -> bool {
        let leader = self.leader.as_deref().and_then(|id| self.members.get(id));
        if leader.is_some_and(Member::is_joining) {
            return true;
        }
        let came = self.members.iter().find(|(_, member)| member.is_joining());
        let Some((id, _)) = came else { return false };
        self.leader = Some(id.clone());
        true
    }

    /// The outcome of a record: durable, or an error. The error is [`Refusal::NotAvailable`] unless
    /// another broker coordinates the group now.
    pub(crate) fn persisted(
        &mut self,
        sequence: u64,
        result: Result<(), Refusal>,
        now_ms: i64,
    ) -> Output {
        self.end_takeovers(sequence, result, now_ms);
        match self.phase {
            Phase::Completing { stage: Stage::Announcing { sequence: awaited }, .. }
                if awaited == sequence =>
            {
                self.announced(result, now_ms);
            }
            Phase::Completing { stage: Stage::Recording { sequence: awaited }, .. }
                if awaited == sequence =>
            {
                self.recorded(result, now_ms);
            }
            Phase::Empty { .. } if result.is_err() && sequence == self.sequence => {
                let retry_at_ms = now_ms.saturating_add(LOOK_AGAIN_MS_MIN);
                self.phase = Phase::Empty { retry_at_ms: Some(retry_at_ms) };
                self.wake_by(retry_at_ms);
            }
            Phase::Empty { .. }
            | Phase::Preparing { .. }
            | Phase::Completing { .. }
            | Phase::Stable { .. }
            | Phase::Dead(_) => {}
        }
        self.take()
    }

    /// The generation is durable, so its number may be published.
    fn announced(&mut self, result: Result<(), Refusal>, now_ms: i64) {
        if let Err(refusal) = result {
            for (id, waiting) in self.members.stop_waiting() {
                self.output.replies.push(waiting.refused(id, refusal));
            }
            self.expect_everybody(now_ms);
            return self.prepare(now_ms);
        }
        for id in self.members.ids_where(Member::is_joining) {
            let joined = self.joined(&id);
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.is_new = false;
            if let Some(Waiting::Join(token)) = member.waiting.take() {
                self.output.replies.push((token, Reply::Joined(joined)));
            }
            self.extend_session(&id, now_ms);
        }
        let timeout_ms = self.members.rebalance_timeout_ms();
        let sync_until_ms = now_ms.saturating_add(timeout_ms);
        self.phase = Phase::Completing { stage: Stage::Assigning, sync_until_ms };
        self.wake_by(sync_until_ms);
    }

    /// Answers the joins of restarted static members, with success or an error.
    fn end_takeovers(&mut self, persisted: u64, result: Result<(), Refusal>, now_ms: i64) {
        let over = self.members.ids_where(|m| {
            matches!(&m.waiting, Some(Waiting::Takeover { sequence, .. }) if *sequence == persisted)
        });
        for id in over {
            let mut joined = self.joined(&id);
            let Some(member) = self.members.get_mut(&id) else { continue };
            let Some(waiting) = member.waiting.take() else { continue };
            match (waiting, result) {
                (Waiting::Takeover { token, leader, skip_assignment, .. }, Ok(())) => {
                    if !skip_assignment {
                        joined.members = Vec::new();
                    }
                    joined.leader = leader;
                    joined.skip_assignment = skip_assignment;
                    self.output.replies.push((token, Reply::Joined(joined)));
                }
                // The client joins again without a member id, and takes the instance id over again.
                (waiting, Err(refusal)) => {
                    self.output.replies.push(waiting.refused(String::new(), refusal));
                }
                (waiting, Ok(())) => member.waiting = Some(waiting),
            }
            self.extend_session(&id, now_ms);
        }
    }
}
