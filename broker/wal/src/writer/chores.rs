//! The "wal-files" thread: does the chores of the log, so that no round waits for them.

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ropewalk_disk::Disk;

use super::queue::Queue;
use crate::files::Chore;

/// Pause after each MiB of zeroes of a new file while rounds are written: both share the disk, and
/// a round waits for all zeroes that the disk has not written before it. Without rounds, or when
/// one waits for the file, there is no pause.
const PACE_PER_MIB: Duration = Duration::from_millis(8);

/// Reports the end of the thread to the queue, also after a panic.
struct HelperGuard<'a>(&'a Queue);

impl Drop for HelperGuard<'_> {
    fn drop(&mut self) {
        self.0.helper_gone();
    }
}

/// Does the chores of the log until the sender is dropped.
pub(super) fn run(disk: &dyn Disk, dir: &Path, to_do: &mpsc::Receiver<Chore>, queue: &Queue) {
    let _gone = HelperGuard(queue);
    // Ends when the "wal" thread has dropped the sender.
    while let Ok(chore) = to_do.recv() {
        let mut rounds = queue.rounds();
        let mut pause = |bytes: u64| {
            if std::mem::replace(&mut rounds, queue.rounds()) != rounds {
                thread::sleep(PACE_PER_MIB.mul_f64(bytes as f64 / f64::from(1 << 20)));
            }
        };
        queue.chore_done(chore.run(disk, dir, &mut pause));
    }
}
