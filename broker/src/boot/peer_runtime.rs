//! The runtime of the connections to the other brokers.
//!
//! It is not that of the clients: heartbeats have to leave in time however busy the handlers are,
//! or the other brokers elect new leaders.

use std::io;

use tokio::runtime::{Builder, EnterGuard, Runtime};

/// Threads of the runtime.
const THREADS: usize = 2;

/// A runtime that may be dropped in a task of another one.
#[derive(Debug)]
pub(super) struct PeerRuntime(Option<Runtime>);

impl PeerRuntime {
    /// Starts the threads.
    pub(super) fn new() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("peers")
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    pub(super) fn enter(&self) -> EnterGuard<'_> {
        self.runtime().enter()
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime().spawn(task);
    }

    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for PeerRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
