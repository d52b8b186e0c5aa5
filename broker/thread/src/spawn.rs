//! Starting, parking and joining of threads.

use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use crate::event::Event;
use crate::simulation::{Wait, simulate, simulation, wait};

thread_local! {
    /// What unparks this thread in a simulation.
    static PARKED: RefCell<Option<Arc<Event>>> = const { RefCell::new(None) };
}

/// A thread that may be woken.
#[derive(Debug, Clone)]
pub struct Thread(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Real(thread::Thread),
    Simulated(Arc<Event>),
}

impl Thread {
    /// Ends the present or the next [`park_timeout`] of the thread.
    pub fn unpark(&self) {
        match &self.0 {
            Kind::Real(thread) => thread.unpark(),
            Kind::Simulated(event) => event.set(),
        }
    }
}

/// The calling thread.
#[must_use]
pub fn current() -> Thread {
    match PARKED.with_borrow(Clone::clone) {
        Some(event) => Thread(Kind::Simulated(event)),
        None => Thread(Kind::Real(thread::current())),
    }
}

/// Waits until the calling thread is unparked or the time has passed.
pub fn park_timeout(timeout: Duration) {
    match (PARKED.with_borrow(Clone::clone), simulation()) {
        (Some(event), Some(simulation)) => drop(wait(&*simulation, &event, Some(timeout))),
        (None, _) | (_, None) => thread::park_timeout(timeout),
    }
}

/// Waits until the time has passed.
pub fn sleep(time: Duration) {
    match simulation() {
        Some(simulation) => drop(wait(&*simulation, &Arc::default(), Some(time))),
        None => thread::sleep(time),
    }
}

/// A thread that was started. Dropping it lets the thread run.
#[derive(Debug)]
pub struct JoinHandle<T> {
    thread: Thread,
    end: End<T>,
}

#[derive(Debug)]
enum End<T> {
    Real(thread::JoinHandle<T>),
    Simulated(Arc<Ended<T>>),
}

/// The end of a simulated thread.
#[derive(Debug)]
struct Ended<T> {
    result: Mutex<Option<thread::Result<T>>>,
    event: Arc<Event>,
}

impl<T> JoinHandle<T> {
    /// The thread that was started.
    #[must_use]
    pub fn thread(&self) -> &Thread {
        &self.thread
    }

    /// Waits for the end of the thread.
    ///
    /// # Errors
    /// When it has panicked. In a simulation also at once when a task calls this, which must not
    /// wait: the thread then ends later.
    pub fn join(self) -> thread::Result<T> {
        let ended = match self.end {
            End::Real(handle) => return handle.join(),
            End::Simulated(ended) => ended,
        };
        let simulation = simulation();
        loop {
            if let Some(result) = ended.result.lock().take() {
                return result;
            }
            let waited = simulation.as_ref().map(|all| all.wait(&ended.event, None));
            if matches!(waited, None | Some(Wait::NotHere)) {
                return Err(Box::new("the thread was not waited for"));
            }
        }
    }
}

/// Starts a thread.
///
/// # Errors
/// When the system starts none.
pub fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let Some(simulation) = simulation() else {
        let handle = thread::Builder::new().name(name.to_owned()).spawn(body)?;
        return Ok(JoinHandle {
            thread: Thread(Kind::Real(handle.thread().clone())),
            end: End::Real(handle),
        });
    };
    let parked: Arc<Event> = Arc::default();
    let ended = Arc::new(Ended { result: Mutex::new(None), event: Arc::default() });
    let (own, end, inherited) = (Arc::clone(&parked), Arc::clone(&ended), Arc::clone(&simulation));
    let body = move || {
        let _simulated = simulate(inherited);
        PARKED.set(Some(own));
        let result = catch_unwind(AssertUnwindSafe(body));
        *end.result.lock() = Some(result);
        end.event.set();
    };
    simulation.spawn(name, Box::new(body))?;
    Ok(JoinHandle { thread: Thread(Kind::Simulated(parked)), end: End::Simulated(ended) })
}
