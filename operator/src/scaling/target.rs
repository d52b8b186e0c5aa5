//! Reads and writes the `/scale` subresource of any object, found by discovery.
//!
//! A write replaces `/scale` and carries the resourceVersion that was read just before, so that a
//! concurrent change by another client is not overwritten. The API server records our field manager
//! for the field; a manifest that is applied without `replicas` does not change it, if its previous
//! version had none either.
//!
//! # Invariants
//!
//! - **K2** no write without a live read.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use kube::core::discovery::Scope;
use kube::{Client, discovery};
use parking_lot::Mutex;
use ropewalk_operator_api::queue::TargetRef;

/// Field manager of replica counts.
pub(super) const MANAGER: &str = "ropewalk-operator/autoscaler";

/// Time-out of a request.
pub(super) const REQUEST_MAX: Duration = Duration::from_secs(5);

/// Time for which the discovery of a kind is cached.
const KIND_AGE_MAX: Duration = Duration::from_secs(600);

/// Bound of cached kinds. Users choose them, so there must be one.
const KINDS_MAX: usize = 256;

/// Why a target cannot be scaled, split by what the user does about it.
#[derive(Debug, thiserror::Error)]
pub(super) enum TargetError {
    /// The API server does not serve the kind.
    #[error(
        "the API server serves no {kind} of {api_version}: correct `targetRef`, or install its definition"
    )]
    KindMissing { api_version: String, kind: String },
    /// The kind has no `/scale` subresource.
    #[error(
        "{kind} of {api_version} has no `/scale` subresource: `targetRef` must name a kind such as Deployment"
    )]
    NotScalable { api_version: String, kind: String },
    /// The object does not exist.
    #[error("there is no {kind} {name}: create it, or correct `targetRef`")]
    Missing { kind: String, name: String },
    /// The operator lacks the permission.
    #[error(
        "the operator may not scale {kind} {name}: allow its ServiceAccount to get and update its `scale`: {message}"
    )]
    Forbidden { kind: String, name: String, message: String },
    /// Another client changed the object since it was read.
    #[error("{kind} {name} was changed by another client at the same time")]
    Changed { kind: String, name: String },
    /// The API server did not answer, or with an unexpected error.
    #[error("the API server: {0}")]
    Server(String),
}

impl TargetError {
    /// The reason of the condition; `None` for transient errors.
    pub(super) fn reason(&self) -> Option<&'static str> {
        match self {
            Self::KindMissing { .. } => Some("TargetKindMissing"),
            Self::NotScalable { .. } => Some("TargetNotScalable"),
            Self::Missing { .. } => Some("TargetMissing"),
            Self::Forbidden { .. } => Some("Forbidden"),
            Self::Changed { .. } | Self::Server(_) => None,
        }
    }
}

/// A write of a scale.
pub(super) struct ScaleWrite {
    /// The scale that was read, with its resourceVersion.
    pub(super) read: Scale,
    /// The new count.
    pub(super) replicas: u32,
}

/// Reads and writes scales.
pub(super) struct Targets {
    client: Client,
    kinds: Mutex<HashMap<(String, String), (ApiResource, Instant)>>,
}

impl Targets {
    pub(super) fn new(client: Client) -> Self {
        Self { client, kinds: Mutex::default() }
    }

    /// The current scale, by a live read.
    pub(super) async fn read(
        &self,
        namespace: &str,
        target: &TargetRef,
        now: Instant,
    ) -> Result<Scale, TargetError> {
        let api = self.api(namespace, target, now).await?;
        in_time(target, api.get_scale(&target.name)).await
    }

    /// Writes the new count over the scale that was read.
    pub(super) async fn write(
        &self,
        namespace: &str,
        target: &TargetRef,
        write: ScaleWrite,
        now: Instant,
    ) -> Result<Scale, TargetError> {
        let api = self.api(namespace, target, now).await?;
        let ScaleWrite { read, replicas } = write;
        let spec = ScaleSpec { replicas: i32::try_from(replicas).ok() };
        let scale = Scale { spec: Some(spec), status: None, ..read };
        let params =
            PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        in_time(target, api.replace_scale(&target.name, &params, &scale)).await
    }

