//! The wall clock. Only the outer layers read it; everything inside takes the time as an argument.

/// The current time, Unix milliseconds.
#[must_use]
pub fn now_ms() -> i64 {
    ropewalk_thread::time_ms()
}
