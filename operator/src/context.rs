//! What every controller works with. Made once, shared by all.

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
use crate::contested::Contested;
use crate::hibernation::Hibernations;
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::outages::Outages;
use crate::settings_log::SettingsLog;
use crate::signals::Table;

/// What every controller works with.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Whether this process leads.
    pub leadership: Leadership,
    /// The admin APIs of all brokers.
    pub brokers: Arc<Brokers>,
    /// What the brokers say about consumer groups.
    pub signals: Arc<Table>,
    /// Everything that is counted.
    pub metrics: Metrics,
    /// What the operator itself brings.
    pub settings: Settings,
    /// What the cluster looks like that is made for a Queue.
    pub default_cluster: BrokerClusterSpec,
    /// How often each object failed in a row.
    pub attempts: Arc<Attempts>,
    /// How many statuses may be written.
    pub budget: Arc<Budget>,
    /// Which settings brokers got from this process.
    pub settings_log: Arc<SettingsLog>,
    /// Children that somebody else changes whenever they are written.
    pub contested: Arc<Contested>,
    /// Since when the cluster of each Queue cannot be used.
    pub outages: Arc<Outages>,
    /// Which clusters are to sleep, and whom they wait for.
    pub hibernations: Arc<Hibernations>,
    /// Every Queue that is watched, one store for each scope.
    pub queues: Arc<RwLock<Vec<Store<DeserializeGuard<Queue>>>>>,
    /// Every cluster that is watched, one store for each scope.
    pub clusters: Arc<RwLock<Vec<Store<DeserializeGuard<BrokerCluster>>>>>,
    recorder: Recorder,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Context").finish_non_exhaustive()
    }
}

impl Context {
    /// Made once, when the process starts. `broker_address` is where the admin API of a broker is.
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

    /// Every Queue that is watched and can be read.
    #[must_use]
    pub fn queues(&self) -> Vec<Arc<DeserializeGuard<Queue>>> {
        let stores = self.queues.read();
        stores.iter().flat_map(Store::state).filter(|queue| queue.0.is_ok()).collect()
    }

    /// A cluster that is watched and can be read.
    #[must_use]
    pub fn cluster(&self, key: &ClusterKey) -> Option<BrokerCluster> {
        let reference = ObjectRef::new(&key.name).within(&key.namespace);
        let found = self.clusters.read().iter().find_map(|store| store.get(&reference))?;
        found.0.as_ref().ok().cloned()
    }

    /// Whether a whole namespace is being deleted. Reading namespaces may not be allowed; then
    /// nobody knows.
    pub async fn is_ending(&self, namespace: &str) -> bool {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = namespaces.get_metadata(namespace).await;
        namespace.is_ok_and(|namespace| namespace.metadata.deletion_timestamp.is_some())
    }

    /// Writes an Event about an object. A failure to write it is logged and stops nothing. A note of more
    /// than 1000 bytes is cut.
    pub async fn tell(
        &self,
        object: &ObjectReference,
        kind: EventType,
        (reason, action): (&str, &str),
        note: String,
    ) {
        let mut note = note;
        if note.len() > 1000 {
            let end = (0..=1000).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
            note.truncate(end);
        }
        let event = Event {
            type_: kind,
            reason: reason.to_owned(),
            note: Some(note),
            action: action.to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, object).await {
            tracing::debug!(%error, reason, "an Event could not be written");
        }
    }

    /// An Event when Ready changed its status or reason.
    pub(crate) async fn tell_readiness(
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
        self.tell(object, kind, (&new.reason, "Reconcile"), new.message.clone()).await;
    }
}
