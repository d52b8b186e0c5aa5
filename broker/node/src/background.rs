//! The threads of the flushers, the checkpointer and the cleaner.
//!
//! Each calls `step` while there is work; otherwise it is parked until a log wakes it or [`IDLE`]
//! has passed. Between two steps it carries out orders, such as to add a shard. At a stop the
//! checkpointer checkpoints every shard, so that the next start is quick.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fmt, io};

use ropewalk_store::checkpoint::Checkpointer;
use ropewalk_store::clean::Cleaner;
use ropewalk_store::flush::Flusher;
use ropewalk_store::work::{Next, WorkError};
use ropewalk_thread::{self as thread, JoinHandle, Thread};

use crate::supervision::{self, Failure, Supervisor, Task};

/// How long a thread without work is parked at most.
const IDLE: Duration = Duration::from_millis(100);
/// How long a thread waits after a step that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Background work of the store that has a thread of its own.
pub(crate) trait Worker: Send + 'static {
    /// The row of the thread.
    const TASK: &'static Task;

    /// Called once, with the thread that wakes it.
    fn run_by(&self, _: Thread) {}

    /// Does one piece of work.
    ///
    /// # Errors
    /// See [`WorkError`]: after one that is not final it is called again.
    fn step(&mut self, now_ms: i64) -> Result<Next, WorkError>;
}

impl Worker for Checkpointer {
    const TASK: &'static Task = &supervision::CHECKPOINTER;

    fn run_by(&self, thread: Thread) {
        self.store().set_checkpointer(thread);
    }

    fn step(&mut self, now_ms: i64) -> Result<Next, WorkError> {
        Self::step(self, now_ms)
    }
}

impl Worker for Flusher {
    const TASK: &'static Task = &supervision::FLUSHER;

    fn run_by(&self, thread: Thread) {
        Self::run_by(self, thread);
    }

    fn step(&mut self, now_ms: i64) -> Result<Next, WorkError> {
        Self::step(self, now_ms)
    }
}

impl Worker for Cleaner {
    const TASK: &'static Task = &supervision::CLEANER;

    fn step(&mut self, now_ms: i64) -> Result<Next, WorkError> {
        Self::step(self, now_ms)
    }
}

type Order<W> = Box<dyn FnOnce(&mut W) + Send>;

/// A running thread. Dropping it stops the thread after the current step.
pub(crate) struct Background<W> {
    stop: Arc<AtomicBool>,
    orders: thread::Sender<Order<W>>,
    thread: Option<JoinHandle<Option<W>>>,
    clock_ms: fn() -> i64,
}

impl<W> fmt::Debug for Background<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background").finish_non_exhaustive()
    }
}

impl<W: Worker> Background<W> {
    /// Runs `worker` on a new thread. `supervisor` reports a final error (D2) or a panic.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn spawn(
        mut worker: W,
        clock_ms: fn() -> i64,
        supervisor: &Supervisor,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (orders, given) = thread::channel::<Order<W>>();
        let supervisor = supervisor.clone();
        let body = move || {
            worker.run_by(thread::current());
            run(&mut worker, &given, clock_ms, &stopped)?;
            Ok(worker)
        };
        let thread = thread::spawn(W::TASK.name, move || supervisor.run(W::TASK, body))?;
        Ok(Self { stop, orders, thread: Some(thread), clock_ms })
    }

    /// Lets the thread carry out `order` between two steps. Orders are carried out one after the
    /// other. The thread may have ended: then the process is about to.
    pub(crate) fn order(&self, order: impl FnOnce(&mut W) + Send + 'static) {
        self.orders.send(Box::new(order));
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// Like [`Self::order`], and waits until it is carried out. Blocks.
    pub(crate) fn order_and_wait(&self, order: impl FnOnce(&mut W) + Send + 'static) {
        let (done, is_done) = thread::channel();
        self.order(move |worker| {
            order(worker);
            done.send(());
        });
        // The sender is dropped if the thread has ended.
        let _ = is_done.recv();
    }
}

