//! Supervision of the threads and tasks that a broker needs.
//!
//! Each is a [`Task`] in a table and runs inside a [`Supervisor`]. When one returns, fails or
//! panics while the broker runs, the supervisor reports a [`Fatal`] error, and the process ends: a
//! broker without one of its tasks must not look healthy. Only the first error is reported, because
//! later ones may follow from it.
//!
//! # Invariants
//!
//! - **D2** a failed write or sync is reported as [`Fatal::Disk`], everything else as
//!   [`Fatal::Ended`]: the two have different exit codes.
//! - A task that is cancelled with its runtime, and one that returns after [`Supervisor::stop`], is
//!   not reported. A panic always is.
//!
//! # Fault injection
//!
//! In debug builds the environment variable `ROPEWALK_END_TASK` (`NAME:panic` or `NAME:return`)
//! ends the task of that name when it starts, so that a test can end each task of the table.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

/// The effect of a task's end on the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnEnd {
    /// The process ends when the task returns, fails or panics while the broker runs.
    ProcessEnds,
    /// The task is short and may return; the process ends when it panics.
    ProcessEndsOnPanic,
    /// A panic closes the connection that the task serves. It is logged and counted.
    ConnectionCloses,
}

/// A row of the table of threads and tasks.
#[derive(Debug, PartialEq, Eq)]
pub struct Task {
    /// The name in logs, errors and tests; also the name of a thread.
    pub name: &'static str,
    /// The work of the task, for the error that reports its end.
    pub duty: &'static str,
    /// The effect of its end.
    pub on_end: OnEnd,
}

/// Declares the rows of a table, and the table itself as `TASKS`.
#[macro_export]
macro_rules! tasks {
    ($vis:vis, $($(#[$doc:meta])* $id:ident = $name:literal, $on_end:ident, $duty:literal;)*) => {
        $($(#[$doc])* $vis static $id: $crate::supervision::Task = $crate::supervision::Task {
            name: $name,
            duty: $duty,
            on_end: $crate::supervision::OnEnd::$on_end,
        };)*

        /// All tasks of this table.
        $vis static TASKS: &[&$crate::supervision::Task] = &[$(&$id),*];
    };
}

tasks! {
    pub,
    /// The driver of a shard.
    DRIVER = "driver", ProcessEnds, "proposing, applying and answering of one shard";
    /// A task that several drivers share. It may return: each driver is watched by itself.
    DRIVERS = "drivers", ProcessEndsOnPanic, "running of the drivers that share a task";
    /// A thread of a `Flusher`.
    FLUSHER = "flusher", ProcessEnds, "flushing of tails";
    /// The thread of `Checkpointer`.
    CHECKPOINTER = "checkpointer", ProcessEnds, "checkpoints, releasing of log files";
    /// The thread of `Cleaner`.
    CLEANER = "cleaner", ProcessEnds, "compaction";
    /// The thread of `Transfers`.
    TRANSFERS = "transfers", ProcessEnds, "sending and receiving of the files of shards";
    /// The thread that writes rounds.
    WAL = "wal", ProcessEnds, "writing of the write-ahead log";
    /// The thread that prepares and removes log files.
    WAL_FILES = "wal-files", ProcessEnds, "preparation of files of the write-ahead log";
    /// The delivery of the log's answers to the drivers, in the task of the first ones.
    ANSWERS = "answer delivery", ProcessEnds, "reporting of durable writes to the shards";
}

/// Why the process has to end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// A write or a sync failed (D2).
    #[error("the disk can no longer be trusted: {0}")]
    Disk(String),
    /// A task ended that the broker needs: a bug in the program.
    #[error("{task}{} {why}; with it ends: {duty}", bracketed(.of))]
    Ended {
        /// [`Task::name`] of the task.
        task: &'static str,
        /// The shard or other instance, if there are several of this task; else empty.
        of: String,
        /// How the task ended.
        why: String,
        /// [`Task::duty`] of the task.
        duty: &'static str,
    },
}

fn bracketed(of: &str) -> String {
    if of.is_empty() { String::new() } else { format!(" ({of})") }
}

/// Why a task failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// A write or a sync failed for good.
    Disk(String),
    /// A bug in the program.
    Fault(String),
}

/// Receives the error that ends the process. It is called at most once per supervisor.
pub type OnFatal = Arc<dyn Fn(Fatal) + Send + Sync>;

/// Runs the tasks of one broker or node. Clones share their state.
#[derive(Clone)]
pub struct Supervisor(Arc<Inner>);

struct Inner {
    on_fatal: OnFatal,
    is_stopping: AtomicBool,
    is_reported: AtomicBool,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Supervisor")
    }
}

/// Stops its supervisor when it is dropped: see [`Supervisor::stop_guard`].
#[derive(Debug)]
pub struct StopGuard(Supervisor);

impl Drop for StopGuard {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// How a task ended.
enum End {
    Returned,
    Failed(Failure),
    Panicked(String),
}

impl Supervisor {
    /// A supervisor that reports to `on_fatal`.
    #[must_use]
    pub fn new(on_fatal: OnFatal) -> Self {
        let (is_stopping, is_reported) = (AtomicBool::new(false), AtomicBool::new(false));
        Self(Arc::new(Inner { on_fatal, is_stopping, is_reported }))
    }

