//! Length (consumer lag), delay and throughput of a Queue for its status.
//!
//! - `length` is exact; values that change all the time are rounded to two digits, so that the
//!   status of a queue under a steady load is not written again and again.
//! - **K1** [`is_due`] limits writes to one every 30 s for each Queue.

use std::time::Duration;

use ropewalk_operator_api::Queue;
use ropewalk_operator_api::queue::{ConsumerStatus, QueueStatus};
use serde::Deserialize;

/// Shortest time between two writes of the metrics of one Queue.
pub const PAUSE_MIN: Duration = Duration::from_secs(30);

/// The metrics of one broker, as `GET /v1/queues` returns them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Report {
    /// One entry per queue.
    pub queues: Vec<QueueMetrics>,
}

/// The metrics of one queue, or of one group of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct QueueMetrics {
    /// Name of the queue or id of the group.
    pub name: String,
    /// Kafka's id of the topic; empty for a group.
    pub id: String,
    /// Consumer lag: messages that are not processed.
    pub length: i64,
    /// Time from record timestamp to offset commit, last minute.
    pub delay: Delay,
    /// Messages per second, in and out.
    pub throughput: Throughput,
    /// The groups of a queue; empty for a group.
    pub groups: Vec<QueueMetrics>,
}

/// Time from record timestamp to offset commit, last minute, milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Delay {
    /// Median; `None` if nothing was committed.
    pub p50_ms: Option<i64>,
    /// 99th percentile; `None` if nothing was committed.
    pub p99_ms: Option<i64>,
    /// Age of the oldest message that is not processed.
    pub oldest_ms: i64,
}

/// Messages per second, averaged by the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Throughput {
    /// Messages that were appended.
    pub in_per_second: f64,
    /// Messages that the group committed.
    pub processed_per_second: f64,
}

/// The fields of the status that hold metrics; all others are absent.
#[must_use]
pub fn status(queue: &Queue, measured: &QueueMetrics) -> QueueStatus {
    let shown = shown(measured);
    // A consumer without metrics has no entry: an entry would stay after the consumer is removed.
    let consumers = queue.spec.consumers.iter().filter_map(|consumer| {
        let group = queue.group(consumer);
        let found = measured.groups.iter().find(|measured| measured.name == group)?;
        Some(ConsumerStatus { name: consumer.name.clone(), ..self::shown(found) })
    });
    QueueStatus {
        length: shown.length,
        delay_p50_ms: shown.delay_p50_ms,
        delay_p99_ms: shown.delay_p99_ms,
        delay: Some(shown.delay_p99_ms.map_or_else(|| "-".to_owned(), duration)),
        oldest_age_seconds: shown.oldest_age_seconds,
        arrivals_per_second_milli: shown.arrivals_per_second_milli,
        processed_per_second_milli: shown.processed_per_second_milli,
        throughput: shown.processed_per_second_milli.map(rate),
        time_to_drain_seconds: shown.time_to_drain_seconds,
        consumers: consumers.collect(),
        ..QueueStatus::default()
    }
}

/// The metrics of a queue or group, rounded.
fn shown(measured: &QueueMetrics) -> ConsumerStatus {
    let Throughput { in_per_second, processed_per_second } = measured.throughput;
    let gain = processed_per_second - in_per_second;
    let drain = match measured.length {
        length if length <= 0 => Some(0),
        // A backlog that shrinks by less than one message in ten seconds is not draining.
        _ if gain < 0.1 => None,
        #[expect(clippy::cast_precision_loss, reason = "two digits are kept")]
        length => Some(two_digits(whole(length as f64 / gain))),
    };
    ConsumerStatus {
        length: Some(measured.length),
        delay_p50_ms: measured.delay.p50_ms.map(two_digits),
        delay_p99_ms: measured.delay.p99_ms.map(two_digits),
        oldest_age_seconds: Some(two_digits(measured.delay.oldest_ms.max(0) / 1000)),
        arrivals_per_second_milli: Some(two_digits(whole(in_per_second * 1000.0))),
        processed_per_second_milli: Some(two_digits(whole(processed_per_second * 1000.0))),
        time_to_drain_seconds: drain,
        ..ConsumerStatus::default()
    }
}

/// Rounds to an integer; NaN is 0, and the result is within ±1e15.
fn whole(number: f64) -> i64 {
    const MOST: f64 = 1e15;
    if number.is_nan() {
        return 0;
    }
    #[expect(clippy::cast_possible_truncation, reason = "clamped")]
    let whole = number.clamp(-MOST, MOST).round() as i64;
    whole
}

