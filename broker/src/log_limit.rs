//! Rate limit of log lines that clients and other brokers cause: at most one per subject and
//! minute, so that a client that retries in a loop is visible in the log and does not flood it.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::limits;

/// Shortest interval between two lines about the same subject.
const INTERVAL: Duration = Duration::from_secs(60);

/// The subjects that had a log line within the interval.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    subjects: Mutex<HashMap<String, Subject>>,
}

#[derive(Debug)]
struct Subject {
    quiet_until: Instant,
    /// Lines suppressed since the last one.
    left_out: u64,
}

impl LogLimit {
    /// Whether a line about `subject` may be written now; the value is the number of lines
    /// suppressed since the last one. With [`limits::LOG_SUBJECTS_MAX`] subjects in one minute, new
    /// subjects are suppressed.
    pub(crate) fn admit(&self, subject: &str, now: Instant) -> Option<u64> {
        let mut subjects = self.subjects.lock();
        if let Some(known) = subjects.get_mut(subject) {
            if now < known.quiet_until {
                known.left_out += 1;
                return None;
            }
            known.quiet_until = now + INTERVAL;
            return Some(std::mem::take(&mut known.left_out));
        }
        if subjects.len() >= limits::LOG_SUBJECTS_MAX {
            subjects.retain(|_, known| now < known.quiet_until);
            if subjects.len() >= limits::LOG_SUBJECTS_MAX {
                return None;
            }
        }
        let known = Subject { quiet_until: now + INTERVAL, left_out: 0 };
        subjects.insert(subject.to_owned(), known);
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_subject_and_minute_says_how_many_were_left_out() {
        let limit = LogLimit::default();
        let begun = Instant::now();
        assert_eq!(limit.admit("a", begun), Some(0));
        assert_eq!(limit.admit("b", begun), Some(0));
        assert_eq!(limit.admit("a", begun + Duration::from_secs(1)), None);
        assert_eq!(limit.admit("a", begun + Duration::from_secs(59)), None);
        assert_eq!(limit.admit("a", begun + INTERVAL), Some(2));
        assert_eq!(limit.admit("a", begun + INTERVAL), None);
    }

    #[test]
    fn r1_the_subjects_are_bounded() {
        let limit = LogLimit::default();
        let begun = Instant::now();
        for n in 0..limits::LOG_SUBJECTS_MAX {
            assert_eq!(limit.admit(&n.to_string(), begun), Some(0));
        }
        assert_eq!(limit.admit("one more", begun), None);
        assert_eq!(limit.admit("one more", begun + INTERVAL), Some(0));
        assert_eq!(limit.subjects.lock().len(), 1);
    }
}
