//! Threads, and what they wait for, in a form that a simulator can take over.
//!
//! The broker's threads are started here, and wait only by what is here: channels, a condition
//! variable, parking, sleeping, joining, and the answer of a task. In a process without a
//! [`Simulation`] each of these is that of the standard library or of `parking_lot`.
//!
//! In a simulation one thread runs at a time, and the simulator decides which: a thread that waits
//! gives its turn back with the [`Event`] and the time that it waits for. So a run is a function of
//! its seed, and time passes only when everything waits. [`now`] and [`time_ms`] are the time of
//! the simulation.
//!
//! Whether it is simulated is decided when a channel or a thread is made: [`simulate`] says so for
//! the calling thread, and the threads that it starts inherit it.
//!
//! # What must not be done in a simulation
//!
//! A thread must not wait while it holds a lock that another thread or a task takes, because that
//! one would block with the turn. No thread waits by other means than those of this crate.

mod channel;
mod condvar;
mod event;
mod simulation;
mod spawn;

pub use channel::{Receiver, RecvError, RecvTimeoutError, Sender, channel};
pub use condvar::Condvar;
pub use event::Event;
pub use simulation::{Simulated, Simulation, Wait, is_simulated, now, simulate, time_ms, wait_for};
pub use spawn::{JoinHandle, Thread, current, park_timeout, sleep, spawn};

#[cfg(test)]
mod tests;
