//! Reads all objects of a cluster concurrently and live.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    ConfigMap, Event, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams};
use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt as _};
use ropewalk_operator_api::cluster::RunState;
use ropewalk_operator_api::condition::cluster::ADMIN_REACHABLE;
use ropewalk_operator_api::{BrokerCluster, names, size};
use ropewalk_operator_plan::cluster::observed::{broker_of, is_ready};
use ropewalk_operator_plan::cluster::validate;
use ropewalk_operator_plan::cluster::verdict::is_warning;
use ropewalk_operator_plan::cluster::{Answer, Observed, object_storage, volume};
use serde::de::DeserializeOwned;

use super::{hibernation, key, selector};
use crate::admin::Target;
use crate::context::Context;
use crate::watch::Failure;

/// Older warnings say nothing about the current state.
const WARNING_AGE_SECONDS_MAX: i64 = 600;

/// Reads the cluster's objects and the answers of its brokers.
pub(super) async fn observe(
    context: &Context,
    cluster: &BrokerCluster,
) -> Result<Observed, Failure> {
    let name = cluster.name_any();
    let conflict = context.brokers.conflict(&key(cluster)).map(|conflict| conflict.to_string());
    let reader = Reader { context, cluster, namespace: cluster.namespace().unwrap_or_default() };
    let (sets, pods, claims, services, config_maps, secret, account, budget) = tokio::try_join!(
        reader.list::<StatefulSet>(),
        reader.list::<Pod>(),
        reader.list::<PersistentVolumeClaim>(),
        reader.list::<Service>(),
        reader.list::<ConfigMap>(),
        reader.one::<Secret>(names::admin_secret(&name)),
        reader.one::<ServiceAccount>(names::brokers(&name)),
        reader.one::<PodDisruptionBudget>(names::brokers(&name)),
    )?;
    let mut observed = Observed {
        stateful_sets: by_broker(sets, |id| names::broker(&name, id)),
        pods: by_broker(pods, |id| names::pod(&name, id)),
        claims: by_broker(claims, |id| names::volume_claim(&name, id)),
        at_second: Timestamp::now().as_second(),
        services: by_name(services),
        config_maps: by_name(config_maps),
        secret,
        service_account: account,
        budget,
        conflict,
        ..Observed::default()
    };
    reader.find_claims(&mut observed).await?;
    observed.missing_input = reader.missing_input().await?;
    reader.ask_brokers(&mut observed).await;
    reader.read_warnings(&mut observed).await;
    observed.awaited_consumers = hibernation::awaited_consumers(context, cluster, &observed);
    Ok(observed)
}

/// The objects whose name matches the broker id in their label. Others carry the labels because
/// they were copied: a restored volume, or a pod that was created from another one.
fn by_broker<K: Resource>(objects: Vec<K>, name: impl Fn(i32) -> String) -> BTreeMap<i32, K> {
    let by_label = objects.into_iter().filter_map(|object| Some((broker_of(&object)?, object)));
    by_label.filter(|(id, object)| object.name_any() == name(*id)).collect()
}

fn by_name<K: Resource>(objects: Vec<K>) -> BTreeMap<String, K> {
    objects.into_iter().map(|object| (object.name_any(), object)).collect()
}

/// Whether a volume is smaller than its claim asks for.
fn grows(claim: &PersistentVolumeClaim) -> bool {
    let has = volume::capacity(claim).map(|(bytes, _)| bytes);
    let asked = volume::claimed(claim).and_then(|asked| size::bytes(&asked));
    has.is_some() && has < asked
}

struct Reader<'a> {
    context: &'a Context,
    cluster: &'a BrokerCluster,
    namespace: String,
}

