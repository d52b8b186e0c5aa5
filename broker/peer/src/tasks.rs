//! Tasks that end together, and whose panics are noticed.

use std::future::pending;

use tokio::task::{AbortHandle, JoinSet};

/// A set of tasks. Dropping it ends them.
#[derive(Debug, Default)]
pub(crate) struct Tasks(JoinSet<()>);

impl Tasks {
    pub(crate) fn start(&mut self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.0.spawn(task)
    }

    /// Waits until a task panics, and returns the panic's text. Tasks that end are removed
    /// meanwhile. Dropping the future before it ends loses nothing.
    pub(crate) async fn panicked(&mut self) -> String {
        while let Some(ended) = self.0.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                return error.to_string();
            }
        }
        pending().await
    }

    /// Waits until any task ends or panics, and returns how. A task that was aborted does not
    /// count.
    pub(crate) async fn ended(&mut self) -> String {
        loop {
            match self.0.join_next().await {
                Some(Ok(())) => return "a task returned".to_owned(),
                Some(Err(error)) if error.is_cancelled() => {}
                Some(Err(error)) => return error.to_string(),
                None => return pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_noticed_and_a_return_is_not() {
        let mut tasks = Tasks::default();
        tasks.start(async {});
        tasks.start(async { panic!("a broken task") });
        assert!(tasks.panicked().await.contains("a broken task"));
    }

    #[tokio::test]
    async fn the_end_of_an_endless_task_is_noticed() {
        let mut tasks = Tasks::default();
        tasks.start(pending()).abort();
        tasks.start(pending());
        tasks.start(async {});
        assert_eq!(tasks.ended().await, "a task returned");
    }
}
