//! The threads of the brokers, run one at a time on tokio's paused clock.
//!
//! Each thread has a task. The task gives the thread its turn, and blocks until the thread gives it
//! back with what it waits for; then the task awaits that. So the runtime's own order of tasks is
//! the order of the threads.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ropewalk_thread::{Event, Simulation, Wait};
use tokio::runtime::Handle;

/// The wall clock at the start of a run, Unix milliseconds.
const EPOCH_MS: i64 = 1_800_000_000_000;

/// Why a thread gives its turn back.
enum Yield {
    Wait(Arc<Event>, Option<Duration>),
    Done,
}

/// The side of the thread.
struct Turn {
    resumed: mpsc::Receiver<Wait>,
    back: mpsc::Sender<Yield>,
}

thread_local! {
    static TURN: RefCell<Option<Turn>> = const { RefCell::new(None) };
}

pub(crate) struct Threads {
    handle: Handle,
    begun: Instant,
}

impl Threads {
    /// Must be called in the runtime of the simulation.
    pub(crate) fn new() -> Arc<Self> {
        let begun = tokio::time::Instant::now().into_std();
        Arc::new(Self { handle: Handle::current(), begun })
    }
}

/// A thread whose turn never comes again, because its runtime is gone.
fn end() -> ! {
    loop {
        std::thread::park();
    }
}

impl Simulation for Threads {
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        let (resume, resumed) = mpsc::channel();
        let (back, given) = mpsc::channel();
        let handle = self.handle.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(2 << 20);
        thread.spawn(move || {
            let Ok(Wait::Woken | Wait::TimedOut | Wait::NotHere) = resumed.recv() else { end() };
            let entered = handle.enter();
            TURN.set(Some(Turn { resumed, back: back.clone() }));
            body();
            drop(entered);
            let _ = back.send(Yield::Done);
        })?;
        self.handle.spawn(async move {
            let mut how = Wait::Woken;
            while resume.send(how).is_ok() {
                match given.recv() {
                    Ok(Yield::Wait(event, timeout)) => how = wait(&event, timeout).await,
                    Ok(Yield::Done) | Err(_) => return,
                }
            }
        });
        Ok(())
    }

    fn wait(&self, event: &Arc<Event>, timeout: Option<Duration>) -> Wait {
        TURN.with_borrow(|turn| {
            let Some(Turn { resumed, back }) = turn else { return Wait::NotHere };
            if back.send(Yield::Wait(Arc::clone(event), timeout)).is_err() {
                end();
            }
            resumed.recv().unwrap_or_else(|_| end())
        })
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn time_ms(&self) -> i64 {
        let passed = self.now() - self.begun;
        EPOCH_MS + i64::try_from(passed.as_millis()).expect("a run is short")
    }
}

async fn wait(event: &Event, timeout: Option<Duration>) -> Wait {
    let woken = poll_fn(|context| event.poll(context));
    let Some(timeout) = timeout else {
        woken.await;
        return Wait::Woken;
    };
    tokio::select! {
        biased;
        () = woken => Wait::Woken,
        () = tokio::time::sleep(timeout) => Wait::TimedOut,
    }
}
