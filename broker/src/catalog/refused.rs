//! Log lines about topics that cannot be made on first use: the client only sees that the topic is unknown and
//! asks again and again until its time is over.
//!
//! Invariant: **R1** each name is logged once a minute, and at most [`NAMES_PER_MINUTE_MAX`] names are.

use std::collections::HashSet;
use std::fmt;

use parking_lot::Mutex;
use tracing::warn;

use super::name::NAME_LEN_MAX;
use crate::clock;

/// Names that are logged in a minute.
const NAMES_PER_MINUTE_MAX: usize = 50;

/// The names that were logged in the current minute.
#[derive(Debug, Default)]
pub(super) struct RefusedNames(Mutex<Minute>);

#[derive(Debug, Default)]
struct Minute {
    number: i64,
    names: HashSet<String>,
}

impl RefusedNames {
    /// Logs that a topic was not made, unless that was said a short while ago.
    pub(super) fn note(&self, topic: &str, error: &dyn fmt::Display) {
        // A name that is too long is refused for that, and need not be shown whole.
        let shown: String = topic.chars().take(NAME_LEN_MAX + 1).collect();
        if self.0.lock().is_news(&shown, clock::now_ms()) {
            warn!(topic = shown, %error, "topic not made on first use");
        }
    }
}

impl Minute {
    fn is_news(&mut self, name: &str, now_ms: i64) -> bool {
        let number = now_ms.div_euclid(60_000);
        if number != self.number {
            *self = Self { number, names: HashSet::new() };
        }
        self.names.len() < NAMES_PER_MINUTE_MAX && self.names.insert(name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r1_a_name_is_logged_once_a_minute_and_only_so_many_are() {
        let mut minute = Minute::default();
        assert!(minute.is_news("a b", 60_000));
        assert!(!minute.is_news("a b", 119_999), "in the same minute");
        assert!(minute.is_news("a b", 120_000));
        let said = (0..1000).filter(|n| minute.is_news(&n.to_string(), 120_001)).count();
        assert_eq!(said, NAMES_PER_MINUTE_MAX - 1);
    }
}
