//! The shared state and clients of all controllers. Created once, when the process starts.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Client;
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::{ObjectRef, Store};
use parking_lot::RwLock;
use ropewalk_operator_api::{BrokerCluster, BrokerClusterSpec, Queue, condition};
use ropewalk_operator_plan::cluster::validate::Settings;

use crate::admin::Brokers;
use crate::attempts::Attempts;
use crate::budget::Budget;
use crate::cluster_key::ClusterKey;
use crate::contested::ContestedObjects;
use crate::hibernation::Hibernations;
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::outages::Outages;
use crate::settings_log::SettingsLog;
use crate::signals::Table;

/// Reason and action of an Event, both single words in camel case.
#[derive(Clone, Copy, Debug)]
pub struct EventReason<'a> {
    /// Why the Event was written, such as `BrokerRestarted`.
    pub reason: &'a str,
    /// What the operator did, such as `Restart`.
    pub action: &'a str,
}

/// The shared state and clients of all controllers.
#[derive(Clone)]
pub struct Context {
    /// Client of the API server.
    pub client: Client,
    /// Whether this process holds the Lease.
    pub leadership: Leadership,
    /// The admin APIs of all brokers.
    pub brokers: Arc<Brokers>,
    /// The latest signals of the brokers about consumer groups.
    pub signals: Arc<Table>,
    /// The metrics that the operator exports.
    pub metrics: Metrics,
    /// Defaults that come with the operator's release, such as the broker image.
    pub settings: Settings,
    /// The spec of the BrokerCluster that is created for a Queue that names none.
    pub default_cluster: BrokerClusterSpec,
    /// Consecutive failures of each object, for the back-off.
    pub attempts: Arc<Attempts>,
    /// Rate limit of status writes of Queues.
    pub budget: Arc<Budget>,
    /// Hashes of the settings that this process sent to brokers.
    pub settings_log: Arc<SettingsLog>,
    /// Children that another client, such as an admission policy, changes at every write.
    pub contested: Arc<ContestedObjects>,
    /// Start of the current outage of each Queue's cluster.
    pub outages: Arc<Outages>,
    /// Clusters that are to hibernate, and the consumers that each waits for.
    pub hibernations: Arc<Hibernations>,
    /// Every watched Queue, one store for each scope.
    pub queues: Arc<RwLock<Vec<Store<DeserializeGuard<Queue>>>>>,
    /// Every watched cluster, one store for each scope.
    pub clusters: Arc<RwLock<Vec<Store<DeserializeGuard<BrokerCluster>>>>>,
    recorder: Recorder,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Context").finish_non_exhaustive()
    }
}

impl Context {
    /// Called once, when the process starts. `broker_address` is the address template of a broker's
    /// admin API.
    #[must_use]
    pub fn new(
        client: Client,
        leadership: Leadership,
        metrics: Metrics,
        settings: Settings,
        broker_address: String,
    ) -> Self {
        let instance = Some(leadership.identity());
        let reporter = Reporter { controller: "ropewalk-operator".to_owned(), instance };
        let brokers = Brokers::new(client.clone(), leadership.clone(), broker_address);
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            leadership,
            brokers: Arc::new(brokers),
            signals: Arc::default(),
            metrics,
            settings,
            default_cluster: BrokerClusterSpec { replicas: 1, ..BrokerClusterSpec::default() },
            attempts: Arc::default(),
            budget: Arc::default(),
            settings_log: Arc::default(),
            contested: Arc::default(),
            outages: Arc::default(),
            hibernations: Arc::default(),
            queues: Arc::default(),
            clusters: Arc::default(),
        }
    }

    /// Every watched Queue that can be deserialized.
    #[must_use]
    pub fn queues(&self) -> Vec<Arc<DeserializeGuard<Queue>>> {
        let stores = self.queues.read();
        stores.iter().flat_map(Store::state).filter(|queue| queue.0.is_ok()).collect()
    }

    /// A watched cluster that can be deserialized.
    #[must_use]
    pub fn cluster(&self, key: &ClusterKey) -> Option<BrokerCluster> {
        let reference = ObjectRef::new(&key.name).within(&key.namespace);
        let found = self.clusters.read().iter().find_map(|store| store.get(&reference))?;
        found.0.as_ref().ok().cloned()
    }

    /// Whether a namespace is being deleted; `false` also when the operator may not read
    /// namespaces.
    pub async fn is_ending(&self, namespace: &str) -> bool {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = namespaces.get_metadata(namespace).await;
        namespace.is_ok_and(|namespace| namespace.metadata.deletion_timestamp.is_some())
    }

    /// Writes an Event about an object. A failure is logged and otherwise ignored. A note of more
    /// than 1000 bytes is truncated, because the API server rejects it.
    pub async fn publish_event(
        &self,
        object: &ObjectReference,
        kind: EventType,
        reason: EventReason<'_>,
        note: String,
    ) {
        let mut note = note;
        if note.len() > 1000 {
            let end = (0..=1000).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
            note.truncate(end);
        }
        let event = Event {
            type_: kind,
            reason: reason.reason.to_owned(),
            note: Some(note),
            action: reason.action.to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, object).await {
            tracing::debug!(%error, reason = reason.reason, "Event not written");
        }
    }

    /// Writes an Event when the status or reason of the Ready condition changed.
    pub(crate) async fn publish_readiness_event(
        &self,
        object: &ObjectReference,
        before: &[Condition],
        after: &[Condition],
    ) {
        let old = condition::find(before, condition::READY);
        let Some(new) = condition::find(after, condition::READY) else { return };
        if old.is_some_and(|old| old.status == new.status && old.reason == new.reason) {
            return;
        }
        let quiet = [
            "Starting",
            "Stopping",
            "Hibernated",
            "Hibernating",
            "WaitingForCleanup",
            "WaitingForCluster",
            "ClusterPending",
            "ClusterNotReady",
        ];
        let kind = match new.status.as_str() {
            "False" if !quiet.contains(&new.reason.as_str()) => EventType::Warning,
            _ => EventType::Normal,
        };
        let reason = EventReason { reason: &new.reason, action: "Reconcile" };
        self.publish_event(object, kind, reason, new.message.clone()).await;
    }
}
