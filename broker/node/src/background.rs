//! The checkpointer on its own thread, and the cleaner on another.
//!
//! Each works while there is work, else it is parked until a log wakes it or some time has passed. The
//! checkpointer that is stopped checkpoints every shard, so that the next start is quick.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use ropewalk_store::checkpoint::Checkpointer;
use ropewalk_store::clean::Cleaner;
use ropewalk_store::work::{Next, WorkError};

use crate::supervision::{self, Failure, Supervisor, Task};

/// How long it sleeps when nothing wakes it.
const IDLE: Duration = Duration::from_millis(100);
/// How long it waits after something did not work.
const RETRY: Duration = Duration::from_secs(1);

/// A running thread that gives back `T` when it ends in order. Dropping it stops it after the step that it is at.
struct Background<T> {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Option<T>>>,
}

impl<T: Send + 'static> Background<T> {
    /// Runs `body` on a thread of its own until the flag that it is given is set. `supervisor` reports that
    /// it gave up (D2), or that it panicked.
    fn spawn(
        task: &'static Task,
        supervisor: Supervisor,
        body: impl FnOnce(&AtomicBool) -> Result<T, Failure> + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name(task.name.to_owned())
            .spawn(move || supervisor.run(task, move || body(&stopped)))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl<T> Background<T> {
    fn join(&mut self) -> Option<T> {
        let thread = self.thread.take()?;
        self.stop.store(true, Ordering::Release);
        thread.thread().unpark();
        // A panic there was reported where it happened.
        thread.join().ok().flatten()
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        self.join();
    }
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

/// A running checkpointer. Dropping it stops it without a last checkpoint.
pub(crate) struct CheckpointerHandle {
    background: Background<Checkpointer>,
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
    let background = Background::spawn(&supervision::CHECKPOINTER, supervisor, move |stop| {
        checkpointer.store().set_checkpointer(Some(thread::current()));
        run(|now_ms| checkpointer.step(now_ms), clock_ms, stop)?;
        Ok(checkpointer)
    })?;
    Ok(CheckpointerHandle { background, clock_ms })
}

impl CheckpointerHandle {
    /// Stops, then checkpoints every shard. The shards' loops must still run: they are asked for their
    /// state. Blocks.
    ///
    /// # Errors
    /// When the last checkpoint failed; nothing is lost, the next start replays more.
    pub(crate) fn stop(mut self) -> Result<(), WorkError> {
        match self.background.join() {
            Some(mut checkpointer) => checkpointer.checkpoint_all((self.clock_ms)()),
            None => Err(WorkError::Later("the thread had ended before".to_owned())),
        }
    }
}

/// A running cleaner. Dropping it stops it after the segment that it is at.
pub(crate) struct CleanerHandle {
    _background: Background<()>,
}

impl fmt::Debug for CleanerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CleanerHandle")
    }
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
    let background = Background::spawn(&supervision::CLEANER, supervisor, move |stop| {
        run(|now_ms| cleaner.step(now_ms), clock_ms, stop)
    })?;
    Ok(CleanerHandle { _background: background })
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
