//! Useful replica counts: one member consumes a partition, so not every count adds capacity.
//!
//! With `n` members the busiest has ⌈P/n⌉ partitions, so `n` members process up to `μ·P/⌈P/n⌉` of a
//! load that is spread evenly over P partitions. Only the smallest `n` for each ⌈P/n⌉ is useful:
//! with 24 partitions 1, 2, 3, 4, 5, 6, 8, 12, 24. Fewer steps cause fewer rebalances.

/// How the partitions of a queue are assigned to the members of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Partitions of the queue.
    pub(super) partitions: u32,
    /// Members that one replica adds: consumers may run several threads.
    pub(super) members_per_replica: u32,
}

impl Layout {
    /// Partitions of the busiest member.
    fn share(self, replicas: u32) -> u32 {
        let members = replicas.saturating_mul(self.members_per_replica).max(1);
        self.partitions.max(1).div_ceil(members)
    }

    /// The fewest replicas with which no member has more than `share` partitions.
    fn replicas_for(self, share: u32) -> u32 {
        let members = self.partitions.max(1).div_ceil(share.max(1));
        members.div_ceil(self.members_per_replica.max(1))
    }

    /// Messages per second that `replicas` can process, if each member processes `per_member` and
    /// the load is spread evenly.
    pub(super) fn capacity(self, replicas: u32, per_member: f64) -> f64 {
        if replicas == 0 {
            return 0.0;
        }
        per_member * f64::from(self.partitions.max(1)) / f64::from(self.share(replicas))
    }

    /// The fewest replicas with the capacity of `replicas`.
    pub(super) fn useful(self, replicas: u32) -> u32 {
        if replicas == 0 { 0 } else { self.replicas_for(self.share(replicas)) }
    }

    /// The fewest replicas that can process `demand` messages per second, or the largest useful
    /// count if none can.
    pub(super) fn step_for(self, demand: f64, per_member: f64) -> u32 {
        let partitions = self.partitions.max(1);
        let share = per_member * f64::from(partitions) / demand.max(f64::MIN_POSITIVE);
        // A float out of range, or NaN, saturates.
        self.replicas_for((share as u32).clamp(1, partitions))
    }

    /// The next smaller useful count; `None` below one.
    pub(super) fn below(self, replicas: u32) -> Option<u32> {
        let useful = self.useful(replicas);
        if useful < replicas {
            return Some(useful).filter(|fewer| *fewer > 0);
        }
        let share = self.share(replicas);
        (share + 1..=self.partitions.max(1))
            .map(|share| self.replicas_for(share))
            .find(|fewer| *fewer < replicas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn steps(partitions: u32) -> Vec<u32> {
        let layout = Layout { partitions, members_per_replica: 1 };
        let mut found = vec![layout.useful(partitions)];
        while let Some(below) = layout.below(found[found.len() - 1]) {
            found.push(below);
        }
        found.reverse();
        found
    }

    #[test]
    fn steps_are_the_distinct_shares() {
        assert_eq!(steps(24), [1, 2, 3, 4, 5, 6, 8, 12, 24]);
        assert_eq!(steps(64), [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 16, 22, 32, 64]);
        assert_eq!(steps(1), [1]);
    }

    #[test]
    fn several_members_in_a_replica_count() {
        let layout = Layout { partitions: 24, members_per_replica: 4 };
        assert_eq!(layout.step_for(2400.0, 100.0), 6);
        assert_eq!(layout.useful(24), 6);
        assert_eq!(layout.capacity(6, 100.0), 2400.0);
    }

    proptest! {
        #[test]
        fn a_step_is_the_fewest_that_carries_the_demand(
            partitions in 1u32..200, per_replica in 1u32..8, demand in 0.1f64..10_000.0,
        ) {
            let layout = Layout { partitions, members_per_replica: per_replica };
            let step = layout.step_for(demand, 100.0);
            let most = layout.useful(partitions);
            prop_assert!(step >= 1 && step <= most);
            prop_assert!(step == most || layout.capacity(step, 100.0) >= demand * 0.999_999);
            prop_assert!(step == 1 || layout.capacity(step - 1, 100.0) < demand * 1.000_001);
            prop_assert_eq!(layout.useful(step), step);
        }

        #[test]
        fn below_is_fewer_and_worth_having(partitions in 1u32..200, replicas in 1u32..300) {
            let layout = Layout { partitions, members_per_replica: 1 };
            match layout.below(replicas) {
                Some(below) => {
                    prop_assert!(below < replicas && below >= 1);
                    prop_assert!(layout.capacity(below, 1.0) <= layout.capacity(replicas, 1.0));
                }
                None => prop_assert_eq!(replicas, 1),
            }
        }
    }
}
