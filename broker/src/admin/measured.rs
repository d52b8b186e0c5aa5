//! Metrics that are read on demand instead of counted: queues and groups, the write-ahead log,
//! memory.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::admin::{Kind, Source};
use crate::queue_metrics::{DelayReport, QueueReport, Report, Throughput};

/// The metrics of every queue and group.
#[derive(Debug)]
pub(crate) struct Queues(pub(crate) Arc<dyn Source>);

/// A metric value with its labels.
struct Point<'a> {
    labels: &'a [(&'static str, &'a str)],
    value: f64,
}

impl Collector for Queues {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(report) = self.0.queues() else { return Ok(()) };
        of_queues(&mut encoder, &report)?;
        of_groups(&mut encoder, &report)
    }
}

/// The readiness of the broker, and every condition.
#[derive(Debug)]
pub(crate) struct Conditions(pub(crate) Arc<dyn Source>);

impl Collector for Conditions {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Readiness of the broker as /ready answers, 1 or 0";
        let metric = encoder.encode_descriptor("ready", help, None, GAUGE)?;
        ConstGauge::new(i64::from(self.0.obstacles().is_empty())).encode(metric)?;
        let help = "Shards or partitions in a condition of GET /v1/broker, 0 while the condition does not hold";
        let mut metric = encoder.encode_descriptor("condition", help, None, GAUGE)?;
        let holding = self.0.conditions();
        for kind in Kind::ALL {
            let count = holding.iter().find(|holds| holds.kind == kind).map_or(0, |c| c.count);
            Point { labels: &[("kind", kind.name())], value: count as f64 }.encode(&mut metric)?;
        }
        Ok(())
    }
}

type GaugeRow<T> = (&'static str, &'static str, fn(&T) -> Option<f64>);

fn of_queues(encoder: &mut DescriptorEncoder<'_>, report: &Report) -> fmt::Result {
    const GAUGES: &[GaugeRow<QueueReport>] = &[
        ("queue_partitions", "Partitions of the queue", |q| Some(q.partitions as f64)),
        (
            "queue_length",
            "Consumer lag of the slowest group of the queue, all records without a group, records",
            |q| Some(q.length as f64),
        ),
        ("queue_size_bytes", "Size of the queue in memory and on disk, bytes", |q| {
            Some(q.size_bytes as f64)
        }),
        (
            "queue_delay_p50_seconds",
            "Time from record timestamp to offset commit, median over the last minute, seconds",
            |q| p50(&q.delay),
        ),
        (
            "queue_delay_p99_seconds",
            "Time from record timestamp to offset commit in the slowest group, 99th percentile over the last minute with commits, seconds",
            |q| p99(&q.delay),
        ),
        ("queue_oldest_seconds", "Age of the oldest unprocessed record, seconds", |q| {
            Some(seconds(q.delay.oldest_ms))
        }),
        ("queue_in_per_second", "Records appended per second", |q| Some(arriving(&q.throughput))),
        (
            "queue_processed_per_second",
            "Records committed by all groups together over the last half minute, per second",
            |q| Some(processed(&q.throughput)),
        ),
    ];
    for (name, help, value) in GAUGES {
        let mut metric = encoder.encode_descriptor(name, help, None, GAUGE)?;
        for queue in &report.queues {
            if let Some(value) = value(queue) {
                Point { labels: &[("queue", &queue.name)], value }.encode(&mut metric)?;
            }
        }
    }
    Ok(())
}

fn of_groups(encoder: &mut DescriptorEncoder<'_>, report: &Report) -> fmt::Result {
    use crate::queue_metrics::GroupReport;
    const GAUGES: &[GaugeRow<GroupReport>] = &[
        ("group_members", "Members of the group", |g| Some(g.members as f64)),
        ("group_length", "Consumer lag of the group, records", |g| Some(g.length as f64)),
        (
            "group_delay_p50_seconds",
            "Time from record timestamp to offset commit, median over the last minute, seconds",
            |g| p50(&g.delay),
        ),
        (
            "group_delay_p99_seconds",
            "Time from record timestamp to offset commit, 99th percentile over the last minute, seconds",
            |g| p99(&g.delay),
        ),
        ("group_oldest_seconds", "Age of the oldest unprocessed record, seconds", |g| {
            Some(seconds(g.delay.oldest_ms))
        }),
        ("group_processed_per_second", "Records processed by the group per second", |g| {
            Some(processed(&g.throughput))
        }),
    ];
    for (name, help, value) in GAUGES {
        let mut metric = encoder.encode_descriptor(name, help, None, GAUGE)?;
        for queue in &report.queues {
            for group in &queue.groups {
                if let Some(value) = value(group) {
                    let labels = &[("queue", queue.name.as_str()), ("group", &group.name)];
                    Point { labels, value }.encode(&mut metric)?;
                }
            }
        }
    }
    Ok(())
}

