//! The checkpointer on its own thread, and the cleaner on another.
//!
//! It works while there is work, else it is parked until a log wakes it or some time has passed. When it
//! is stopped it checkpoints every shard, so that the next start is quick.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use ropewalk_store::checkpoint::Checkpointer;
use ropewalk_store::clean::Cleaner;
use ropewalk_store::work::{Next, WorkError};

use crate::supervision::{self, Failure, Supervisor};

/// How long it sleeps when nothing wakes it.
const IDLE: Duration = Duration::from_millis(100);
/// How long it waits after something did not work.
const RETRY: Duration = Duration::from_secs(1);

/// A running checkpointer. Dropping it stops it without a last checkpoint.
pub(crate) struct CheckpointerHandle {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Option<Checkpointer>>>,
    clock_ms: fn() -> i64,
}

impl fmt::Debug for CheckpointerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckpointerHandle")
    }
}

/// Runs the checkpointer on its own thread from now on. `supervisor` reports that it has to give up (D2), or
/// that it panicked.
///
/// # Errors
/// When the thread cannot be made.
pub(crate) fn spawn_checkpointer(
    mut checkpointer: Checkpointer,
    clock_ms: fn() -> i64,
    supervisor: Supervisor,
) -> io::Result<CheckpointerHandle> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let store = Arc::clone(checkpointer.store());
    let thread = thread::Builder::new().name("checkpointer".to_owned()).spawn(move || {
        supervisor.run(&supervision::CHECKPOINTER, move || {
            checkpointer.store().set_checkpointer(Some(thread::current()));
            run(|now_ms| checkpointer.step(now_ms), clock_ms, &stopped)?;
            Ok(checkpointer)
        })
    });
    let thread = thread.inspect_err(|_| store.set_checkpointer(None))?;
    Ok(CheckpointerHandle { stop, thread: Some(thread), clock_ms })
}

/// Works step by step until stopped, or until something fails for good.
fn run(
    mut step: impl FnMut(i64) -> Result<Next, WorkError>,
    clock_ms: fn() -> i64,
    stop: &AtomicBool,
) -> Result<(), Failure> {
    while !stop.load(Ordering::Acquire) {
        match step(clock_ms()) {
            Ok(Next::Now) => {}
            Ok(Next::Wait) => thread::park_timeout(IDLE),
            Err(WorkError::Final(error)) => return Err(Failure::Disk(error)),
            Err(WorkError::Later(error)) => {
                tracing::warn!(error, "background work did not succeed and is tried again");
                thread::park_timeout(RETRY);
            }
        }
    }
    Ok(())
}

/// A running cleaner. Dropping it stops it after the segment that it is at.
#[derive(Debug)]
pub(crate) struct CleanerHandle {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Runs the cleaner on its own thread from now on. `supervisor` reports that it has to give up (D2), or
/// that it panicked.
///
/// # Errors
/// When the thread cannot be made.
pub(crate) fn spawn_cleaner(
    mut cleaner: Cleaner,
    clock_ms: fn() -> i64,
    supervisor: Supervisor,
) -> io::Result<CleanerHandle> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = thread::Builder::new().name("cleaner".to_owned()).spawn(move || {
        supervisor.run(&supervision::CLEANER, move || {
            run(|now_ms| cleaner.step(now_ms), clock_ms, &stopped)
        });
    })?;
    Ok(CleanerHandle { stop, thread: Some(thread) })
}

impl Drop for CleanerHandle {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.stop.store(true, Ordering::Release);
            thread.thread().unpark();
            // A panic there was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl CheckpointerHandle {
    /// Stops, then checkpoints every shard. The shards' loops must still run: they are asked for their
    /// state. Blocks.
    ///
    /// # Errors
    /// When the last checkpoint failed; nothing is lost, the next start replays more.
    pub(crate) fn stop(mut self) -> Result<(), WorkError> {
        match self.join() {
            Some(mut checkpointer) => checkpointer.checkpoint_all((self.clock_ms)()),
            None => Err(WorkError::Later("the thread had ended before".to_owned())),
        }
    }

    fn join(&mut self) -> Option<Checkpointer> {
        let thread = self.thread.take()?;
        self.stop.store(true, Ordering::Release);
        thread.thread().unpark();
        thread.join().ok().flatten()
    }
}

impl Drop for CheckpointerHandle {
    fn drop(&mut self) {
        self.join();
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::supervision::{CHECKPOINTER, CLEANER, Fatal};

    #[test]
    fn d2_a_final_error_ends_the_thread_and_is_reported_as_one_of_the_disk() {
        for task in [&CHECKPOINTER, &CLEANER] {
            let reports = Arc::new(Mutex::new(Vec::new()));
            let to = Arc::clone(&reports);
            let supervisor = Supervisor::new(Arc::new(move |fatal| to.lock().push(fatal)));
            let mut steps = 0;
            let step = |_| {
                steps += 1;
                assert!(steps <= 3, "it goes on after a final error");
                if steps < 3 { Ok(Next::Now) } else { Err(WorkError::Final("EIO".to_owned())) }
            };
            supervisor.run(task, || run(step, || 0, &AtomicBool::new(false)));
            assert_eq!(*reports.lock(), [Fatal::Disk("EIO".to_owned())]);
            assert_eq!(steps, 3, "it does not go on");
        }
    }
}
