//! A reader that waits for changes of several logs at once.

use std::mem;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Collects the tokens of the logs that changed. It is registered in each log once per change, with
/// [`PartitionLog::notify_on_change`](super::PartitionLog::notify_on_change).
#[derive(Debug, Default)]
pub struct Waiter {
    changed: Mutex<Vec<u32>>,
    notify: Notify,
}

impl Waiter {
    /// Waits until a log changes. Returns at once if one did since the last call.
    pub async fn changed(&self) {
        self.notify.notified().await;
    }

    /// Takes the tokens of the logs that changed since the last call. They are no longer
    /// registered.
    #[must_use]
    pub fn take(&self) -> Vec<u32> {
        mem::take(&mut self.changed.lock())
    }

    /// Reports a change of the log that was registered with this token, or of something else that
    /// concerns it.
    pub fn wake(&self, token: u32) {
        self.changed.lock().push(token);
        self.notify.notify_one();
    }
}
