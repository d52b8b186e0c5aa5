//! The runtime of the tier.
//!
//! Uploads hash tens of mebibytes at once, and a cold consumer reads as fast as the bucket permits.
//! Neither delays Raft or another client. Its threads are few, so that it cannot take all
//! processors.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// Threads of the tier.
const THREADS: usize = 2;

/// A runtime that may be dropped in a task of another one.
#[derive(Debug)]
pub(super) struct TierRuntime(Option<Runtime>);

impl TierRuntime {
    /// Starts the threads.
    pub(super) fn new() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("tier")
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    pub(super) fn handle(&self) -> Handle {
        self.0.as_ref().expect("it is there until it is dropped").handle().clone()
    }
}

impl Drop for TierRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
