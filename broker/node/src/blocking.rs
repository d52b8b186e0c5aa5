//! Work that blocks, beside the tasks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::supervision;

/// The result of work that was [started](start), or what it panicked with. Dropping it does not end
/// the work.
#[derive(Debug)]
pub struct Blocking<T>(Home<T>);

#[derive(Debug)]
enum Home<T> {
    /// The threads of the runtime.
    Pool(JoinHandle<T>),
    /// A thread of the simulation.
    Simulated(oneshot::Receiver<Result<T, String>>),
}

/// Starts work that may block, on a thread that may.
pub fn start<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Blocking<T> {
    if !ropewalk_thread::is_simulated() {
        return Blocking(Home::Pool(tokio::task::spawn_blocking(work)));
    }
    let (done, result) = oneshot::channel();
    let work = move || {
        let result = catch_unwind(AssertUnwindSafe(work));
        // The caller may no longer wait.
        let _ = done.send(result.map_err(|panic| supervision::message(&*panic)));
    };
    ropewalk_thread::spawn("blocking", work).expect("a simulation can start threads");
    Blocking(Home::Simulated(result))
}

impl<T> Future for Blocking<T> {
    type Output = Result<T, String>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Home::Pool(handle) => Pin::new(handle).poll(context).map_err(|ended| ended.to_string()),
            Home::Simulated(result) => Pin::new(result)
                .poll(context)
                .map(|result| result.unwrap_or_else(|_| Err("it was not carried out".to_owned()))),
        }
    }
}

/// Does work that may block in a task, whose thread gives its other tasks away before.
pub fn in_place<T>(work: impl FnOnce() -> T) -> T {
    // A simulated disk answers at once.
    if ropewalk_thread::is_simulated() { work() } else { tokio::task::block_in_place(work) }
}

/// Waits on a thread for the answer of a task.
pub(crate) fn wait<T>(answer: oneshot::Receiver<T>) -> Result<T, oneshot::error::RecvError> {
    ropewalk_thread::wait_for(answer, oneshot::Receiver::blocking_recv)
}
