//! Who leads: the decision, without a client and without a clock.
//!
//! A Lease object holds a name and is renewed. Whoever finds it free, or finds that nobody renewed it
//! for its duration, may take it. Two facts make this safe:
//!
//! - Every write carries the resourceVersion that was read, so of two who take an expired Lease at
//!   the same moment one is refused.
//! - Whether it has expired is judged by the local monotonic clock: for how long *this* process has
//!   seen the same record. The times in the record are for people; clocks that differ do no harm.
//!
//! # Invariants
//!
//! - **K2** [`Election::holds_until`] lies before the moment when anybody else may take the Lease,
//!   because it counts from before the write that renewed it was sent.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Others wait for so long after the last renewal that they saw.
    pub duration: Duration,
    /// The leader stops when it could not renew for so long. Shorter than `duration`.
    pub renew_deadline: Duration,
    /// How often it is tried.
    pub retry_period: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// What to do next.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// There is no Lease: create this one.
    Create(Box<Lease>),
    /// Replace what was read by this; it carries the resourceVersion that was read.
    Replace(Box<Lease>),
    /// Somebody else leads.
    Wait,
}

/// One candidate.
#[derive(Debug)]
pub struct Election {
    name: String,
    identity: String,
    timing: Timing,
    /// The version of the record as it was last seen to differ, and when that was.
    observed: Option<(Option<String>, Instant)>,
    renewed_at: Option<Instant>,
}

impl Election {
    /// A candidate for the Lease called `name`. `identity` is of this process and of no other, also
    /// not of the one that ran before in the same pod.
    #[must_use]
    pub fn new(name: String, identity: String, timing: Timing) -> Self {
        Self { name, identity, timing, observed: None, renewed_at: None }
    }

    /// The Lease it runs for.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long things may take.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Looks at the Lease as it was read at `now`, and says what to do. `wall` only goes into the record.
    pub fn step(&mut self, lease: Option<&Lease>, now: Instant, wall: Timestamp) -> Step {
        let Some(lease) = lease else {
            self.observed = None;
            return Step::Create(Box::new(self.record(None, wall)));
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let version = lease.metadata.resource_version.clone();
        let seen_at = match &self.observed {
            Some((before, at)) if *before == version => *at,
            Some(_) | None => now,
        };
        self.observed = Some((version, seen_at));
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder == self.identity {
            return Step::Replace(Box::new(self.record(Some(lease), wall)));
        }
        self.renewed_at = None;
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let lasts = seconds.map_or(self.timing.duration, Duration::from_secs);
        if !holder.is_empty() && now.saturating_duration_since(seen_at) < lasts {
            return Step::Wait;
        }
        Step::Replace(Box::new(self.record(Some(lease), wall)))
    }

    /// The write that [`Self::step`] asked for has succeeded; it was begun at `begun`.
    pub fn wrote(&mut self, lease: &Lease, begun: Instant) {
        self.observed = Some((lease.metadata.resource_version.clone(), begun));
        self.renewed_at = Some(begun);
    }

    /// Until when this candidate may act as the leader, if it may at all.
    #[must_use]
    pub fn holds_until(&self) -> Option<Instant> {
        self.renewed_at.map(|at| at + self.timing.renew_deadline)
    }

    /// The Lease given back, so that the next one need not wait; `None` if it is not ours.
    #[must_use]
    pub fn release(&self, lease: &Lease, wall: Timestamp) -> Option<Lease> {
        let spec = lease.spec.as_ref()?;
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return None;
        }
        let mut freed = lease.clone();
        freed.spec = Some(LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            renew_time: Some(MicroTime(wall)),
            ..spec.clone()
        });
        freed.metadata.managed_fields = None;
        Some(freed)
    }

    /// The Lease as this candidate would hold it.
    fn record(&self, before: Option<&Lease>, wall: Timestamp) -> Lease {
        let old = before.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let ours = old.holder_identity.as_deref() == Some(self.identity.as_str());
        let transitions = old.lease_transitions.unwrap_or(0);
        let metadata = before.map_or_else(
            || ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            |lease| ObjectMeta { managed_fields: None, ..lease.metadata.clone() },
        );
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(self.timing.duration.as_secs()).ok(),
                acquire_time: if ours { old.acquire_time } else { Some(MicroTime(wall)) },
                renew_time: Some(MicroTime(wall)),
                lease_transitions: Some(match before {
                    Some(_) if !ours => transitions.saturating_add(1),
                    Some(_) | None => transitions,
                }),
                ..LeaseSpec::default()
            }),
        }
    }
}

#[cfg(test)]
mod tests;
