//! Timeouts: expired sessions, unused member ids, and joins and syncs that took too long.
//!
//! One lower bound, `wake_ms`, represents all deadlines. A heartbeat only moves a deadline to a
//! later time, so it does not change the bound. The exact bound is computed when the time has come.

use super::member::Member;
use super::{ClassicGroup, Output, Phase};

impl ClassicGroup {
    /// When [`Self::tick`] must be called next; [`i64::MAX`] for never. It may be too early.
    pub(crate) fn next_deadline_ms(&self) -> i64 {
        self.wake_ms
    }

    /// Handles all deadlines that have passed.
    pub(crate) fn tick(&mut self, now_ms: i64) -> Output {
        if now_ms >= self.wake_ms {
            self.end_sessions(now_ms);
            self.end_phase(now_ms);
            self.wake_ms = self.earliest_deadline_ms();
        }
        self.take()
    }

    pub(super) fn wake_by(&mut self, deadline_ms: i64) {
        self.wake_ms = self.wake_ms.min(deadline_ms);
    }

    /// Extends a member's session.
    pub(super) fn extend_session(&mut self, id: &str, now_ms: i64) {
        let Some(member) = self.members.get_mut(id) else { return };
        let until_ms = member.extend_session(now_ms);
        self.wake_by(until_ms);
    }

    fn end_sessions(&mut self, now_ms: i64) {
        let ids_expired = self.pending.expire(now_ms);
        let expired = self.members.ids_where(|member| member.is_expired(now_ms));
        for id in &expired {
            self.remove(id);
        }
        if !expired.is_empty() || ids_expired {
            self.after_change_of_waiters(!expired.is_empty(), now_ms);
        }
    }

    /// Continues a rebalance that waited for a removed member or an unused id. An unused id delays
    /// a rebalance in progress and never starts one.
    fn after_change_of_waiters(&mut self, members_went: bool, now_ms: i64) {
        if members_went || matches!(self.phase, Phase::Preparing { .. }) {
            self.after_removal(now_ms);
        }
    }

    fn end_phase(&mut self, now_ms: i64) {
        match self.phase {
            Phase::Empty { retry_at_ms: Some(at_ms) } if at_ms <= now_ms => {
                self.phase = Phase::Empty { retry_at_ms: None };
                self.persist();
            }
            Phase::Preparing { until_ms, .. } if until_ms <= now_ms => self.end_of_join(now_ms),
            Phase::Completing { sync_until_ms: until_ms, .. }
            | Phase::Stable { sync_until_ms: Some(until_ms) }
                if until_ms <= now_ms =>
            {
                self.end_of_sync(now_ms);
            }
            Phase::Empty { .. }
            | Phase::Preparing { .. }
            | Phase::Completing { .. }
            | Phase::Stable { .. }
            | Phase::Dead(_) => {}
        }
    }

    fn earliest_deadline_ms(&self) -> i64 {
        let phase = match self.phase {
            Phase::Empty { retry_at_ms } => retry_at_ms,
            Phase::Preparing { until_ms, .. } => Some(until_ms),
            Phase::Completing { sync_until_ms, .. } => Some(sync_until_ms),
            Phase::Stable { sync_until_ms } => sync_until_ms,
            Phase::Dead(_) => None,
        };
        let counted = |member: &&Member| member.is_new || member.waiting.is_none();
        let members = self.members.iter().map(|(_, member)| member).filter(counted);
        let sessions = members.map(|member| member.session_until_ms);
        let pending = self.pending.earliest_ms();
        phase.into_iter().chain(sessions).chain(pending).min().unwrap_or(i64::MAX)
    }
}
