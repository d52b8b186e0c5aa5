//! Resource usage of the process, under the names that Prometheus client libraries use.

use std::fs;
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Unit of CPU times in `/proc/self/stat` (`USER_HZ`), the same on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// Resident memory and CPU time of the process.
#[derive(Clone, Debug, Default)]
pub(super) struct Process {
    memory: Gauge,
    cpu: Counter<f64, AtomicU64>,
}

impl Process {
    pub(super) fn register(&self, registry: &mut Registry) {
        let memory = "Resident memory, bytes";
        registry.register("process_resident_memory_bytes", memory, self.memory.clone());
        registry.register(
            "process_cpu_seconds",
            "CPU time in user and kernel mode, seconds",
            self.cpu.clone(),
        );
    }

    /// Reads the values from `/proc`. A value that cannot be read keeps its previous state.
    pub(super) fn update(&self) {
        if let Some(bytes) = resident_bytes() {
            self.memory.set(bytes);
        }
        if let Some(seconds) = cpu_seconds() {
            self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
        }
    }
}

fn resident_bytes() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The process name before may contain spaces, but nothing after its bracket does.
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks = rest.split_whitespace().skip(11).take(2).map(str::parse::<u32>);
    let ticks: Vec<u32> = ticks.collect::<Result<_, _>>().ok()?;
    Some(ticks.into_iter().map(f64::from).sum::<f64>() / TICKS_PER_SECOND)
}
