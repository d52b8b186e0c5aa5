//! The key of a `BrokerCluster` in the in-memory tables.

/// Namespace and name of a `BrokerCluster`, the key of in-memory tables.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterKey {
    /// Namespace of the `BrokerCluster`.
    pub namespace: String,
    /// Name of the `BrokerCluster` object.
    pub name: String,
}

impl ClusterKey {
    /// Creates the key from namespace and name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for ClusterKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}
