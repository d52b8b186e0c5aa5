//! Detects other autoscalers of a target: a HorizontalPodAutoscaler, or a ScaledObject of KEDA.
//!
//! Two autoscalers on one object revert each other without end, so this one backs off. The
//! autoscalers of a namespace are listed rarely, and again right before a count is written.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt as _};
use parking_lot::Mutex;
use ropewalk_operator_api::queue::TargetRef;

use super::target::REQUEST_MAX;

/// Time after which the list of ScaledObjects is requested again when KEDA was absent.
const ABSENCE_AGE_MAX: Duration = Duration::from_secs(600);

/// Time after which an unused list of a namespace is discarded.
const UNUSED_AGE_MAX: Duration = Duration::from_secs(7200);

/// Maximum number of objects in one list. Objects beyond it are not checked.
const LISTED_MAX: u32 = 5000;

/// An autoscaler and its target.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ConflictCandidate {
    kind: &'static str,
    name: String,
    group: String,
    target_kind: String,
    target_name: String,
}

/// Cached lists of the autoscalers of each namespace.
pub(super) struct ConflictingAutoscalers {
    client: Client,
    seen: Mutex<HashMap<String, (Vec<ConflictCandidate>, Instant)>>,
    keda_absent_since: Mutex<Option<Instant>>,
}

impl ConflictingAutoscalers {
    pub(super) fn new(client: Client) -> Self {
        Self { client, seen: Mutex::default(), keda_absent_since: Mutex::default() }
    }

    /// One second for each namespace: lists of at least this age cause at most one request a second
    /// in all.
    pub(super) fn age_min(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.seen.lock().len()).unwrap_or(u64::MAX))
    }

    /// The autoscaler that scales `target`, from a list that is at most `age_max` old.
    pub(super) async fn of(
        &self,
        namespace: &str,
        target: &TargetRef,
        now: Instant,
        age_max: Duration,
    ) -> Result<Option<String>, kube::Error> {
        let fresh = |at: Instant| now.saturating_duration_since(at) <= age_max;
        let known = {
            let seen = self.seen.lock();
            seen.get(namespace)
                .filter(|(_, at)| fresh(*at))
                .map(|(conflicts, _)| of(conflicts, target))
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let mut conflicts = self.autoscalers(namespace).await?;
        conflicts.extend(self.scaled_objects(namespace, now).await);
        let found = of(&conflicts, target);
        let mut seen = self.seen.lock();
        // Lists of namespaces that are no longer used are discarded.
        seen.retain(|_, (_, at)| now.saturating_duration_since(*at) < UNUSED_AGE_MAX);
        seen.insert(namespace.to_owned(), (conflicts, now));
        Ok(found)
    }

    async fn autoscalers(&self, namespace: &str) -> Result<Vec<ConflictCandidate>, kube::Error> {
        let api: Api<HorizontalPodAutoscaler> = Api::namespaced(self.client.clone(), namespace);
        let params = ListParams::default().limit(LISTED_MAX);
        let listed = tokio::time::timeout(REQUEST_MAX, api.list(&params)).await;
        let listed = listed.map_err(|_| kube::Error::Service("no answer in time".into()))??;
        Ok(listed.items.into_iter().filter_map(horizontal).collect())
    }

    /// KEDA may be absent, or the operator may lack the permission; neither stops scaling, because
    /// KEDA acts through a HorizontalPodAutoscaler, which was listed already.
    async fn scaled_objects(&self, namespace: &str, now: Instant) -> Vec<ConflictCandidate> {
        let absent = *self.keda_absent_since.lock();
        if absent.is_some_and(|at| now.saturating_duration_since(at) < ABSENCE_AGE_MAX) {
            return Vec::new();
        }
        let kind = GroupVersionKind::gvk("keda.sh", "v1alpha1", "ScaledObject");
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &resource);
        let params = ListParams::default().limit(LISTED_MAX);
        match tokio::time::timeout(REQUEST_MAX, api.list(&params)).await {
            Ok(Ok(listed)) => listed.items.iter().filter_map(scaled_object).collect(),
            Ok(Err(kube::Error::Api(status))) if [403, 404].contains(&status.code) => {
                *self.keda_absent_since.lock() = Some(now);
                Vec::new()
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, namespace, "listing ScaledObjects failed");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }
}

fn of(conflicts: &[ConflictCandidate], target: &TargetRef) -> Option<String> {
    let group = group(&target.api_version);
    let same = |conflict: &&ConflictCandidate| {
        conflict.target_name == target.name
            && conflict.target_kind == target.kind
            && conflict.group == group
    };
    conflicts.iter().find(same).map(|conflict| format!("{} {}", conflict.kind, conflict.name))
}

fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

fn horizontal(autoscaler: HorizontalPodAutoscaler) -> Option<ConflictCandidate> {
    let name = autoscaler.name_any();
    let target = autoscaler.spec?.scale_target_ref;
    Some(ConflictCandidate {
        kind: "HorizontalPodAutoscaler",
        name,
        group: group(target.api_version.as_deref().unwrap_or("apps/v1")).to_owned(),
        target_kind: target.kind,
        target_name: target.name,
    })
}

fn scaled_object(object: &DynamicObject) -> Option<ConflictCandidate> {
    let target = object.data.pointer("/spec/scaleTargetRef")?;
    let text = |key: &str| target.get(key).and_then(serde_json::Value::as_str);
    Some(ConflictCandidate {
        kind: "ScaledObject",
        name: object.name_any(),
        group: group(text("apiVersion").unwrap_or("apps/v1")).to_owned(),
        target_kind: text("kind").unwrap_or("Deployment").to_owned(),
        target_name: text("name")?.to_owned(),
    })
}
