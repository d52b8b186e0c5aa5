//! The wall clock. Only the outer layers read it; everything inside takes the time as an argument.

use std::time::{SystemTime, UNIX_EPOCH};

/// The current time, Unix milliseconds.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
