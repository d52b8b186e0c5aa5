//! The threads of the flushers, the checkpointer and the cleaner.
//!
//! Each calls `step` while there is work; otherwise it is parked until a log wakes it or [`IDLE`]
//! has passed. At a stop the checkpointer checkpoints every shard, so that the next start is quick.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use ropewalk_store::checkpoint::Checkpointer;
use ropewalk_store::clean::Cleaner;
use ropewalk_store::flush::Flusher;
use ropewalk_store::work::{Next, WorkError};

use crate::supervision::{self, Failure, Supervisor, Task};

/// How long a thread without work is parked at most.
const IDLE: Duration = Duration::from_millis(100);
/// How long a thread waits after a step that failed.
const RETRY: Duration = Duration::from_secs(1);

/// A running thread that returns `T` when it is stopped. Dropping it stops the thread after the
/// current step.
struct Background<T> {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Option<T>>>,
}

impl<T: Send + 'static> Background<T> {
    /// Runs `body` on a new thread until the flag that it receives is set. `supervisor` reports a
    /// final error (D2) or a panic.
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
        // The supervisor has reported a panic already.
        thread.join().ok().flatten()
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        self.join();
    }
}

/// Calls `step` until stopped, or until a final error.
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
                tracing::warn!(error, "background work failed, will retry");
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

/// Starts the checkpoint thread. `supervisor` reports a final error (D2) or a panic.
///
/// # Errors
/// When the thread cannot be started.
pub(crate) fn spawn_checkpointer(
    mut checkpointer: Checkpointer,
    clock_ms: fn() -> i64,
    supervisor: Supervisor,
) -> io::Result<CheckpointerHandle> {
    let background = Background::spawn(&supervision::CHECKPOINTER, supervisor, move |stop| {
        checkpointer.store().set_checkpointer(thread::current());
        run(|now_ms| checkpointer.step(now_ms), clock_ms, stop)?;
        Ok(checkpointer)
    })?;
    Ok(CheckpointerHandle { background, clock_ms })
}

impl CheckpointerHandle {
    /// Stops the thread, then checkpoints every shard. The drivers must still run, because they
    /// capture the state. Blocks.
    ///
    /// # Errors
    /// When the last checkpoint failed; no data is lost, the next start replays more.
    pub(crate) fn stop(mut self) -> Result<(), WorkError> {
        match self.background.join() {
            Some(mut checkpointer) => checkpointer.checkpoint_all((self.clock_ms)()),
            None => Err(WorkError::Later("the thread had ended before".to_owned())),
        }
    }
}

/// A running flusher. Dropping it stops it after the current step.
pub(crate) struct FlusherHandle {
    _background: Background<()>,
}

impl fmt::Debug for FlusherHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FlusherHandle")
    }
}

/// Starts a thread for each flusher. `supervisor` reports a final error (D2) or a panic.
///
/// # Errors
/// When a thread cannot be started.
pub(crate) fn spawn_flushers(
    flushers: Vec<Flusher>,
    clock_ms: fn() -> i64,
    supervisor: &Supervisor,
) -> io::Result<Vec<FlusherHandle>> {
    let spawn = |mut flusher: Flusher| {
        let body = move |stop: &AtomicBool| {
            flusher.run_by(thread::current());
            run(|now_ms| flusher.step(now_ms), clock_ms, stop)
        };
        let background = Background::spawn(&supervision::FLUSHER, supervisor.clone(), body)?;
        Ok(FlusherHandle { _background: background })
    };
    flushers.into_iter().map(spawn).collect()
}

/// A running cleaner. Dropping it stops it after the current segment.
pub(crate) struct CleanerHandle {
    _background: Background<()>,
}

impl fmt::Debug for CleanerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CleanerHandle")
    }
}

/// Starts the cleaner's thread. `supervisor` reports a final error (D2) or a panic.
///
/// # Errors
/// When the thread cannot be started.
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
    use crate::supervision::{CHECKPOINTER, CLEANER, FLUSHER, Fatal};

    #[test]
    fn d2_a_final_error_ends_the_thread_and_is_reported_as_one_of_the_disk() {
        for task in [&CHECKPOINTER, &FLUSHER, &CLEANER] {
            let reports = Arc::new(Mutex::new(Vec::new()));
            let to = Arc::clone(&reports);
            let supervisor = Supervisor::new(Arc::new(move |fatal| to.lock().push(fatal)));
            let mut steps = 0;
            let step = |_| {
                steps += 1;
                assert!(steps <= 3, "it continues after a final error");
                if steps < 3 { Ok(Next::Now) } else { Err(WorkError::Final("EIO".to_owned())) }
            };
            supervisor.run(task, || run(step, || 0, &AtomicBool::new(false)));
            assert_eq!(*reports.lock(), [Fatal::Disk("EIO".to_owned())]);
            assert_eq!(steps, 3, "it does not continue");
        }
    }
}
