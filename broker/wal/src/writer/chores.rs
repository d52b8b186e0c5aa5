//! The "wal-files" thread: does the chores of the log, so that no round waits for them.

use std::path::Path;
use std::time::Duration;

use ropewalk_disk::Disk;
use ropewalk_thread as thread;

use super::queue::Queue;
use crate::files::Chore;

/// Longest pause after each MiB of zeroes of a new file while rounds are written: both share the
/// disk, and a round waits for all zeroes that the disk has not written before it. The pause ends
/// when rounds have written three quarters as much, so that the file is complete before it is
/// needed. Without rounds, or when one waits for the file, there is no pause.
const PACE_PER_MIB: Duration = Duration::from_millis(8);
/// How often the pause checks what rounds have written.
const CHECK_INTERVAL: Duration = Duration::from_millis(1);

/// Reports the end of the thread to the queue, also after a panic.
struct HelperGuard<'a>(&'a Queue);

impl Drop for HelperGuard<'_> {
    fn drop(&mut self) {
        self.0.helper_gone();
    }
}

/// Does the chores of the log until the sender is dropped.
pub(super) fn run(disk: &dyn Disk, dir: &Path, to_do: &thread::Receiver<Chore>, queue: &Queue) {
    let _gone = HelperGuard(queue);
    // Ends when the "wal" thread has dropped the sender.
    while let Ok(chore) = to_do.recv() {
        let mut written = queue.written_bytes();
        let mut pause = |bytes: u64| {
            let before = std::mem::replace(&mut written, queue.written_bytes());
            if written == before {
                return;
            }
            let end = thread::now() + PACE_PER_MIB.mul_f64(bytes as f64 / f64::from(1 << 20));
            let enough = before + bytes / 4 * 3;
            while thread::now() < end && queue.written_bytes() < enough {
                thread::sleep(CHECK_INTERVAL);
            }
        };
        queue.chore_done(chore.run(disk, dir, &mut pause));
    }
}
