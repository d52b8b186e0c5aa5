//! What is counted about connections.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Counters of the listeners; a clone counts the same.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub(crate) open: Gauge,
    pub(crate) accepted: Counter,
    pub(crate) refused: Family<Refused, Counter>,
    pub(crate) closed: Family<Closed, Counter>,
    pub(crate) received_bytes: Counter,
    pub(crate) sent_bytes: Counter,
}

/// Why a connection was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Refused {
    pub(crate) limit: &'static str,
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Closed {
    pub(crate) reason: &'static str,
}

impl Metrics {
    /// Makes them and shows them in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let all = Self::default();
        registry.register("connections", "Kafka connections that are open", all.open.clone());
        registry.register(
            "connections_accepted",
            "Kafka connections that were accepted",
            all.accepted.clone(),
        );
        registry.register(
            "connections_refused",
            "Kafka connections that were over a limit",
            all.refused.clone(),
        );
        registry.register(
            "connections_closed",
            "Kafka connections that ended, by reason",
            all.closed.clone(),
        );
        registry.register_with_unit(
            "received",
            "Received from Kafka clients",
            Unit::Bytes,
            all.received_bytes.clone(),
        );
        registry.register_with_unit(
            "sent",
            "Sent to Kafka clients",
            Unit::Bytes,
            all.sent_bytes.clone(),
        );
        all
    }
}
