//! Logs a problem when it begins and when it changes, not at each attempt.
//!
//! An attempt to connect repeats for as long as its cause lasts, for hours if a certificate is
//! wrong. The last text of each subject is remembered; a subject whose problem is over is removed.
//! At most [`limits::NOTICES_MAX`] subjects are remembered: beyond that the first one is removed,
//! so that unknown senders cost lines of the log and no memory.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ropewalk_shard::BrokerId;

use crate::hello::Class;
use crate::limits;

/// What a problem is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// Connections that this broker dials.
    Dialled(BrokerId, Class),
    /// Connections of a broker that its certificate names.
    Accepted(BrokerId, Class),
    /// What a broker sends on connections whose hello was accepted.
    Received(BrokerId, Class),
    /// Connections from an address without a valid certificate.
    Unknown(IpAddr, Class),
    /// The certificate files of this broker.
    Certificates,
}

/// The last problem of each subject.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    last: BTreeMap<Subject, String>,
}

impl Notices {
    /// Whether the problem of the subject is another one than the last. It is remembered.
    pub(crate) fn is_new(&mut self, subject: Subject, problem: &str) -> bool {
        if self.last.get(&subject).is_some_and(|last| last == problem) {
            return false;
        }
        if self.last.len() >= limits::NOTICES_MAX && !self.last.contains_key(&subject) {
            self.last.pop_first();
        }
        self.last.insert(subject, problem.to_owned());
        true
    }

    /// The subject has no problem any more. Returns whether it had one.
    pub(crate) fn is_over(&mut self, subject: &Subject) -> bool {
        self.last.remove(subject).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_new_when_it_begins_changes_or_returns() {
        let mut notices = Notices::default();
        let subject = || Subject::Dialled(BrokerId(1), Class::Raft);
        assert!(notices.is_new(subject(), "refused"));
        assert!(!notices.is_new(subject(), "refused"));
        assert!(notices.is_new(subject(), "timed out"));
        assert!(notices.is_new(subject(), "refused"));
        assert!(notices.is_new(Subject::Accepted(BrokerId(1), Class::Raft), "refused"));
        assert!(notices.is_over(&subject()));
        assert!(!notices.is_over(&subject()));
        assert!(notices.is_new(subject(), "refused"));
    }

    #[test]
    fn r1_unknown_senders_take_no_memory_without_bound() {
        let mut notices = Notices::default();
        for sender in 0..10 * u32::try_from(limits::NOTICES_MAX).expect("it is small") {
            let subject = Subject::Unknown(IpAddr::from(sender.to_be_bytes()), Class::Raft);
            assert!(notices.is_new(subject, "no certificate"));
        }
        assert_eq!(notices.last.len(), limits::NOTICES_MAX);
    }
}
