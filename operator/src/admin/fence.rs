//! The epochs that clusters issued to this leader, and the detection of a second operator.
//!
//! The brokers issue epochs, because a number that is kept in the Lease would restart after a
//! reinstallation. An epoch is kept in memory only; when a new leader claims its own, the brokers
//! refuse the calls of the previous one.
//!
//! # Two operators
//!
//! The answer to a claim names the previous claimant. Another Lease there is normal once, after a
//! new installation. If the same Lease appears again after this operator has claimed, an operator
//! with that Lease is running as well, and both would claim in turns for ever. Both then change
//! nothing for [`CONFLICT_BACK_OFF`] and report the conflict.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Deserialize;

use crate::cluster_key::ClusterKey;

/// Time for which an operator that detected another one changes nothing. Then it claims again, to
/// check whether the conflict still exists.
pub const CONFLICT_BACK_OFF: Duration = Duration::from_secs(300);

/// The broker's answer to a claim.
#[derive(Clone, Debug, Deserialize)]
pub struct ClaimResponse {
    /// The issued epoch, higher than any before.
    pub epoch: u64,
    /// The previous claimant, if the broker knows it.
    #[serde(default)]
    pub previous: Option<Claimant>,
}

/// An operator that claims epochs.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Claimant {
    /// Identity of the process in the Lease.
    pub holder: String,
    /// Uid of its Lease: the same for all processes of one installation.
    pub lease_uid: String,
}

/// Two operators that both claim the epochs of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "two operators manage this cluster, {} (Lease {}) and {} (Lease {}): both pause their changes. Make their `--watch-namespaces` disjoint, or uninstall one of them",
    .0[0].holder, .0[0].lease_uid, .0[1].holder, .0[1].lease_uid
)]
pub struct Conflict([Claimant; 2]);

impl Conflict {
    /// Orders the two claimants, so that both operators report the same message.
    fn between(one: Claimant, other: Claimant) -> Self {
        if one.lease_uid <= other.lease_uid { Self([one, other]) } else { Self([other, one]) }
    }
}

/// The epoch of one cluster, locked while it is being claimed.
pub type Slot = Arc<tokio::sync::Mutex<Option<u64>>>;

/// The epochs that clusters issued to this leader, and other claimants.
#[derive(Debug, Default)]
pub struct Epochs {
    slots: Mutex<HashMap<ClusterKey, Slot>>,
    others: Mutex<HashMap<ClusterKey, OtherLease>>,
}

/// Another Lease under which the epoch of a cluster was claimed.
#[derive(Debug)]
struct OtherLease {
    lease_uid: String,
    /// Number of this operator's claims that named it as the previous claimant.
    times: u32,
    conflict: Option<(Conflict, Instant)>,
}

impl Epochs {
    /// The lock with the epoch of a cluster, created if absent.
    pub fn slot(&self, cluster: &ClusterKey) -> Slot {
        self.slots.lock().entry(cluster.clone()).or_default().clone()
    }

    /// Discards the epoch of a cluster: the next call claims again.
    pub fn discard(&self, cluster: &ClusterKey) {
        self.slots.lock().remove(cluster);
    }

    /// Discards all state of a cluster that is gone or was replaced by another of its name.
    pub fn discard_cluster(&self, cluster: &ClusterKey) {
        self.discard(cluster);
        self.others.lock().remove(cluster);
    }

    /// Records the claimant before `ours`. An error means that both claim in turns.
    pub fn claimed(
        &self,
        cluster: &ClusterKey,
        ours: Claimant,
        previous: Option<Claimant>,
        now: Instant,
    ) -> Result<(), Conflict> {
        let mut others = self.others.lock();
        let previous = previous.filter(|previous| !previous.lease_uid.is_empty());
        let Some(previous) = previous.filter(|previous| previous.lease_uid != ours.lease_uid)
        else {
            others.remove(cluster);
            return Ok(());
        };
        let fresh =
            || OtherLease { lease_uid: previous.lease_uid.clone(), times: 0, conflict: None };
        let other = others.entry(cluster.clone()).or_insert_with(fresh);
        let is_over = other.conflict.as_ref().is_some_and(|(_, since)| {
            // An operator that is still running claims again within seconds and is detected then.
            now.saturating_duration_since(*since) >= CONFLICT_BACK_OFF
        });
        if is_over || other.lease_uid != previous.lease_uid {
            *other = fresh();
        }
        other.times = other.times.saturating_add(1);
        if other.times < 2 {
            return Ok(());
        }
        let conflict = Conflict::between(ours, previous);
        other.conflict = Some((conflict.clone(), now));
        Err(conflict)
    }

