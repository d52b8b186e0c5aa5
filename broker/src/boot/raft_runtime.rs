//! The runtime of Raft: the drivers of the shards and the connections to the other brokers.
//!
//! It is not that of the clients. A handler may work for seconds without a pause, for example while
//! it checks a batch that decompresses to hundreds of mebibytes; heartbeats have to be sent and
//! answered meanwhile, or the other brokers elect new leaders.
//!
//! A broker that is alone has no heartbeats. Its drivers run beside the handlers, so that a batch
//! does not pass from one thread to another on its way to the log and back.
//!
//! # Priority
//!
//! The threads have the priority of all others. To raise it a process needs a privilege that a
//! container does not have, and the scheduler of Linux prefers threads that mostly sleep anyway.

use std::io;
use std::num::NonZero;
use std::thread;

use parking_lot::Mutex;
use tokio::runtime::{Builder, EnterGuard, Runtime};
use tokio::task::JoinSet;

/// Fewest threads: a driver and a connection can run at the same time.
const THREADS_MIN: usize = 2;

/// Most threads: the drivers have at most four tasks, and connections need some.
const THREADS_MAX: usize = 6;

/// A runtime that may be dropped in a task of another one.
#[derive(Debug)]
pub(super) struct RaftRuntime(Home);

#[derive(Debug)]
enum Home {
    Own(Option<Runtime>),
    /// The runtime of the caller, in a simulation.
    Shared(Mutex<JoinSet<()>>),
}

impl RaftRuntime {
    /// Starts the threads.
    pub(super) fn new() -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let runtime = Builder::new_multi_thread()
            .worker_threads(processors.clamp(THREADS_MIN, THREADS_MAX))
            .thread_name("raft")
            .enable_all()
            .build()?;
        Ok(Self(Home::Own(Some(runtime))))
    }

    /// The runtime of the caller. The tasks end when this is dropped.
    pub(super) fn shared() -> Self {
        Self(Home::Shared(Mutex::default()))
    }

    /// `None` if it is the runtime of the caller.
    pub(super) fn enter(&self) -> Option<EnterGuard<'_>> {
        match &self.0 {
            Home::Own(runtime) => runtime.as_ref().map(Runtime::enter),
            Home::Shared(_) => None,
        }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match &self.0 {
            Home::Own(runtime) => {
                runtime.as_ref().expect("it is there until it is dropped").spawn(task);
            }
            Home::Shared(tasks) => {
                tasks.lock().spawn(task);
            }
        }
    }
}

impl Drop for RaftRuntime {
    fn drop(&mut self) {
        if let Home::Own(runtime) = &mut self.0
            && let Some(runtime) = runtime.take()
        {
            runtime.shutdown_background();
        }
    }
}