impl Reader<'_> {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.context.client.clone(), &self.namespace)
    }

    async fn list<K>(&self) -> Result<Vec<K>, kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let parameters = ListParams::default().labels(&selector(self.cluster));
        Ok(self.api::<K>().list(&parameters).await?.items)
    }

    async fn one<K>(&self, name: String) -> Result<Option<K>, kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        self.api::<K>().get_opt(&name).await
    }

    /// A claim that was restored from a backup may have lost its labels, so it is read by name.
    async fn find_claims(&self, observed: &mut Observed) -> Result<(), kube::Error> {
        let name = self.cluster.name_any();
        for id in validate::broker_ids(self.cluster, observed) {
            if observed.claims.contains_key(&id) {
                continue;
            }
            let claim = self.one::<PersistentVolumeClaim>(names::volume_claim(&name, id)).await?;
            observed.claims.extend(claim.map(|claim| (id, claim)));
        }
        Ok(())
    }

    /// What the Secrets and ConfigMaps that the bucket needs lack. Only the names of their keys are
    /// used.
    async fn missing_input(&self) -> Result<Option<String>, kube::Error> {
        let Some(storage) = &self.cluster.spec.object_storage else { return Ok(None) };
        for input in object_storage::inputs(storage) {
            let name = input.name.clone();
            let keys = if input.is_secret {
                let secret = self.one::<Secret>(name).await?;
                secret.as_ref().map(object_storage::keys_of_secret)
            } else {
                let map = self.one::<ConfigMap>(name).await?;
                map.as_ref().map(object_storage::keys_of_config_map)
            };
            if let Some(missing) = input.lacks(keys.as_deref()) {
                return Ok(Some(missing));
            }
        }
        Ok(None)
    }

    /// Queries each broker that has a pod. A broker that does not answer is recorded as unanswered.
    async fn ask_brokers(&self, observed: &mut Observed) {
        let cluster = key(self.cluster);
        let said = self.cluster.status.iter().flat_map(|status| &status.conditions);
        let is_critical = said.filter(|one| one.type_ == ADMIN_REACHABLE).any(is_warning);
        for (id, pod) in &observed.pods {
            let has_address = pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some());
            if !has_address || pod.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let target = Target { cluster: cluster.clone(), broker: *id };
            if is_ready(pod) && !is_critical {
                // The critical condition must be based on calls to a pod that is ready, not on
                // earlier ones.
                self.context.brokers.try_again(&target);
            }
            match self.context.brokers.ask::<Answer>(&target, "/v1/broker").await {
                Ok(answer) => {
                    observed.answers.insert(*id, answer);
                }
                Err(error) => {
                    tracing::debug!(%error, broker = id, "broker query failed");
                    observed.unanswered.insert(*id, error.to_string());
                }
            }
        }
    }

    /// Reads the Events of objects that are missing or not ready: the cause is often found only
    /// there.
    async fn read_warnings(&self, observed: &mut Observed) {
        if self.cluster.spec.run_state == RunState::Hibernated {
            return;
        }
        let name = self.cluster.name_any();
        let mut missing = Vec::new();
        for id in observed.stateful_sets.keys() {
            match observed.pods.get(id) {
                Some(pod) if is_ready(pod) => {
                    if observed.claims.get(id).is_some_and(grows) {
                        missing.push(names::volume_claim(&name, *id));
                    }
                    continue;
                }
                Some(pod) => missing.push(pod.name_any()),
                None => missing.push(names::broker(&name, *id)),
            }
            missing.push(names::volume_claim(&name, *id));
        }
        for object in missing {
            if let Some(warning) = self.last_warning(&object).await {
                observed.warnings.insert(object, warning);
            }
        }
    }

    async fn last_warning(&self, object: &str) -> Option<String> {
        let fields = format!("involvedObject.name={object},type=Warning");
        let parameters = ListParams::default().fields(&fields).limit(100);
        let events = self.api::<Event>().list(&parameters).await;
        let events =
            events.inspect_err(|error| tracing::debug!(%error, "listing Events failed")).ok()?;
        let now = Timestamp::now().as_second();
        let at = |event: &Event| {
            let last = event.last_timestamp.as_ref().map(|time| time.0);
            let first = event.event_time.as_ref().map(|time| time.0);
            last.or(first).map_or(0, |time| time.as_second())
        };
        let recent =
            events.items.into_iter().filter(|event| now - at(event) <= WARNING_AGE_SECONDS_MAX);
        // The broker's own answer is more specific than a failed probe.
        let specific = recent.filter(|event| event.reason.as_deref() != Some("Unhealthy"));
        specific.max_by_key(at).and_then(|event| event.message)
    }
}
