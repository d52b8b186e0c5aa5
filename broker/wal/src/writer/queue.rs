//! The queue of the writer thread, and the state that the thread publishes.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use ropewalk_thread::{Condvar, JoinHandle};

use super::{Stats, Submission};
use crate::files::ChoreResult;
use crate::log::{Wal, WalError};
use crate::record::ReplicaKey;

pub(super) enum Command {
    Submit(Submission),
    Release(BTreeMap<ReplicaKey, u64>),
    Ask(Box<dyn FnOnce(&Wal) + Send>),
}

impl Command {
    pub(super) fn into_submission(self) -> Option<Submission> {
        match self {
            Self::Submit(submission) => Some(submission),
            Self::Release(_) | Self::Ask(_) => None,
        }
    }
}

/// Reason why a wait of the writer thread ended.
pub(super) enum WakeReason {
    Commands,
    Chores,
    Timeout,
    /// The log is closed, and the queue is empty.
    Closed,
}

#[derive(Default)]
struct State {
    commands: VecDeque<Command>,
    chores_done: Vec<ChoreResult>,
    /// The "wal-files" thread has ended.
    helper_gone: bool,
    closed: bool,
    /// The result of every later submission, if the log has failed.
    failed: Option<Arc<WalError>>,
    stats: Stats,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    /// Copy of [`Stats::written_bytes`], read while a file is created.
    written_bytes: AtomicU64,
    /// Copy of [`Stats::full`], read before every proposal.
    full: AtomicBool,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl Queue {
    pub(super) fn push(&self, command: Command) {
        let mut state = self.state.lock();
        let refusal = match &state.failed {
            Some(error) => Some(Arc::clone(error)),
            None => state.closed.then(|| Arc::new(WalError::Closed)),
        };
        let Some(error) = refusal else {
            state.commands.push_back(command);
            drop(state);
            self.changed.notify_one();
            return;
        };
        drop(state);
        if let Some(submission) = command.into_submission() {
            (submission.done)(Err(error));
        }
    }

    /// Moves the queued commands to `commands`.
    pub(super) fn take_commands(&self, commands: &mut VecDeque<Command>) {
        commands.append(&mut self.state.lock().commands);
    }

    /// Waits until there are commands or finished chores.
    pub(super) fn wait(
        &self,
        commands: &mut VecDeque<Command>,
        timeout: Option<Duration>,
    ) -> WakeReason {
        let mut state = self.state.lock();
        let mut timed_out = false;
        loop {
            if !state.commands.is_empty() {
                commands.append(&mut state.commands);
                return WakeReason::Commands;
            }
            if !state.chores_done.is_empty() {
                return WakeReason::Chores;
            }
            if state.closed {
                return WakeReason::Closed;
            }
            if timed_out {
                return WakeReason::Timeout;
            }
            match timeout {
                Some(timeout) => {
                    timed_out = self.changed.wait_for(&mut state, timeout);
                }
                None => self.changed.wait(&mut state),
            }
        }
    }

    /// Waits until a chore is done. Returns false if the "wal-files" thread has ended and none is.
    pub(super) fn wait_for_chores(&self) -> bool {
        let mut state = self.state.lock();
        while state.chores_done.is_empty() && !state.helper_gone {
            self.changed.wait(&mut state);
        }
        !state.chores_done.is_empty()
    }

    pub(super) fn helper_gone(&self) {
        self.state.lock().helper_gone = true;
        self.changed.notify_one();
    }

    pub(super) fn take_chores_done(&self) -> Vec<ChoreResult> {
        std::mem::take(&mut self.state.lock().chores_done)
    }

    pub(super) fn chore_done(&self, done: ChoreResult) {
        self.state.lock().chores_done.push(done);
        self.changed.notify_one();
    }

    /// Completes every later submission with `error`.
    pub(super) fn fail(&self, error: &Arc<WalError>) {
        self.state.lock().failed.get_or_insert_with(|| Arc::clone(error));
    }

    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_one();
    }

    pub(super) fn set_threads(&self, threads: [JoinHandle<()>; 2]) {
        self.state.lock().threads.extend(threads);
    }

    pub(super) fn join(&self) {
        let threads = std::mem::take(&mut self.state.lock().threads);
        for thread in threads {
            // The pending submissions were completed, and the panic is logged.
            let _ = thread.join();
        }
    }

    pub(super) fn publish(&self, stats: Stats) {
        self.full.store(stats.full, Ordering::Release);
        self.written_bytes.store(stats.written_bytes, Ordering::Relaxed);
        self.state.lock().stats = stats;
    }

    /// Bytes written since the start.
    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    pub(super) fn stats(&self) -> Stats {
        self.state.lock().stats
    }
}
