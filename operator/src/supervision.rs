//! The long-lived tasks of the operator, and what happens when one ends by itself.
//!
//! | task | what it does | when it ends by itself | exit code |
//! |---|---|---|---|
//! | lease | holds the Lease | the Lease is lost: the process ends | 3 |
//! | health | serves `/live`, `/ready`, `/metrics` | the process ends | 4 |
//! | stop signals | waits for SIGTERM and SIGINT | the process ends | 5 |
//! | clusters | reconciles BrokerClusters, one task for each scope | the process ends | 6 |
//! | queues | reconciles Queues, one task for each scope | the process ends | 7 |
//! | status metrics | writes length, delay and throughput | the process ends | 8 |
//! | signals | keeps a signal stream to every cluster | the process ends | 9 |
//! | scaling | scales consumers | the process ends | 10 |
//!
//! Subtasks:
//!
//! | task | when it ends by itself |
//! |---|---|
//! | one signal stream (signals) | it is reopened; a panic is one of its parent |
//! | one decision, status write or metrics query | it is done; a panic is one of its parent |
//! | one reconcile (clusters, queues) | it runs within its parent, also when it panics |
//!
//! A panic anywhere therefore ends the process with the exit code of the task that it happened in.
//! The process does not release the Lease then: other tasks may be in the middle of a write, and
//! the next operator waits for the Lease to expire.

use std::collections::HashMap;

use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};

/// A long-lived task, as listed in the table of this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// Holds the Lease.
    Lease,
    /// Serves `/live`, `/ready` and `/metrics`.
    Health,
    /// Waits for SIGTERM and SIGINT.
    StopSignals,
    /// Reconciles BrokerClusters of one scope.
    Clusters,
    /// Reconciles Queues of one scope.
    Queues,
    /// Writes metrics into the statuses of Queues.
    StatusMetrics,
    /// Keeps signal streams open.
    Signals,
    /// Scales the consumers of all Queues.
    Scaling,
}

impl Task {
    /// Every task there is.
    pub const ALL: [Self; 8] = [
        Self::Lease,
        Self::Health,
        Self::StopSignals,
        Self::Clusters,
        Self::Queues,
        Self::StatusMetrics,
        Self::Signals,
        Self::Scaling,
    ];

    /// Exit code of the process when this task ends by itself. 0 to 2 have their usual meaning: a
    /// requested stop, a failure to start, and an invalid command line.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Lease => 3,
            Self::Health => 4,
            Self::StopSignals => 5,
            Self::Clusters => 6,
            Self::Queues => 7,
            Self::StatusMetrics => 8,
            Self::Signals => 9,
            Self::Scaling => 10,
        }
    }

    /// Whether the task writes to objects and must end before the Lease is released.
    fn is_controller(self) -> bool {
        match self {
            Self::Lease | Self::Health | Self::StopSignals => false,
            Self::Clusters | Self::Queues | Self::StatusMetrics | Self::Signals | Self::Scaling => {
                true
            }
        }
    }
}

/// The running tasks, each with its kind.
#[derive(Debug, Default)]
pub struct Supervisor {
    running: JoinSet<()>,
    names: HashMap<Id, Task>,
}

impl Supervisor {
    /// Spawns a task. It is aborted when the supervisor is dropped.
    pub fn spawn(&mut self, task: Task, work: impl Future<Output = ()> + Send + 'static) {
        let handle = self.running.spawn(work);
        self.names.insert(handle.id(), task);
    }

    /// Waits for a task to end although no stop was requested, and returns it. Never returns after
    /// `stopping` has turned true.
    pub async fn unexpected_end(&mut self, stopping: &watch::Receiver<bool>) -> Task {
        loop {
            let (task, panic) = self.ended().await;
            if *stopping.borrow() {
                continue;
            }
            let code = task.exit_code();
            let panic = panic.as_deref().unwrap_or("none");
            tracing::error!(?task, panic, code, "task ended by itself, process ends");
            return task;
        }
    }