    /// Allows tasks to return, because the broker stops.
    pub fn stop(&self) {
        self.0.is_stopping.store(true, Ordering::Release);
    }

    /// A guard that stops this supervisor when it is dropped, for an owner that may be dropped
    /// without being stopped. It has to be dropped before the channels that the tasks wait for.
    #[must_use]
    pub fn stop_guard(&self) -> StopGuard {
        StopGuard(self.clone())
    }

    /// Runs a task to its end. `of` names the instance if there are several of this task.
    pub fn watch<F>(
        &self,
        task: &'static Task,
        of: String,
        work: F,
    ) -> impl Future<Output = ()> + use<F>
    where
        F: Future<Output = Result<(), Failure>>,
    {
        self.watch_until(task, of, || false, work)
    }

    /// Like [`Self::watch`], for a task that may return while the broker runs if `may_end` says so.
    pub fn watch_until<M, F>(
        &self,
        task: &'static Task,
        of: String,
        may_end: M,
        work: F,
    ) -> impl Future<Output = ()> + use<M, F>
    where
        M: Fn() -> bool,
        F: Future<Output = Result<(), Failure>>,
    {
        let supervisor = self.clone();
        async move {
            match caught(task, work).await {
                Ok(Some(Ok(())) | None) if may_end() => {}
                Ok(Some(Ok(())) | None) => supervisor.ended(task, of, End::Returned),
                Ok(Some(Err(failure))) => supervisor.ended(task, of, End::Failed(failure)),
                Err(panic) => supervisor.ended(task, of, End::Panicked(panic)),
            }
        }
    }

    /// Like [`Self::watch`], for a task that cannot fail.
    pub fn endless<F>(&self, task: &'static Task, work: F) -> impl Future<Output = ()> + use<F>
    where
        F: Future<Output = ()>,
    {
        self.watch(task, String::new(), async {
            work.await;
            Ok(())
        })
    }

    /// Runs the body of a thread to its end. Returns its value unless it failed or panicked.
    pub fn run<T>(
        &self,
        task: &'static Task,
        body: impl FnOnce() -> Result<T, Failure>,
    ) -> Option<T> {
        let body = || match injected_fault(task) {
            InjectedFault::Nothing => Some(body()),
            InjectedFault::Return => None,
        };
        let (end, value) = match catch_unwind(AssertUnwindSafe(body)) {
            Ok(Some(Ok(value))) => (End::Returned, Some(value)),
            Ok(None) => (End::Returned, None),
            Ok(Some(Err(failure))) => (End::Failed(failure), None),
            Err(panic) => (End::Panicked(message(&*panic)), None),
        };
        self.ended(task, String::new(), end);
        value
    }

    fn ended(&self, task: &'static Task, of: String, end: End) {
        let may_return = match task.on_end {
            OnEnd::ProcessEnds => self.0.is_stopping.load(Ordering::Acquire),
            OnEnd::ProcessEndsOnPanic | OnEnd::ConnectionCloses => true,
        };
        let why = match end {
            End::Returned if may_return => return,
            End::Returned => "returned although the broker runs".to_owned(),
            End::Failed(Failure::Disk(why)) => return self.report(Fatal::Disk(why)),
            End::Failed(Failure::Fault(why)) => format!("failed: {why}"),
            End::Panicked(why) => format!("panicked: {why}"),
        };
        self.report(Fatal::Ended { task: task.name, of, why, duty: task.duty });
    }

    /// Reports an error that ends the process.
    pub fn report(&self, fatal: Fatal) {
        if !self.0.is_reported.swap(true, Ordering::AcqRel) {
            (self.0.on_fatal)(fatal);
        }
    }
}

/// Runs a future and catches its panic. `None` if fault injection ended it.
///
/// # Errors
/// The message of the panic.
pub async fn caught<T>(
    task: &'static Task,
    work: impl Future<Output = T>,
) -> Result<Option<T>, String> {
    let work = async {
        match injected_fault(task) {
            InjectedFault::Nothing => Some(work.await),
            InjectedFault::Return => None,
        }
    };
    let mut work = pin!(work);
    std::future::poll_fn(move |context| {
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
            Err(panic) => Poll::Ready(Err(message(&*panic))),
        }
    })
    .await
}

/// The message of a panic.
#[must_use]
pub fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a message".to_owned())
}

/// How fault injection ends a task, other than by a panic.
enum InjectedFault {
    Nothing,
    Return,
}

/// The fault that `ROPEWALK_END_TASK` injects into a task. Panics if that is a panic.
fn injected_fault(task: &Task) -> InjectedFault {
    if !cfg!(debug_assertions) {
        return InjectedFault::Nothing;
    }
    let asked = std::env::var("ROPEWALK_END_TASK").unwrap_or_default();
    match asked.rsplit_once(':') {
        Some((name, "panic")) if name == task.name => panic!("ROPEWALK_END_TASK asks for it"),
        Some((name, "return")) if name == task.name => InjectedFault::Return,
        Some(_) | None => InjectedFault::Nothing,
    }
}

#[cfg(test)]
mod tests;