    /// The field manager that last wrote `replicas`, if it is another one and can be read.
    pub(super) async fn manager_of_replicas(
        &self,
        namespace: &str,
        target: &TargetRef,
        now: Instant,
    ) -> Option<String> {
        let api = self.api(namespace, target, now).await.ok()?;
        let read = tokio::time::timeout(REQUEST_MAX, api.get_metadata(&target.name)).await.ok()?;
        manager_of_replicas(&read.ok()?.metadata.managed_fields.unwrap_or_default())
    }

    async fn api(
        &self,
        namespace: &str,
        target: &TargetRef,
        now: Instant,
    ) -> Result<Api<DynamicObject>, TargetError> {
        let key = (target.api_version.clone(), target.kind.clone());
        let known = self.kinds.lock().get(&key).cloned();
        let resource = match known {
            Some((resource, at)) if now.saturating_duration_since(at) < KIND_AGE_MAX => resource,
            Some(_) | None => {
                let resource = self.discover(target).await?;
                let mut kinds = self.kinds.lock();
                if kinds.len() >= KINDS_MAX {
                    kinds.clear();
                }
                kinds.insert(key, (resource.clone(), now));
                resource
            }
        };
        Ok(Api::namespaced_with(self.client.clone(), namespace, &resource))
    }

    async fn discover(&self, target: &TargetRef) -> Result<ApiResource, TargetError> {
        let (api_version, kind) = (target.api_version.clone(), target.kind.clone());
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let wanted = GroupVersionKind::gvk(group, version, &kind);
        let found =
            tokio::time::timeout(REQUEST_MAX, discovery::pinned_kind(&self.client, &wanted));
        let (resource, capabilities) = match found.await {
            Ok(Ok(found)) => found,
            Ok(Err(kube::Error::Discovery(_))) => {
                return Err(TargetError::KindMissing { api_version, kind });
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                return Err(TargetError::KindMissing { api_version, kind });
            }
            Ok(Err(error)) => return Err(TargetError::Server(error.to_string())),
            Err(_) => return Err(TargetError::Server("no answer within 5 s".to_owned())),
        };
        let scalable = capabilities.subresources.iter().any(|(sub, _)| sub.plural == "scale");
        if !scalable || capabilities.scope != Scope::Namespaced {
            return Err(TargetError::NotScalable { api_version, kind });
        }
        Ok(resource)
    }
}

fn manager_of_replicas(entries: &[ManagedFieldsEntry]) -> Option<String> {
    let has_replicas = |entry: &&ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref();
        fields.is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some())
    };
    let others = entries.iter().filter(has_replicas);
    let others = others.filter(|entry| entry.manager.as_deref() != Some(MANAGER));
    let last = others.max_by_key(|entry| entry.time.as_ref().map(|time| time.0));
    last.and_then(|entry| entry.manager.clone())
}

async fn in_time(
    target: &TargetRef,
    request: impl Future<Output = Result<Scale, kube::Error>>,
) -> Result<Scale, TargetError> {
    let (kind, name) = (target.kind.clone(), target.name.clone());
    match tokio::time::timeout(REQUEST_MAX, request).await {
        Ok(Ok(scale)) => Ok(scale),
        Ok(Err(kube::Error::Api(status))) => Err(match status.code {
            404 => TargetError::Missing { kind, name },
            403 => TargetError::Forbidden { kind, name, message: status.message.clone() },
            409 => TargetError::Changed { kind, name },
            _ => TargetError::Server(status.message.clone()),
        }),
        Ok(Err(error)) => Err(TargetError::Server(error.to_string())),
        Err(_) => Err(TargetError::Server("no answer within 5 s".to_owned())),
    }
}
