//! Time limit of a change: `timeout_ms` of its request.
//!
//! A proposed command cannot be withdrawn, so reaching the limit decides nothing: the change may
//! still be made. The answer is REQUEST_TIMED_OUT, which clients treat as "outcome unknown".

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::limits;

/// The client's time limit passed before the outcome was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the outcome is not known after {} ms (timeout_ms of the request): the change may still be made",
    .waited.as_millis()
)]
pub(super) struct ChangeTimeout {
    waited: Duration,
}

/// The time limit of a request. A limit that is not positive is replaced by
/// [`limits::CHANGE_TIME_DEFAULT`], because durability takes time.
pub(super) fn patience(timeout_ms: i32) -> Duration {
    match u64::try_from(timeout_ms) {
        Ok(ms @ 1..) => Duration::from_millis(ms),
        Ok(0) | Err(_) => limits::CHANGE_TIME_DEFAULT,
    }
}

/// Runs `change` to its end in a task of its own, and waits for it up to the client's time limit.
///
/// # Errors
/// [`ChangeTimeout`] when the time limit passes first; the task continues.
pub(super) async fn within<T: Send + 'static>(
    timeout_ms: i32,
    change: impl Future<Output = T> + Send + 'static,
) -> Result<T, ChangeTimeout> {
    let waited = patience(timeout_ms);
    let due = Instant::now() + waited;
    match timeout_at(due, tokio::spawn(change)).await {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(failed)) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and the change is cancelled with it.
            Err(_) => Err(ChangeTimeout { waited }),
        },
        Err(_) => Err(ChangeTimeout { waited }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn the_clients_time_ends_the_wait_and_not_the_change() {
        let made = Arc::new(AtomicBool::new(false));
        let change = {
            let made = Arc::clone(&made);
            async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                made.store(true, Ordering::SeqCst);
            }
        };
        let error = within(20, change).await.expect_err("it takes longer");
        assert!(error.to_string().contains("after 20 ms (timeout_ms"), "{error}");
        assert!(!made.load(Ordering::SeqCst));
        let due = Instant::now() + Duration::from_secs(20);
        while !made.load(Ordering::SeqCst) {
            assert!(Instant::now() < due, "the change ended with the wait for it");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[test]
    fn a_time_that_is_not_positive_is_the_default() {
        assert_eq!(patience(0), limits::CHANGE_TIME_DEFAULT);
        assert_eq!(patience(i32::MIN), limits::CHANGE_TIME_DEFAULT);
        assert_eq!(patience(1), Duration::from_millis(1));
    }
}
