//! The steps of a scripted run, at each of which a replica can crash.

use ropewalk_shard::message::{Body, Message};
use ropewalk_shard::replica::Write;

use crate::world::{Happening, World};

/// Counts the actions that replicas carry out, and names the one before which a replica crashes.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    /// Whether steps are counted now.
    pub is_counted: bool,
    /// How many steps were reached.
    pub reached: usize,
    /// The number of the step that is not reached: its replica crashes before it.
    pub crash_at: Option<usize>,
    /// How long the replica is down, microseconds.
    pub down_us: u64,
    /// What the crash prevented.
    pub prevented: Option<String>,
}

impl Steps {
    pub(crate) fn write(node: u64, write: &Write) -> String {
        let entries: Vec<_> = write.entries.iter().map(|e| (e.index, e.term, e.kind)).collect();
        format!("replica {node} writes {entries:?} {:?}", write.hard_state)
    }

    pub(crate) fn durable(node: u64, number: u64) -> String {
        format!("replica {node} learns that write {number} is durable")
    }

    pub(crate) fn message(message: &Message) -> String {
        let Message { from, to, term, body } = message;
        let text = format!("{body:?}");
        let kind = text.split([' ', '{']).next().unwrap_or_default();
        format!("replica {from} sends {kind} of term {term} to {to}")
    }
}

/// Heartbeats are sent all the time and promise nothing.
fn is_heartbeat(text: &str) -> bool {
    text.contains("sends Heartbeat")
}

impl World {
    /// Whether the replica crashes now, instead of the step. It starts again a moment later.
    pub(crate) fn crashes_before(&mut self, node: u64, step: impl FnOnce() -> String) -> bool {
        if !self.steps.is_counted {
            return false;
        }
        let text = step();
        if is_heartbeat(&text) {
            return false;
        }
        self.steps.reached += 1;
        if self.steps.crash_at != Some(self.steps.reached) {
            return false;
        }
        self.steps.prevented = Some(text);
        self.crash(node);
        let down = self.steps.down_us;
        self.after(down, Happening::Start { node });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_no_step_and_an_append_is() {
        let context = bytes::Bytes::new();
        let heartbeat = Body::Heartbeat { commit: 1, context };
        let append = Body::Append { previous: Default::default(), commit: 1, entries: Vec::new() };
        let step = |body| Steps::message(&Message { from: 1, to: 2, term: 3, body });
        assert!(is_heartbeat(&step(heartbeat)));
        assert_eq!(step(append), "replica 1 sends Append of term 3 to 2");
    }
}