    /// The conflict that currently forbids changes in a cluster.
    pub fn conflict(&self, cluster: &ClusterKey, now: Instant) -> Option<Conflict> {
        let others = self.others.lock();
        let (conflict, since) = others.get(cluster)?.conflict.as_ref()?;
        (now.saturating_duration_since(*since) < CONFLICT_BACK_OFF).then(|| conflict.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimant(name: &str) -> Claimant {
        Claimant { holder: format!("pod-{name}"), lease_uid: format!("lease-{name}") }
    }

    /// A model of the brokers' handling of claims.
    #[derive(Default)]
    struct Brokers(Option<Claimant>);

    impl Brokers {
        fn claim(&mut self, epochs: &Epochs, who: &str, now: Instant) -> Result<(), Conflict> {
            let previous = self.0.replace(claimant(who));
            epochs.claimed(&ClusterKey::new("shop", "default"), claimant(who), previous, now)
        }
    }

    #[test]
    fn two_operators_that_claim_in_turns_both_pause_and_report_the_same() {
        let (now, cluster) = (Instant::now(), ClusterKey::new("shop", "default"));
        let (a, b, mut brokers) = (Epochs::default(), Epochs::default(), Brokers::default());
        assert_eq!(brokers.claim(&a, "a", now), Ok(()));
        assert_eq!(brokers.claim(&b, "b", now), Ok(()), "normal once, after a new installation");
        assert_eq!(
            brokers.claim(&a, "a", now),
            Ok(()),
            "it may have been the last claim of the old one"
        );
        let seen_by_b = brokers.claim(&b, "b", now).expect_err("a has come back");
        let seen_by_a = brokers.claim(&a, "a", now).expect_err("b has come back");
        assert_eq!(seen_by_a.to_string(), seen_by_b.to_string());
        assert!(seen_by_a.to_string().contains("pod-a (Lease lease-a) and pod-b"), "{seen_by_a}");
        assert_eq!(a.conflict(&cluster, now + Duration::from_secs(299)), Some(seen_by_a));
        assert_eq!(a.conflict(&cluster, now + CONFLICT_BACK_OFF), None, "it claims again");
        assert!(brokers.claim(&a, "a", now + CONFLICT_BACK_OFF).is_ok(), "b is gone");
    }

    #[test]
    fn a_paused_operator_resumes_when_the_other_claimed_last_and_is_gone() {
        let (now, mut brokers) = (Instant::now(), Brokers::default());
        let (a, b) = (Epochs::default(), Epochs::default());
        for (epochs, who) in [(&a, "a"), (&b, "b"), (&a, "a")] {
            assert_eq!(brokers.claim(epochs, who, now), Ok(()), "{who}");
        }
        assert!(brokers.claim(&b, "b", now).is_err());
        assert!(brokers.claim(&a, "a", now).is_err());
        assert!(brokers.claim(&b, "b", now).is_err(), "it ends after this claim");
        let later = now + CONFLICT_BACK_OFF;
        assert_eq!(
            brokers.claim(&a, "a", later),
            Ok(()),
            "b was the previous claimant, and has ended"
        );
        assert_eq!(a.conflict(&ClusterKey::new("shop", "default"), later), None);
        // If b is still running, its next claim reveals it.
        assert_eq!(brokers.claim(&b, "b", later), Ok(()));
        assert!(brokers.claim(&a, "a", later).is_err());
    }

    #[test]
    fn an_operator_that_is_replaced_or_restarted_is_no_conflict() {
        let (now, mut brokers) = (Instant::now(), Brokers::default());
        for who in ["a", "b", "a", "a", "c"] {
            assert_eq!(brokers.claim(&Epochs::default(), who, now), Ok(()), "{who}");
        }
        let epochs = Epochs::default();
        for _ in 0..5 {
            assert_eq!(brokers.claim(&epochs, "d", now), Ok(()));
        }
        let cluster = ClusterKey::new("shop", "default");
        assert_eq!(epochs.claimed(&cluster, claimant("d"), None, now), Ok(()), "an older broker");
    }
}
