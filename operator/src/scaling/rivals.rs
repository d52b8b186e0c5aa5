//! Who else scales an object: a HorizontalPodAutoscaler, or a ScaledObject of KEDA.
//!
//! Two autoscalers on one object fight without end, so ours stands back. What there is in a namespace is listed rarely,
//! and once more right before a count is written.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt as _};
use parking_lot::Mutex;
use ropewalk_operator_api::queue::TargetRef;

use super::target::REQUEST_MAX;

/// After so long a missing definition of ScaledObjects is asked for again.
const ABSENCE_AGE_MAX: Duration = Duration::from_secs(600);

/// What was seen of a namespace is kept this long without anybody asking.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(7200);

/// Objects of one list. A namespace with more has them looked at in part, and says so in the log.
const LISTED_MAX: u32 = 5000;

/// An autoscaler and what it scales.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rival {
    kind: &'static str,
    name: String,
    group: String,
    target_kind: String,
    target_name: String,
}

/// Knows the autoscalers of each namespace.
pub(super) struct Rivals {
    client: Client,
    seen: Mutex<HashMap<String, (Vec<Rival>, Instant)>>,
    keda_absent_since: Mutex<Option<Instant>>,
}

impl Rivals {
    pub(super) fn new(client: Client) -> Self {
        Self { client, seen: Mutex::default(), keda_absent_since: Mutex::default() }
    }

    /// As long as there are namespaces, in seconds: with looks no younger than this, there is one list a second at most.
    pub(super) fn a_second_each(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.seen.lock().len()).unwrap_or(u64::MAX))
    }

    /// Who scales `target`, by a look that is at most `age_max` old.
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
            seen.get(namespace).filter(|(_, at)| fresh(*at)).map(|(rivals, _)| of(rivals, target))
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let mut rivals = self.autoscalers(namespace).await?;
        rivals.extend(self.scaled_objects(namespace, now).await);
        let found = of(&rivals, target);
        let mut seen = self.seen.lock();
        // Namespaces nobody has asked about for long are forgotten.
        seen.retain(|_, (_, at)| now.saturating_duration_since(*at) < FORGOTTEN_AFTER);
        seen.insert(namespace.to_owned(), (rivals, now));
        Ok(found)
    }

    async fn autoscalers(&self, namespace: &str) -> Result<Vec<Rival>, kube::Error> {
        let api: Api<HorizontalPodAutoscaler> = Api::namespaced(self.client.clone(), namespace);
        let params = ListParams::default().limit(LISTED_MAX);
        let listed = tokio::time::timeout(REQUEST_MAX, api.list(&params)).await;
        let listed = listed.map_err(|_| kube::Error::Service("no answer in time".into()))??;
        Ok(listed.items.into_iter().filter_map(horizontal).collect())
    }

    /// That KEDA is not there, or not ours to see, is no reason to stand still: it works through a
    /// HorizontalPodAutoscaler, which was looked for already.
    async fn scaled_objects(&self, namespace: &str, now: Instant) -> Vec<Rival> {
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
                tracing::debug!(%error, namespace, "ScaledObjects cannot be listed");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }
}

fn of(rivals: &[Rival], target: &TargetRef) -> Option<String> {
    let group = group(&target.api_version);
    let same = |rival: &&Rival| {
        rival.target_name == target.name && rival.target_kind == target.kind && rival.group == group
    };
    rivals.iter().find(same).map(|rival| format!("{} {}", rival.kind, rival.name))
}

fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

fn horizontal(autoscaler: HorizontalPodAutoscaler) -> Option<Rival> {
    let name = autoscaler.name_any();
    let target = autoscaler.spec?.scale_target_ref;
    Some(Rival {
        kind: "HorizontalPodAutoscaler",
        name,
        group: group(target.api_version.as_deref().unwrap_or("apps/v1")).to_owned(),
        target_kind: target.kind,
        target_name: target.name,
    })
}

fn scaled_object(object: &DynamicObject) -> Option<Rival> {
    let target = object.data.pointer("/spec/scaleTargetRef")?;
    let text = |key: &str| target.get(key).and_then(serde_json::Value::as_str);
    Some(Rival {
        kind: "ScaledObject",
        name: object.name_any(),
        group: group(text("apiVersion").unwrap_or("apps/v1")).to_owned(),
        target_kind: text("kind").unwrap_or("Deployment").to_owned(),
        target_name: text("name")?.to_owned(),
    })
}