impl<W> Background<W> {
    fn join(&mut self) -> Option<W> {
        let thread = self.thread.take()?;
        self.stop.store(true, Ordering::Release);
        thread.thread().unpark();
        // The supervisor has reported a panic already.
        thread.join().ok().flatten()
    }
}

impl<W> Drop for Background<W> {
    fn drop(&mut self) {
        self.join();
    }
}

impl Background<Checkpointer> {
    /// Stops the thread, then checkpoints every shard. The drivers must still run, because they
    /// capture the state. Blocks.
    ///
    /// # Errors
    /// When the last checkpoint failed; no data is lost, the next start replays more.
    pub(crate) fn stop(mut self) -> Result<(), WorkError> {
        match self.join() {
            Some(mut checkpointer) => checkpointer.checkpoint_all((self.clock_ms)()),
            None => Err(WorkError::Later("the thread had ended before".to_owned())),
        }
    }
}

/// Carries out orders and calls `step` until stopped, or until a final error.
fn run<W: Worker>(
    worker: &mut W,
    orders: &thread::Receiver<Order<W>>,
    clock_ms: fn() -> i64,
    stop: &AtomicBool,
) -> Result<(), Failure> {
    while !stop.load(Ordering::Acquire) {
        orders.try_iter().for_each(|order| order(worker));
        match worker.step(clock_ms()) {
            Ok(Next::Now) => {}
            Ok(Next::Wait) => thread::park_timeout(IDLE),
            Err(WorkError::Final(error)) => return Err(Failure::Disk(error)),
            Err(WorkError::Later(error)) => {
                tracing::warn!(error, "background work failed, will retry");
                thread::park_timeout(RETRY);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::supervision::Fatal;

    /// Fails at its third step, for good.
    struct Failing {
        steps: usize,
        reached: Arc<Mutex<usize>>,
    }

    impl Worker for Failing {
        const TASK: &'static Task = &supervision::CLEANER;

        fn step(&mut self, _: i64) -> Result<Next, WorkError> {
            self.steps += 1;
            *self.reached.lock() = self.steps;
            if self.steps < 3 { Ok(Next::Now) } else { Err(WorkError::Final("EIO".to_owned())) }
        }
    }

    #[test]
    fn d2_a_final_error_ends_the_thread_and_is_reported_as_one_of_the_disk() {
        let reports = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&reports);
        let supervisor = Supervisor::new(Arc::new(move |fatal| to.lock().push(fatal)));
        let reached = Arc::new(Mutex::new(0));
        let worker = Failing { steps: 0, reached: Arc::clone(&reached) };
        let mut background = Background::spawn(worker, || 0, &supervisor).expect("a thread");
        let thread = background.thread.take().expect("it runs");
        assert!(thread.join().expect("its panic is caught").is_none());
        assert_eq!(*reports.lock(), [Fatal::Disk("EIO".to_owned())]);
        assert_eq!(*reached.lock(), 3, "it does not continue");
        // It is not carried out, and the caller does not wait.
        background.order_and_wait(|_| panic!("the thread has ended"));
    }

    /// Counts its orders.
    struct Counting(usize);

    impl Worker for Counting {
        const TASK: &'static Task = &supervision::CLEANER;

        fn step(&mut self, _: i64) -> Result<Next, WorkError> {
            Ok(Next::Wait)
        }
    }

    #[test]
    fn orders_are_carried_out_in_their_order() {
        let supervisor = Supervisor::new(Arc::new(|fatal| panic!("{fatal}")));
        let mut background = Background::spawn(Counting(1), || 0, &supervisor).expect("a thread");
        background.order(|counting| counting.0 += 1);
        background.order_and_wait(|counting| counting.0 *= 10);
        supervisor.stop();
        assert_eq!(background.join().map(|counting| counting.0), Some(20));
    }
}
