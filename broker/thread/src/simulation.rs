//! The seam to a simulator.

use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::event::Event;

/// How a wait of a simulated thread ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The event was set. There may be no reason for it: the caller looks.
    Woken,
    /// The time has passed.
    TimedOut,
    /// The calling thread is not one of the simulation's: it runs the tasks, and must not wait.
    NotHere,
}

/// Runs the threads of a simulation, one at a time.
pub trait Simulation: Send + Sync {
    /// Runs `body` as a thread of the simulation. It begins when its turn comes.
    ///
    /// # Errors
    /// When the system starts no thread.
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<()>;

    /// Gives the turn back until the event is set or the time has passed.
    fn wait(&self, event: &Arc<Event>, timeout: Option<Duration>) -> Wait;

    /// The time of the simulation.
    fn now(&self) -> Instant;

    /// The wall clock of the simulation, Unix milliseconds.
    fn time_ms(&self) -> i64;
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn Simulation>>> = const { RefCell::new(None) };
}

/// Ends the simulation of the calling thread when it is dropped.
#[must_use = "the simulation ends when this is dropped"]
#[derive(Debug)]
pub struct Simulated(());

impl Drop for Simulated {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}

/// From here on what the calling thread makes belongs to this simulation.
pub fn simulate(simulation: Arc<dyn Simulation>) -> Simulated {
    CURRENT.set(Some(simulation));
    Simulated(())
}

pub(crate) fn simulation() -> Option<Arc<dyn Simulation>> {
    // A destructor of another thread-local value may run after this one is gone.
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

/// Whether the calling thread belongs to a simulation.
#[must_use]
pub fn is_simulated() -> bool {
    simulation().is_some()
}

/// The monotonic time.
#[must_use]
pub fn now() -> Instant {
    simulation().map_or_else(Instant::now, |simulation| simulation.now())
}

/// The wall clock, Unix milliseconds.
#[must_use]
pub fn time_ms() -> i64 {
    if let Some(simulation) = simulation() {
        return simulation.time_ms();
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Waits for a future on a thread. `block` does so outside of a simulation.
///
/// # Panics
/// In a simulation, when the caller is no thread of it.
pub fn wait_for<F: Future>(future: F, block: impl FnOnce(F) -> F::Output) -> F::Output {
    let Some(simulation) = simulation() else { return block(future) };
    let event = Arc::new(Event::default());
    let waker = Waker::from(Arc::clone(&event));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => wait(&*simulation, &event, None),
        };
    }
}

/// Waits on a thread of the simulation. Returns whether the time has passed.
///
/// # Panics
/// When the caller is no thread of the simulation.
pub(crate) fn wait(
    simulation: &dyn Simulation,
    event: &Arc<Event>,
    timeout: Option<Duration>,
) -> bool {
    match simulation.wait(event, timeout) {
        Wait::Woken => false,
        Wait::TimedOut => true,
        Wait::NotHere => panic!("a task waits for a thread: it would block all tasks"),
    }
}
