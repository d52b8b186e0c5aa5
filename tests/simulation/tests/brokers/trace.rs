//! The events of a run: their hash, and the newest ones as text.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::dice::mix;

const NEWEST_MAX: usize = 80;

pub(crate) struct Trace {
    begun: Instant,
    /// Whether each event is printed at once.
    is_loud: bool,
    state: Mutex<(u64, VecDeque<String>)>,
}

impl Trace {
    pub(crate) fn new(is_loud: bool) -> Self {
        Self { begun: Instant::now(), is_loud, state: Mutex::default() }
    }

    pub(crate) fn event(&self, text: String) {
        let at_us = u64::try_from(self.begun.elapsed().as_micros()).expect("a run is short");
        let line = format!("{:>10.3} ms  {text}", at_us as f64 / 1000.0);
        if self.is_loud {
            eprintln!("{line}");
        }
        let mut state = self.state.lock();
        let (hash, newest) = &mut *state;
        for chunk in line.as_bytes().chunks(8) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            *hash = mix(*hash ^ u64::from_le_bytes(bytes));
        }
        if newest.len() == NEWEST_MAX {
            newest.pop_front();
        }
        newest.push_back(line);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.state.lock().0
    }

    pub(crate) fn newest(&self) -> String {
        self.state.lock().1.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}
