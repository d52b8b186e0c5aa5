//! The metrics of scaling. Clones share the values.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use ropewalk_operator_plan::scaling::{Action, Decision};

type Amount = Gauge<f64, AtomicU64>;

/// Labels of the metrics of one consumer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Owner {
    pub(super) namespace: String,
    pub(super) queue: String,
    pub(super) consumer: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    decision: &'static str,
}

/// The metrics of scaling.
#[derive(Clone, Debug, Default)]
pub struct ScalingMetrics {
    arrival: Family<Owner, Amount>,
    service: Family<Owner, Amount>,
    backlog: Family<Owner, Amount>,
    desired: Family<Owner, Gauge>,
    limited: Family<Owner, Gauge>,
    decisions: Family<DecisionLabels, Counter>,
}

impl ScalingMetrics {
    /// Registers the metrics in a registry whose prefix is the program's.
    pub fn register(&self, registry: &mut Registry) {
        let arrival = "Arrival rate of messages for a consumer, messages per second";
        registry.register("autoscaler_arrival_per_second", arrival, self.arrival.clone());
        let service = "Service rate of one replica, messages per second";
        registry.register("autoscaler_service_rate_per_second", service, self.service.clone());
        let backlog = "Backlog beyond the messages in transit, messages";
        registry.register("autoscaler_backlog_messages", backlog, self.backlog.clone());
        let desired = "Replicas after the last decision, limits applied";
        registry.register("autoscaler_desired_replicas", desired, self.desired.clone());
        let limited = "Whether fewer replicas consume than the load needs (a limit, or pods that do not join), 1 or 0";
        registry.register("autoscaler_limited", limited, self.limited.clone());
        let decisions = "Scaling decisions, by outcome";
        registry.register("autoscaler_decisions", decisions, self.decisions.clone());
    }

    pub(super) fn decided(&self, owner: &Owner, decision: &Decision) {
        let metrics = &decision.metrics;
        self.arrival.get_or_create(owner).set(metrics.arrival_per_second);
        self.service.get_or_create(owner).set(metrics.per_replica_per_second.unwrap_or(0.0));
        self.backlog.get_or_create(owner).set(metrics.waiting);
        self.desired.get_or_create(owner).set(i64::from(decision.action.replicas()));
        let limited = decision.limit.is_some() || decision.missing_members.is_some();
        self.limited.get_or_create(owner).set(i64::from(limited));
        let decision = match &decision.action {
            Action::Set { from, to, .. } if to > from => "up",
            Action::Set { .. } => "down",
            Action::Keep { .. } => "keep",
            Action::Frozen { .. } => "frozen",
        };
        self.decisions.get_or_create(&DecisionLabels { decision }).inc();
    }

    pub(super) fn discard(&self, owner: &Owner) {
        self.arrival.remove(owner);
        self.service.remove(owner);
        self.backlog.remove(owner);
        self.desired.remove(owner);
        self.limited.remove(owner);
    }
}
