//! Metrics of client connections.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Counters of the listeners; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub(crate) open: Gauge,
    pub(crate) accepted: Counter,
    pub(crate) refused: Family<RefusedLabels, Counter>,
    pub(crate) closed: Family<ClosedLabels, Counter>,
    pub(crate) received_bytes: Counter,
    pub(crate) sent_bytes: Counter,
}

/// The label of refused connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RefusedLabels {
    pub(crate) limit: &'static str,
}

/// The label of closed connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ClosedLabels {
    pub(crate) reason: &'static str,
}

impl Metrics {
    /// Creates the metrics and registers them in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let all = Self::default();
        registry.register("connections", "Open Kafka connections", all.open.clone());
        registry.register(
            "connections_accepted",
            "Accepted Kafka connections",
            all.accepted.clone(),
        );
        registry.register(
            "connections_refused",
            "Kafka connections refused by a connection limit, or because the broker is cut off",
            all.refused.clone(),
        );
        registry.register(
            "connections_closed",
            "Closed Kafka connections, by reason",
            all.closed.clone(),
        );
        registry.register_with_unit(
            "received",
            "Bytes received from Kafka clients",
            Unit::Bytes,
            all.received_bytes.clone(),
        );
        registry.register_with_unit(
            "sent",
            "Bytes sent to Kafka clients",
            Unit::Bytes,
            all.sent_bytes.clone(),
        );
        all
    }
}
