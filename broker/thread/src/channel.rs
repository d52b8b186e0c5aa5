//! The channels of threads.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

pub use std::sync::mpsc::{RecvError, RecvTimeoutError};

use crate::event::Event;
use crate::simulation::{now, simulation, wait};

/// Wakes the receiver when it is dropped.
#[derive(Debug)]
struct WakeUp(Arc<Event>);

impl Drop for WakeUp {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// The sending side: see [`std::sync::mpsc::Sender`].
#[derive(Debug)]
pub struct Sender<T> {
    // Dropped before it wakes the receiver, so that the receiver finds the channel closed.
    real: mpsc::Sender<T>,
    /// In a simulation.
    wake_up: Option<WakeUp>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        let wake_up = self.wake_up.as_ref().map(|WakeUp(event)| WakeUp(Arc::clone(event)));
        Self { real: self.real.clone(), wake_up }
    }
}

/// The receiving side: see [`std::sync::mpsc::Receiver`].
#[derive(Debug)]
pub struct Receiver<T> {
    real: mpsc::Receiver<T>,
    /// In a simulation.
    event: Option<Arc<Event>>,
}

/// A channel without a bound: see [`std::sync::mpsc::channel`].
#[must_use]
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::channel();
    let event: Option<Arc<Event>> = simulation().map(|_| Arc::default());
    let wake_up = event.clone().map(WakeUp);
    (Sender { real: sender, wake_up }, Receiver { real: receiver, event })
}

impl<T> Sender<T> {
    /// Sends a value, and never waits. Returns whether there is a receiver.
    pub fn send(&self, value: T) -> bool {
        let is_sent = self.real.send(value).is_ok();
        if let Some(WakeUp(event)) = &self.wake_up {
            event.set();
        }
        is_sent
    }
}

impl<T> Receiver<T> {
    /// Waits for a value.
    ///
    /// # Errors
    /// When all senders are gone.
    pub fn recv(&self) -> Result<T, RecvError> {
        let Some(event) = &self.event else { return self.real.recv() };
        match self.simulated(event, None) {
            Ok(value) => Ok(value),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(RecvError),
        }
    }

    /// Waits for a value for some time at most.
    ///
    /// # Errors
    /// When the time has passed, or all senders are gone.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        match &self.event {
            Some(event) => self.simulated(event, Some(timeout)),
            None => self.real.recv_timeout(timeout),
        }
    }

    /// The values that are there.
    pub fn try_iter(&self) -> impl Iterator<Item = T> {
        self.real.try_iter()
    }

    fn simulated(
        &self,
        event: &Arc<Event>,
        timeout: Option<Duration>,
    ) -> Result<T, RecvTimeoutError> {
        let until = timeout.map(|timeout| now() + timeout);
        loop {
            match self.real.try_recv() {
                Ok(value) => return Ok(value),
                Err(mpsc::TryRecvError::Disconnected) => {
                    return Err(RecvTimeoutError::Disconnected);
                }
                Err(mpsc::TryRecvError::Empty) => {}
            }
            let left = until.map(|until| until.saturating_duration_since(now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(RecvTimeoutError::Timeout);
            }
            let simulation = simulation().expect("the thread is one of the simulation");
            wait(&*simulation, event, left);
        }
    }
}
