//! The epochs that clusters gave this leader, and another operator that claims them too.
//!
//! The brokers mint them: a number kept in the Lease would begin again after a reinstall. An epoch is
//! kept in memory only; a new leader claims its own, and the old one's calls are refused from then on.
//!
//! # Two operators
//!
//! The answer to a claim names who claimed before. Another Lease there is normal once, after a new
//! installation. If the same one comes back after this operator has claimed, an operator with that Lease
//! runs as well: both would claim in turns for ever. Both stand back for [`STAND_BACK`] then and say so.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Deserialize;

use crate::cluster_key::ClusterKey;

/// An operator that found another one changes nothing for so long. Then it claims again, to see whether
/// the other one is still there.
pub const STAND_BACK: Duration = Duration::from_secs(300);

/// What a claim brings.
#[derive(Clone, Debug, Deserialize)]
pub struct Claimed {
    /// Higher than any before.
    pub epoch: u64,
    /// Who claimed the one before, if the broker knows.
    #[serde(default)]
    pub previous: Option<Claimant>,
}

/// An operator that claims epochs.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Claimant {
    /// The process.
    pub holder: String,
    /// The uid of its Lease: the same for all processes of one installation.
    pub lease_uid: String,
}

/// Two operators that both claim the epochs of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "two operators manage this cluster, {} (Lease {}) and {} (Lease {}): both stand back. Let their `--watch-namespaces` not overlap, or uninstall one of them",
    .0[0].holder, .0[0].lease_uid, .0[1].holder, .0[1].lease_uid
)]
pub struct Conflict([Claimant; 2]);

impl Conflict {
    /// In an order that is the same for both of them, so that both say the same.
    fn between(one: Claimant, other: Claimant) -> Self {
        if one.lease_uid <= other.lease_uid { Self([one, other]) } else { Self([other, one]) }
    }
}

/// A place for one cluster's epoch, held while it is being claimed.
pub type Slot = Arc<tokio::sync::Mutex<Option<u64>>>;

/// The epochs that clusters gave this leader.
#[derive(Debug, Default)]
pub struct Epochs {
    slots: Mutex<HashMap<ClusterKey, Slot>>,
    others: Mutex<HashMap<ClusterKey, Other>>,
}

/// Another Lease under which a cluster's epoch was claimed.
#[derive(Debug)]
struct Other {
    lease_uid: String,
    /// How often it stood before a claim of ours.
    times: u32,
    conflict: Option<(Conflict, Instant)>,
}

impl Epochs {
    /// The place for the epoch of a cluster.
    pub fn slot(&self, cluster: &ClusterKey) -> Slot {
        self.slots.lock().entry(cluster.clone()).or_default().clone()
    }

    /// The next call claims anew.
    pub fn forget(&self, cluster: &ClusterKey) {
        self.slots.lock().remove(cluster);
    }

    /// The cluster is gone, or another has its name.
    pub fn forget_all_of(&self, cluster: &ClusterKey) {
        self.forget(cluster);
        self.others.lock().remove(cluster);
    }

    /// Takes in who had claimed before `ours`. An error says that both claim in turns.
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
        let fresh = || Other { lease_uid: previous.lease_uid.clone(), times: 0, conflict: None };
        let other = others.entry(cluster.clone()).or_insert_with(fresh);
        let is_over = other.conflict.as_ref().is_some_and(|(_, since)| {
            // One that is still there comes back within seconds, and is noticed then.
            now.saturating_duration_since(*since) >= STAND_BACK
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

    /// The conflict because of which nothing is changed in a cluster at this moment.
    pub fn conflict(&self, cluster: &ClusterKey, now: Instant) -> Option<Conflict> {
        let others = self.others.lock();
        let (conflict, since) = others.get(cluster)?.conflict.as_ref()?;
        (now.saturating_duration_since(*since) < STAND_BACK).then(|| conflict.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimant(name: &str) -> Claimant {
        Claimant { holder: format!("pod-{name}"), lease_uid: format!("lease-{name}") }
    }

    /// The brokers as far as claims go.
    #[derive(Default)]
    struct Brokers(Option<Claimant>);

    impl Brokers {
        fn claim(&mut self, epochs: &Epochs, who: &str, now: Instant) -> Result<(), Conflict> {
            let previous = self.0.replace(claimant(who));
            epochs.claimed(&ClusterKey::new("shop", "default"), claimant(who), previous, now)
        }
    }

    #[test]
    fn two_operators_that_claim_in_turns_both_stand_back_and_say_the_same() {
        let (now, cluster) = (Instant::now(), ClusterKey::new("shop", "default"));
        let (a, b, mut brokers) = (Epochs::default(), Epochs::default(), Brokers::default());
        assert_eq!(brokers.claim(&a, "a", now), Ok(()));
        assert_eq!(brokers.claim(&b, "b", now), Ok(()), "a new installation does that once");
        assert_eq!(brokers.claim(&a, "a", now), Ok(()), "it may have been the last of the old one");
        let seen_by_b = brokers.claim(&b, "b", now).expect_err("a has come back");
        let seen_by_a = brokers.claim(&a, "a", now).expect_err("b has come back");
        assert_eq!(seen_by_a.to_string(), seen_by_b.to_string());
        assert!(seen_by_a.to_string().contains("pod-a (Lease lease-a) and pod-b"), "{seen_by_a}");
        assert_eq!(a.conflict(&cluster, now + Duration::from_secs(299)), Some(seen_by_a));
        assert_eq!(a.conflict(&cluster, now + STAND_BACK), None, "it looks again");
        assert!(brokers.claim(&a, "a", now + STAND_BACK).is_ok(), "b is gone");
    }

    #[test]
    fn who_stood_back_begins_anew_when_the_other_claimed_last_and_is_gone() {
        let (now, mut brokers) = (Instant::now(), Brokers::default());
        let (a, b) = (Epochs::default(), Epochs::default());
        for (epochs, who) in [(&a, "a"), (&b, "b"), (&a, "a")] {
            assert_eq!(brokers.claim(epochs, who, now), Ok(()), "{who}");
        }
        assert!(brokers.claim(&b, "b", now).is_err());
        assert!(brokers.claim(&a, "a", now).is_err());
        assert!(brokers.claim(&b, "b", now).is_err(), "it ends after this claim");
        let later = now + STAND_BACK;
        assert_eq!(brokers.claim(&a, "a", later), Ok(()), "b stood there, and has ended");
        assert_eq!(a.conflict(&ClusterKey::new("shop", "default"), later), None);
        // If it is still there after all, that is noticed at its next claim.
        assert_eq!(brokers.claim(&b, "b", later), Ok(()));
        assert!(brokers.claim(&a, "a", later).is_err());
    }

    #[test]
    fn an_operator_that_is_exchanged_or_starts_anew_is_no_conflict() {
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
