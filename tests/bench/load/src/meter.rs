//! Wall-clock time and processor time of this process or thread.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// One GiB, in bytes.
pub(crate) const GIB: f64 = (1_u64 << 30) as f64;

/// A clock of wall time and processor time that starts when it is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meter {
    started: Instant,
    clock: ClockId,
    cpu: Duration,
}

impl Meter {
    /// Counts the processor time of all threads of this process.
    pub(crate) fn process() -> Self {
        Self::of(ClockId::ProcessCPUTime)
    }

    /// Counts the processor time of the calling thread, which must also read it.
    pub(crate) fn thread() -> Self {
        Self::of(ClockId::ThreadCPUTime)
    }

    fn of(clock: ClockId) -> Self {
        Self { started: Instant::now(), clock, cpu: cpu_time(clock) }
    }

    /// Wall-clock seconds since the start.
    pub(crate) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Processor seconds since the start, user and system.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        (cpu_time(self.clock) - self.cpu).as_secs_f64()
    }
}

fn cpu_time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
