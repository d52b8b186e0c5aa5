//! A condition variable for one waiting thread.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::MutexGuard;

use crate::event::Event;
use crate::simulation::{simulation, wait};

/// A condition variable that one thread waits for at a time. A wait may end without a reason.
pub struct Condvar {
    real: parking_lot::Condvar,
    /// In a simulation.
    event: Option<Arc<Event>>,
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Condvar")
    }
}

impl Default for Condvar {
    fn default() -> Self {
        let event = simulation().map(|_| Arc::default());
        Self { real: parking_lot::Condvar::new(), event }
    }
}

impl Condvar {
    /// Wakes the thread that waits. If none does, the next wait of a simulated thread ends at once.
    pub fn notify_one(&self) {
        match &self.event {
            Some(event) => event.set(),
            None => {
                self.real.notify_one();
            }
        }
    }

    /// Releases the lock, waits, and locks again.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        match &self.event {
            Some(event) => drop(MutexGuard::unlocked(guard, || simulated(event, None))),
            None => self.real.wait(guard),
        }
    }

    /// Like [`Self::wait`] for some time at most. Returns whether the time has passed.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, timeout: Duration) -> bool {
        match &self.event {
            Some(event) => MutexGuard::unlocked(guard, || simulated(event, Some(timeout))),
            None => self.real.wait_for(guard, timeout).timed_out(),
        }
    }
}

fn simulated(event: &Arc<Event>, timeout: Option<Duration>) -> bool {
    let simulation = simulation().expect("the thread is one of the simulation");
    wait(&*simulation, event, timeout)
}
