//! Events per second over the last half minute.

/// Length of a slot, milliseconds.
const SLOT_MS: i64 = 5_000;

/// Complete slots that a rate covers.
const SLOTS: usize = 6;

/// Counts events in slots of five seconds.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    /// Number of the newest slot (time divided by the slot's length).
    newest: i64,
    /// Time of the first event, milliseconds, because the rate must not cover time before it.
    since_ms: i64,
    /// Event counts, newest slot first.
    slots: [u64; SLOTS + 1],
}

impl Meter {
    /// Counts `count` events at `now_ms`.
    pub fn add(&mut self, now_ms: i64, count: u64) {
        if self.since_ms == 0 {
            self.since_ms = now_ms;
        }
        self.advance(now_ms);
        self.slots[0] = self.slots[0].saturating_add(count);
    }

    /// Events per second at `now_ms`.
    #[must_use]
    pub fn per_second(&self, now_ms: i64) -> f64 {
        let mut seen = self.clone();
        seen.advance(now_ms);
        let total: u64 = seen.slots.iter().sum();
        let begins_ms = (seen.newest - SLOTS as i64) * SLOT_MS;
        let span_ms = now_ms - begins_ms.max(self.since_ms);
        // The rate covers at least one second, so that the first events do not show a huge rate.
        total as f64 * 1000.0 / span_ms.max(1_000) as f64
    }

    fn advance(&mut self, now_ms: i64) {
        let slot = now_ms.div_euclid(SLOT_MS);
        // If the clock went back, events count into the newest slot.
        let steps = usize::try_from(slot - self.newest).unwrap_or(0);
        if steps > 0 {
            let keep = self.slots.len().saturating_sub(steps);
            let empty = self.slots.len() - keep;
            self.slots.copy_within(..keep, empty);
            self.slots[..empty].fill(0);
            self.newest = slot;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_700_000_000_000;

    #[test]
    fn a_steady_stream_is_its_rate() {
        let mut meter = Meter::default();
        for n in 0..600 {
            meter.add(START + n * 100, 10);
        }
        let rate = meter.per_second(START + 60_000);
        assert!((95.0..=105.0).contains(&rate), "{rate}");
    }

    #[test]
    fn what_just_began_is_not_thinned_by_time_before_it() {
        let mut meter = Meter::default();
        meter.add(START, 50);
        meter.add(START + 2_000, 50);
        let rate = meter.per_second(START + 2_000);
        assert!((45.0..=55.0).contains(&rate), "{rate}");
    }

    #[test]
    fn silence_fades_to_nothing() {
        let mut meter = Meter::default();
        meter.add(START, 1_000);
        assert!(meter.per_second(START + 20_000) > 0.0);
        assert_eq!(meter.per_second(START + 60_000), 0.0);
        assert_eq!(Meter::default().per_second(START), 0.0);
    }
}
