//! The labels of a cluster's objects, and the label selectors that find them.

use std::collections::BTreeMap;

use ropewalk_operator_api::names;

/// The label by which deployment tools recognize their objects.
pub const INSTANCE: &str = "app.kubernetes.io/instance";

/// Labels by key, as the Kubernetes types hold them.
pub type Labels = BTreeMap<String, String>;

/// The selector of a StatefulSet; Kubernetes does not allow a change.
#[must_use]
pub fn selector(cluster: &str, broker: Option<i32>) -> Labels {
    let mut labels = Labels::from([(names::LABEL_CLUSTER.to_owned(), cluster.to_owned())]);
    if let Some(id) = broker {
        labels.insert(names::LABEL_BROKER.to_owned(), id.to_string());
    }
    labels
}

/// The selector of Services and of the disruption budget: brokers, and no other pod of a cluster.
#[must_use]
pub fn brokers(cluster: &str, broker: Option<i32>) -> Labels {
    let mut labels = selector(cluster, broker);
    labels.insert(names::LABEL_COMPONENT.to_owned(), names::COMPONENT_BROKER.to_owned());
    labels
}

/// The labels of every object of a cluster, or of one broker.
#[must_use]
pub fn all(cluster: &str, broker: Option<i32>) -> Labels {
    let mut labels = brokers(cluster, broker);
    labels.insert("app.kubernetes.io/name".to_owned(), "ropewalk".to_owned());
    labels.insert(INSTANCE.to_owned(), cluster.to_owned());
    labels.insert(names::LABEL_MANAGED_BY.to_owned(), names::MANAGED_BY.to_owned());
    labels
}

/// The labels of volume claims and Secrets, without the instance label: a deployment tool that
/// tracks objects by it would remove them, because they are in no repository.
#[must_use]
pub fn kept(cluster: &str, broker: Option<i32>) -> Labels {
    let mut labels = all(cluster, broker);
    labels.remove(INSTANCE);
    labels
}