const GAUGE: prometheus_client::metrics::MetricType = prometheus_client::metrics::MetricType::Gauge;
const COUNTER: prometheus_client::metrics::MetricType =
    prometheus_client::metrics::MetricType::Counter;

impl Point<'_> {
    fn encode(&self, metric: &mut MetricEncoder<'_>) -> fmt::Result {
        ConstGauge::new(self.value).encode(metric.encode_family(&self.labels)?)
    }
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

fn p50(delay: &DelayReport) -> Option<f64> {
    delay.p50_ms.map(seconds)
}

fn p99(delay: &DelayReport) -> Option<f64> {
    delay.p99_ms.map(seconds)
}

fn arriving(throughput: &Throughput) -> f64 {
    throughput.in_per_second
}

fn processed(throughput: &Throughput) -> f64 {
    throughput.processed_per_second
}

/// Metrics of the write-ahead log, the disk and the tails at one moment.
#[derive(Debug, Default)]
pub(crate) struct Storage {
    pub(crate) wal_rounds: u64,
    pub(crate) wal_records: u64,
    pub(crate) wal_written_bytes: u64,
    pub(crate) wal_bytes: u64,
    pub(crate) wal_full: bool,
    pub(crate) wal_at_limit: bool,
    pub(crate) disk_full: bool,
    pub(crate) tail_bytes: usize,
    pub(crate) syncs: Vec<(&'static str, u64)>,
}

/// Reads [`Storage`] on demand.
pub(crate) struct StorageMetrics(pub(crate) Box<dyn Fn() -> Option<Storage> + Send + Sync>);

impl fmt::Debug for StorageMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StorageMetrics")
    }
}

impl Collector for StorageMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(now) = (self.0)() else { return Ok(()) };
        let counters = [
            ("wal_rounds", "Rounds written to the write-ahead log", None, now.wal_rounds),
            (
                "wal_records",
                "Log records (entries and hard states, not Kafka records) written to the write-ahead log",
                None,
                now.wal_records,
            ),
            (
                "wal_written",
                "Bytes written to the write-ahead log",
                Some(&Unit::Bytes),
                now.wal_written_bytes,
            ),
        ];
        for (name, help, unit, value) in counters {
            let metric = encoder.encode_descriptor(name, help, unit, COUNTER)?;
            ConstCounter::new(value).encode(metric)?;
        }
        let gauges = [
            ("wal_size", "Size of the write-ahead log's files", Some(&Unit::Bytes), now.wal_bytes),
            (
                "tail",
                "Memory of records that are not yet in segments",
                Some(&Unit::Bytes),
                now.tail_bytes as u64,
            ),
            (
                "wal_full",
                "Write-ahead log without room for another file, for any reason, 1 or 0",
                None,
                now.wal_full.into(),
            ),
            (
                "wal_at_limit",
                "Write-ahead log at its size limit and being emptied, 1 or 0",
                None,
                now.wal_at_limit.into(),
            ),
            (
                "disk_full",
                "Whether records are refused because free space is below the minimum, 1 or 0",
                None,
                now.disk_full.into(),
            ),
        ];
        for (name, help, unit, value) in gauges {
            let metric = encoder.encode_descriptor(name, help, unit, GAUGE)?;
            ConstGauge::new(value as i64).encode(metric)?;
        }
        let mut metric =
            encoder.encode_descriptor("fsyncs", "Calls of fsync, by reason", None, COUNTER)?;
        for (reason, count) in &now.syncs {
            let labels = &[("reason", *reason)];
            ConstCounter::new(*count).encode(metric.encode_family(labels)?)?;
        }
        Ok(())
    }
}