    /// Waits until every controller has ended.
    pub async fn controllers_ended(&mut self) {
        while self.names.values().any(|task| task.is_controller()) {
            self.ended().await;
        }
    }

    /// Waits until no task of this kind is running.
    pub async fn has_ended(&mut self, awaited: Task) {
        while self.names.values().any(|task| *task == awaited) {
            self.ended().await;
        }
    }

    /// The next task that ends, and the message of its panic if it panicked. Pends for ever when no
    /// task runs.
    async fn ended(&mut self) -> (Task, Option<String>) {
        loop {
            let (id, panic) = match self.running.join_next_with_id().await {
                Some(Ok((id, ()))) => (id, None),
                Some(Err(error)) => (error.id(), Some(error.to_string())),
                None => std::future::pending().await,
            };
            if let Some(task) = self.names.remove(&id) {
                return (task, panic);
            }
        }
    }
}

/// The result of a subtask, or `None` if it was aborted. A panic of the subtask is resumed in the
/// caller.
pub fn finished<T>(ended: Result<T, JoinError>) -> Option<T> {
    match ended {
        Ok(brought) => Some(brought),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => None,
        },
    }
}

/// Installs a panic hook that also logs the panic, in the format of the log.
pub fn log_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!(%panic, "task panicked");
        before(panic);
    }));
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn all_but(ending: Task) -> Supervisor {
        let mut tasks = Supervisor::default();
        for task in Task::ALL.into_iter().filter(|task| *task != ending) {
            tasks.spawn(task, std::future::pending());
        }
        tasks
    }

    #[tokio::test]
    async fn whichever_task_ends_the_process_ends_with_its_code() {
        let (_stop, stopping) = watch::channel(false);
        let mut codes = HashSet::new();
        for ending in Task::ALL {
            let mut returns = all_but(ending);
            returns.spawn(ending, async {});
            assert_eq!(returns.unexpected_end(&stopping).await, ending);
            let mut panics = all_but(ending);
            panics.spawn(ending, async move { panic!("{ending:?} failed") });
            assert_eq!(panics.unexpected_end(&stopping).await, ending);
            assert!(codes.insert(ending.exit_code()) && ending.exit_code() > 2);
        }
    }

    #[tokio::test]
    async fn a_panic_of_a_task_within_a_task_is_one_of_the_task() {
        let (_stop, stopping) = watch::channel(false);
        let mut tasks = all_but(Task::Scaling);
        tasks.spawn(Task::Scaling, async {
            let mut within = JoinSet::new();
            within.spawn(async { panic!("a decision failed") });
            while let Some(ended) = within.join_next().await {
                finished(ended);
            }
            std::future::pending().await
        });
        assert_eq!(tasks.unexpected_end(&stopping).await, Task::Scaling);
    }

    #[tokio::test]
    async fn who_ends_after_a_stop_does_so_as_asked() {
        let (stop, stopping) = watch::channel(false);
        let mut tasks = all_but(Task::Queues);
        let mut asked = stopping.clone();
        tasks.spawn(Task::Queues, async move {
            let _ = asked.wait_for(|stopping| *stopping).await;
        });
        stop.send(true).expect("a receiver");
        let waited = std::time::Duration::from_millis(50);
        let ended = tokio::time::timeout(waited, tasks.unexpected_end(&stopping)).await;
        assert!(ended.is_err(), "nothing to report");
    }

    #[tokio::test]
    async fn the_lease_is_given_back_after_the_last_controller_has_ended() {
        let mut tasks = Supervisor::default();
        for task in Task::ALL {
            if task.is_controller() {
                tasks.spawn(task, async { tokio::task::yield_now().await });
            } else {
                tasks.spawn(task, std::future::pending());
            }
        }
        tasks.controllers_ended().await;
        assert_eq!(tasks.running.len(), 3, "lease, health and stop signals go on");
    }
}
