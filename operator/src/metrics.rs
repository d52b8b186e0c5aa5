//! The metrics that the operator exports. Clones share the values.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

mod process;

use process::Process;

/// Prefix of the names of all metrics except those of the process.
const PREFIX: &str = "ropewalk";

/// The metrics that the operator exports.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    process: Process,
    durations: Family<Kind, Histogram, fn() -> Histogram>,
    failures: Family<Failure, Counter>,
    last_success: Family<Kind, Gauge>,
    unreadable: Family<Kind, Counter>,
    writes: Family<Write, Counter>,
    restarts: Counter,
    crd_missing: Family<Crd, Gauge>,
    leading: Gauge,
    streams: Gauge,
    status_waiting: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    kind: &'static str,
    error: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    what: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Crd {
    crd: String,
}

fn histogram() -> Histogram {
    Histogram::new([0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0])
}

impl Default for Metrics {
    fn default() -> Self {
        let all = Self {
            registry: Arc::default(),
            process: Process::default(),
            durations: Family::new_with_constructor(histogram),
            failures: Family::default(),
            last_success: Family::default(),
            unreadable: Family::default(),
            writes: Family::default(),
            restarts: Counter::default(),
            crd_missing: Family::default(),
            leading: Gauge::default(),
            streams: Gauge::default(),
            status_waiting: Gauge::default(),
        };
        all.register();
        all
    }
}

impl Metrics {
    fn register(&self) {
        let mut all = self.registry.lock();
        self.process.register(&mut all);
        let registry = all.sub_registry_with_prefix(PREFIX).sub_registry_with_prefix("operator");
        let duration = "Duration of reconciling one object, seconds";
        registry.register("reconcile_duration_seconds", duration, self.durations.clone());
        registry.register("reconcile_failures", "Reconciles that failed", self.failures.clone());
        let success = "Time of the last successful reconcile, seconds since 1970";
        registry.register("reconcile_last_success_seconds", success, self.last_success.clone());
        let unreadable = "Objects that this release could not deserialize, counted at each attempt";
        registry.register("unreadable_objects", unreadable, self.unreadable.clone());
        registry.register("writes", "Writes to the API server", self.writes.clone());
        registry.register(
            "broker_restarts",
            "Broker restarts by the operator",
            self.restarts.clone(),
        );
        let missing = "1 for a custom resource definition that is not installed";
        registry.register("crd_missing", missing, self.crd_missing.clone());
        registry.register("leading", "1 while this operator leads", self.leading.clone());
        registry.register("signal_streams", "Open signal streams", self.streams.clone());
        let waiting = "Queues whose metrics wait to be written to their status";
        registry.register("status_waiting", waiting, self.status_waiting.clone());
    }

    /// Registers metrics of another module, under names that begin with `ropewalk_`.
    pub fn extend(&self, register: impl FnOnce(&mut Registry)) {
        register(self.registry.lock().sub_registry_with_prefix(PREFIX));
    }

    /// Records a reconcile that took `duration`, and its error if it failed.
    pub fn reconciled(&self, kind: &'static str, duration: Duration, error: Option<&'static str>) {
        self.durations.get_or_create(&Kind { kind }).observe(duration.as_secs_f64());
        match error {
            Some(error) => {
                self.failures.get_or_create(&Failure { kind, error }).inc();
            }
            None => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
                self.last_success.get_or_create(&Kind { kind }).set(seconds);
            }
        }
    }

    /// Counts an object that cannot be deserialized.
    pub fn unreadable(&self, kind: &'static str) {
        self.unreadable.get_or_create(&Kind { kind }).inc();
    }

    /// Counts a write to the API server.
    pub fn wrote(&self, what: &'static str) {
        self.writes.get_or_create(&Write { what }).inc();
    }

    /// Counts a restart of a broker.
    pub fn restarted(&self) {
        self.restarts.inc();
    }

    /// Records whether a custom resource definition is missing.
    pub fn crd(&self, name: &str, is_missing: bool) {
        self.crd_missing.get_or_create(&Crd { crd: name.to_owned() }).set(i64::from(is_missing));
    }

    /// Records whether this operator leads.
    pub fn leading(&self, leads: bool) {
        self.leading.set(i64::from(leads));
    }

    /// Records the number of open signal streams.
    pub fn streams(&self, open: usize) {
        self.streams.set(i64::try_from(open).unwrap_or(i64::MAX));
    }

    /// Records the number of Queues whose metrics wait to be written to their status.
    pub fn status_waiting(&self, waiting: usize) {
        self.status_waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// All metrics in the OpenMetrics text format.
    #[must_use]
    pub fn text(&self) -> String {
        self.process.update();
        let mut text = String::new();
        if encode(&mut text, &self.registry.lock()).is_err() {
            let _ = writeln!(text, "# encoding the metrics failed");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::default();
        metrics.reconciled("Queue", Duration::from_millis(3), Some("Kubernetes"));
        metrics.crd("queues.ropewalk.dev", true);
        let text = metrics.text();
        for line in [
            r#"ropewalk_operator_reconcile_failures_total{kind="Queue",error="Kubernetes"} 1"#,
            r#"ropewalk_operator_crd_missing{crd="queues.ropewalk.dev"} 1"#,
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
        }
        for name in ["process_resident_memory_bytes ", "process_cpu_seconds_total "] {
            let value = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            assert!(value.parse::<f64>().is_ok_and(|value| value > 0.0), "{name} is {value}");
        }
    }
}
