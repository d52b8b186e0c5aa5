//! How long a broker waits before it dials.
//!
//! The delays double from [`FIRST`] to [`LAST`], and each is drawn between its half and its whole,
//! so that brokers that lost a common peer do not all dial it at the same moments. There is no last
//! attempt. Random numbers are the caller's.

use std::time::Duration;

use ropewalk_shard::BrokerId;

/// Delay before the first attempt.
pub(crate) const FIRST: Duration = Duration::from_millis(50);

/// Longest delay between two attempts: a broker that is back, or an address that has changed, is
/// noticed so late at worst.
pub(crate) const LAST: Duration = Duration::from_secs(2);

/// The broker with the higher id of a pair dials so much later, so that it is rare that both dial
/// at once.
pub(crate) const HEAD_START: Duration = Duration::from_millis(100);

/// Delay before an attempt. `failures` counts the failed attempts since the last connection;
/// `random` is uniformly distributed.
pub(crate) fn delay(own: BrokerId, peer: BrokerId, failures: u32, random: u64) -> Duration {
    let whole = LAST.min(FIRST.saturating_mul(1 << failures.min(16)));
    let half = whole / 2;
    let share = u32::try_from(random >> 32).unwrap_or(u32::MAX);
    let jitter = half.mul_f64(f64::from(share) / f64::from(u32::MAX));
    let head_start = if own > peer && failures == 0 { HEAD_START } else { Duration::ZERO };
    half + jitter + head_start
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn delays_double_up_to_the_last() {
        let longest = |failures| delay(BrokerId(1), BrokerId(2), failures, u64::MAX);
        assert_eq!(longest(0), FIRST);
        assert_eq!(longest(1), FIRST * 2);
        assert_eq!(longest(5), FIRST * 32);
        assert_eq!(longest(6), LAST);
        assert_eq!(longest(u32::MAX), LAST);
    }

    #[test]
    fn the_higher_id_dials_first_only_after_a_head_start() {
        let of = |own, peer, random| delay(BrokerId(own), BrokerId(peer), 0, random);
        assert!(of(2, 1, 0) > of(1, 2, u64::MAX));
        assert_eq!(
            delay(BrokerId(2), BrokerId(1), 3, 0),
            delay(BrokerId(1), BrokerId(2), 3, 0),
            "after a failure there is no reason to wait for the other side"
        );
    }

    proptest! {
        #[test]
        fn a_delay_is_between_its_half_and_its_whole(failures in 0..40u32, random: u64) {
            let delay = delay(BrokerId(1), BrokerId(2), failures, random);
            let whole = LAST.min(FIRST * (1 << failures.min(16)));
            prop_assert!(delay >= whole / 2 && delay <= whole, "{delay:?}");
        }
    }
}
