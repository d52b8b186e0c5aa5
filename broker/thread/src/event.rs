//! What a simulated thread waits for.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

/// An event that one thread waits for. It stays set until that thread has seen it; setting it again
/// before has no effect.
#[derive(Debug, Default)]
pub struct Event(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    is_set: bool,
    waker: Option<Waker>,
}

impl Event {
    /// Sets the event, and wakes who waits for it.
    pub fn set(&self) {
        let waker = {
            let mut state = self.0.lock();
            state.is_set = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ready if the event was set since the last time that this was ready. Otherwise the task of
    /// `context` is woken when it is set.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if std::mem::take(&mut state.is_set) {
            state.waker = None;
            return Poll::Ready(());
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Wake for Event {
    fn wake(self: Arc<Self>) {
        self.set();
    }
}
