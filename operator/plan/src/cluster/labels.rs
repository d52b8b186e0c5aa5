//! The labels that everything of a cluster carries, and those that find it again.

use std::collections::BTreeMap;

use ropewalk_operator_api::names;

/// The label by which deployment tools take objects for their own.
pub const INSTANCE: &str = "app.kubernetes.io/instance";

/// Labels by key, as the types of Kubernetes hold them.
pub type Labels = BTreeMap<String, String>;

/// The labels by which a StatefulSet finds its pod. They never change: Kubernetes forbids it.
#[must_use]
pub fn selector(cluster: &str, broker: Option<i32>) -> Labels {
    let mut labels = Labels::from([(names::LABEL_CLUSTER.to_owned(), cluster.to_owned())]);
    if let Some(id) = broker {
        labels.insert(names::LABEL_BROKER.to_owned(), id.to_string());
    }
    labels
}

/// The labels by which Services and the disruption budget find brokers, and no other pod of a cluster.
#[must_use]
pub fn brokers(cluster: &str, broker: Option<i32>) -> Labels {
    let mut labels = selector(cluster, broker);
    labels.insert(names::LABEL_COMPONENT.to_owned(), names::COMPONENT_BROKER.to_owned());
    labels
}

/// The labels of everything that belongs to a cluster, or to one broker.
#[must_use]
pub fn all(cluster: &str, broker: Option<i32>) -> Labels {
    let mut labels = brokers(cluster, broker);
    labels.insert("app.kubernetes.io/name".to_owned(), "ropewalk".to_owned());
    labels.insert(INSTANCE.to_owned(), cluster.to_owned());
    labels.insert(names::LABEL_MANAGED_BY.to_owned(), names::MANAGED_BY.to_owned());
    labels
}

/// The labels of what must outlive a deployment tool's mistake: volumes and secrets. A tool that tracks
/// its objects by the instance label would remove them, because they are in no repository.
#[must_use]
pub fn kept(cluster: &str, broker: Option<i32>) -> Labels {
    let mut labels = all(cluster, broker);
    labels.remove(INSTANCE);
    labels
}