/// Rounds to two significant digits.
fn two_digits(number: i64) -> i64 {
    let digits = number.unsigned_abs().checked_ilog10().unwrap_or(0);
    let step = 10_i64.pow(digits.saturating_sub(1).min(17));
    let half = if number < 0 { -(step / 2) } else { step / 2 };
    number.saturating_add(half) / step * step
}

/// A time with its unit: `80ms`, `1.2s`, `3m`, `2h`.
fn duration(ms: i64) -> String {
    match ms {
        ..1000 => format!("{ms}ms"),
        1000..10_000 => format!("{}.{}s", ms / 1000, ms % 1000 / 100),
        10_000..120_000 => format!("{}s", ms / 1000),
        120_000..7_200_000 => format!("{}m", ms / 60_000),
        _ => format!("{}h", ms / 3_600_000),
    }
}

/// A rate with its unit: `0/s`, `1.5/s`, `950/s`, `12k/s`.
fn rate(milli: i64) -> String {
    match milli {
        ..10_000 if milli % 1000 != 0 => format!("{}.{}/s", milli / 1000, milli % 1000 / 100),
        ..10_000_000 => format!("{}/s", milli / 1000),
        10_000_000..10_000_000_000 => format!("{}k/s", milli / 1_000_000),
        _ => format!("{}M/s", milli / 1_000_000_000),
    }
}

/// Whether new metrics may be written, when the last write was `since_last` ago.
#[must_use]
pub fn is_due(since_last: Option<Duration>) -> bool {
    since_last.is_none_or(|since| since >= PAUSE_MIN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue() -> Queue {
        serde_yaml_ng::from_str(
            "{apiVersion: ropewalk.dev/v1alpha1, kind: Queue, metadata: {name: orders, namespace: shop}, spec: {consumers: [{name: worker}, {name: idle}]}}",
        )
        .expect("a Queue")
    }

    #[test]
    fn what_the_broker_reports_is_shown() {
        let report: Report = serde_yaml_ng::from_str(
            "queues: [{name: orders, id: t, partitions: 12, length: 1234, size_bytes: 9,
              delay: {p50_ms: 5, p99_ms: 1278, oldest_ms: 65400},
              throughput: {in_per_second: 101.4, processed_per_second: 140.0},
              groups: [{name: shop.orders.worker, members: 1, length: 7, delay: {p50_ms: null, p99_ms: null, oldest_ms: 0}, throughput: {in_per_second: 0, processed_per_second: 0}}]}]",
        )
        .expect("a report");
        let status = status(&queue(), &report.queues[0]);
        assert_eq!(status.length, Some(1234), "exact");
        assert_eq!((status.delay_p99_ms, status.delay.as_deref()), (Some(1300), Some("1.3s")));
        assert_eq!(status.oldest_age_seconds, Some(65));
        assert_eq!(
            (status.processed_per_second_milli, status.throughput.as_deref()),
            (Some(140_000), Some("140/s"))
        );
        assert_eq!(status.time_to_drain_seconds, Some(32));
        assert_eq!(status.consumers[0].length, Some(7));
        assert_eq!(status.consumers.len(), 1, "nothing is known of the other");
    }

    #[test]
    fn k1_a_status_is_due_every_30_seconds_at_most() {
        assert!(is_due(None));
        assert!(!is_due(Some(Duration::from_secs(29))));
        assert!(is_due(Some(Duration::from_secs(30))));
    }

    #[test]
    fn numbers_are_read_as_people_write_them() {
        for (ms, expected) in [
            (0, "0ms"),
            (80, "80ms"),
            (1200, "1.2s"),
            (45_000, "45s"),
            (180_000, "3m"),
            (7_300_000, "2h"),
        ] {
            assert_eq!(duration(ms), expected);
        }
        for (milli, expected) in [
            (0, "0/s"),
            (1500, "1.5/s"),
            (950_000, "950/s"),
            (12_000_000, "12k/s"),
            (3_000_000_000_000, "3000M/s"),
        ] {
            assert_eq!(rate(milli), expected);
        }
    }

    proptest! {
        #[test]
        fn rounding_stays_within_five_percent(number in any::<i32>()) {
            let number = i64::from(number);
            let rounded = two_digits(number);
            prop_assert!((rounded - number).abs() * 20 <= number.abs());
            prop_assert_eq!(two_digits(rounded), rounded);
        }

        #[test]
        fn no_measurement_is_too_wild(length in any::<i64>(), rate in any::<f64>(), ms in any::<i64>()) {
            let delay = Delay { p50_ms: Some(ms), p99_ms: Some(ms), oldest_ms: ms };
            let throughput = Throughput { in_per_second: rate, processed_per_second: -rate };
            let measured = QueueMetrics { length, delay, throughput, ..QueueMetrics::default() };
            let _ = status(&queue(), &measured);
        }
    }
}
