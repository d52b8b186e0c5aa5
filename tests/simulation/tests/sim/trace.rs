//! The hash that identifies a run, and its newest events.

use crate::dice::mix;

/// The events of a run: their hash, and the newest ones as text.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hash: u64,
    newest: std::collections::VecDeque<String>,
}

const NEWEST_MAX: usize = 60;

impl Trace {
    pub(crate) fn event(&mut self, at_us: u64, text: String) {
        for chunk in text.as_bytes().chunks(8) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            self.hash = mix(self.hash ^ u64::from_le_bytes(bytes)).wrapping_add(at_us);
        }
        if self.newest.len() == NEWEST_MAX {
            self.newest.pop_front();
        }
        self.newest.push_back(format!("{:>9.3} ms  {text}", at_us as f64 / 1000.0));
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn newest(&self) -> String {
        self.newest.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}
