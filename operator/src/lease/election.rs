//! The decisions of leader election, without I/O and with the time as an argument.
//!
//! The holder renews the Lease. A candidate may acquire it when it is free or was not renewed for
//! its duration. Two facts make this safe:
//!
//! - Every write carries the resourceVersion that was read, so of two candidates that acquire an
//!   expired Lease at the same moment one is refused.
//! - Expiry is measured with the local monotonic clock: how long *this* process has seen the same
//!   record. The times in the record are informative; clock skew does no harm.
//!
//! # Invariants
//!
//! - **K2** [`Election::holds_until`] is before the moment when another candidate may acquire the
//!   Lease, because it counts from before the renewing write was sent.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

/// Time limits of the election.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Time without a renewal after which another candidate may acquire the Lease.
    pub duration: Duration,
    /// Time without a successful renewal after which the leader stops. Shorter than `duration`.
    pub renew_deadline: Duration,
    /// Interval of attempts to acquire or renew.
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

/// The next request to the API server.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// There is no Lease: create this one.
    Create(Box<Lease>),
    /// Replace the Lease by this one; it carries the resourceVersion that was read.
    Replace(Box<Lease>),
    /// Another process holds the Lease: do nothing.
    Wait,
}

/// State of one candidate for the Lease.
#[derive(Debug)]
pub struct Election {
    name: String,
    identity: String,
    timing: Timing,
    /// The resourceVersion when the record last changed, and when this process saw that.
    observed: Option<(Option<String>, Instant)>,
    renewed_at: Option<Instant>,
}

impl Election {
    /// A candidate for the Lease `name`. `identity` must be unique to this process, also among
    /// restarts in the same pod.
    #[must_use]
    pub fn new(name: String, identity: String, timing: Timing) -> Self {
        Self { name, identity, timing, observed: None, renewed_at: None }
    }

    /// Name of the Lease object.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Time limits of the election.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Evaluates the Lease as read at `now` and returns the next step. `wall` is only written into
    /// the record.
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

    /// Records that the write of [`Self::step`], which was begun at `begun`, succeeded.
    pub fn wrote(&mut self, lease: &Lease, begun: Instant) {
        self.observed = Some((lease.metadata.resource_version.clone(), begun));
        self.renewed_at = Some(begun);
    }

    /// Time until which this candidate may act as the leader, if it holds the Lease.
    #[must_use]
    pub fn holds_until(&self) -> Option<Instant> {
        self.renewed_at.map(|at| at + self.timing.renew_deadline)
    }

    /// The released Lease, so that the next leader does not wait; `None` if another process holds
    /// it.
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

    /// The Lease with this candidate as the holder.
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
