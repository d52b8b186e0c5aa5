//! The pace at which the background work gives records to the disk.
//!
//! A round of the write-ahead log waits for everything that the disk was given before it. Without a
//! pace the tails of many partitions, which become long at the same time, keep the disk busy for
//! tens of milliseconds.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ropewalk_store::store::Pause;
use ropewalk_thread as thread;

/// Time for each MiB, of all threads together: 400 MB/s. 1 MiB keeps a disk of this speed busy for
/// as long. A faster pace is not needed: when memory becomes short, there is no pause.
const PER_MIB: Duration = Duration::from_micros(2500);

/// A pause that lets the threads which share it pass one MiB after the other.
pub(crate) fn shared() -> Pause {
    let free_from = Mutex::new(thread::now());
    Pause::new(move |bytes| {
        let wait = turn(&mut free_from.lock(), thread::now(), bytes);
        // A simulated thread may hold a lock here, and its disk is never busy.
        if !thread::is_simulated() {
            thread::sleep(wait);
        }
    })
}

/// How long a thread that is about to write `bytes` waits. The disk counts as busy until
/// `free_from`; what the write itself takes counts as a part of that time.
fn turn(free_from: &mut Instant, now: Instant, bytes: usize) -> Duration {
    let begins = now.max(*free_from);
    *free_from = begins + PER_MIB.mul_f64(bytes as f64 / f64::from(1 << 20));
    begins - now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_write_one_after_the_other_and_an_idle_disk_saves_nothing_up() {
        let now = Instant::now();
        let mut free_from = now;
        assert_eq!(turn(&mut free_from, now, 1 << 20), Duration::ZERO);
        assert_eq!(turn(&mut free_from, now, 2 << 20), PER_MIB, "after the thread before it");
        let later = now + 10 * PER_MIB;
        assert_eq!(turn(&mut free_from, later, 1 << 19), Duration::ZERO);
        assert_eq!(turn(&mut free_from, later, 0), PER_MIB / 2, "seven turns were not used");
    }

    #[test]
    fn a_thread_that_writes_slowly_is_not_held_up_in_addition() {
        let now = Instant::now();
        let mut free_from = now;
        let mut written = now;
        for _ in 0..10 {
            let wait = turn(&mut free_from, written, 1 << 20);
            assert!(wait < PER_MIB);
            written += wait + PER_MIB / 2;
        }
        assert_eq!(written - now, 9 * PER_MIB + PER_MIB / 2);
    }
}
