//! A circuit breaker for each broker.
//!
//! A call to a broker that hangs takes seconds, and all clusters share the few concurrent
//! reconciles. After [`FAILURES_MAX`] consecutive calls without an answer, calls fail at once with
//! the reason of the last one; every [`PAUSE`] one call is let through as a probe.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Target;

/// Consecutive calls without an answer after which the breaker opens.
const FAILURES_MAX: u32 = 3;
/// Interval of probes while the breaker is open. Counts from when the last call was sent, so it is
/// longer than the time-out of a call.
const PAUSE: Duration = Duration::from_secs(8);
/// Bound of the number of remembered brokers. Beyond it those with an open breaker are kept.
const BROKERS_MAX: usize = 10_000;

/// Breakers of the brokers whose last call had no answer.
#[derive(Debug, Default)]
pub(super) struct Breakers(Mutex<HashMap<Target, Breaker>>);

#[derive(Debug)]
struct Breaker {
    failures: u32,
    why: String,
    /// When a call was last let through.
    tried: Instant,
}

impl Breakers {
    /// Checks whether a call may be sent now.
    ///
    /// # Errors
    ///
    /// The reason of the last failure, if no call may be sent.
    pub(super) fn enter(&self, at: &Target, now: Instant) -> Result<(), String> {
        let mut brokers = self.0.lock();
        let Some(breaker) = brokers.get_mut(at) else { return Ok(()) };
        if breaker.failures < FAILURES_MAX {
            return Ok(());
        }
        if now.saturating_duration_since(breaker.tried) < PAUSE {
            return Err(breaker.why.clone());
        }
        breaker.tried = now;
        Ok(())
    }

    /// Closes the breaker: the broker answered, or the next call is to be sent in any case.
    pub(super) fn close(&self, at: &Target) {
        self.0.lock().remove(at);
    }

    /// Records a call without an answer.
    pub(super) fn failed(&self, at: &Target, why: &str, now: Instant) {
        let mut brokers = self.0.lock();
        if brokers.len() >= BROKERS_MAX && !brokers.contains_key(at) {
            brokers.retain(|_, breaker| breaker.failures >= FAILURES_MAX);
        }
        let new = Breaker { failures: 0, why: String::new(), tried: now };
        let breaker = brokers.entry(at.clone()).or_insert(new);
        breaker.failures = breaker.failures.saturating_add(1);
        why.clone_into(&mut breaker.why);
        breaker.tried = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster_key::ClusterKey;

    fn target(name: &str) -> Target {
        Target { cluster: ClusterKey::new("shop", name), broker: 0 }
    }

    #[test]
    fn a_broker_that_does_not_answer_is_tried_now_and_then() {
        let (breakers, start) = (Breakers::default(), Instant::now());
        let (dead, alive) = (target("dead"), target("alive"));
        for _ in 0..FAILURES_MAX {
            assert_eq!(breakers.enter(&dead, start), Ok(()));
            breakers.failed(&dead, "no route", start);
        }
        assert_eq!(breakers.enter(&dead, start), Err("no route".to_owned()));
        assert_eq!(
            breakers.enter(&alive, start),
            Ok(()),
            "the breakers of other brokers stay closed"
        );
        let tries = (0..80)
            .filter(|second| breakers.enter(&dead, start + Duration::from_secs(*second)).is_ok());
        assert_eq!(tries.count(), 9, "one every {} s", PAUSE.as_secs());
        breakers.close(&dead);
        assert_eq!(breakers.enter(&dead, start), Ok(()));
    }
}
