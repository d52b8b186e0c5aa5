//! Server-side apply of an object, skipped if the object matches already.
//!
//! # Invariants
//!
//! - **K1** an object that matches its wanted state is not written.
//! - An object that an admission policy alters at the write is reported as
//!   [`ApplyOutcome::Altered`], so that the caller can stop writing it.
//! - An object of another owner is not overwritten but reported as [`ApplyOutcome::OwnedByOther`].

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt as _};
use ropewalk_operator_plan::intent;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Result of [`apply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplyOutcome {
    /// The object matched already; nothing was written.
    Unchanged,
    /// The object was written and matches.
    Written,
    /// The object was written, and an admission policy or another client altered it. Holds the
    /// state after the write, as returned by [`mark`].
    Altered(String),
    /// An object of that name has another owner, described here.
    OwnedByOther(String),
}

/// The owner that an existing object must have to be written.
#[derive(Clone, Copy, Debug)]
pub enum RequiredOwner<'a> {
    /// The object with this uid must be its controller.
    Controller(&'a str),
    /// It must have no controller: it is kept when the cluster is deleted.
    None,
}

/// Applies `wanted`. `there` is the existing object if the caller has read it; otherwise it is
/// read.
///
/// # Errors
///
/// An error of the API server.
pub async fn apply<K>(
    api: &Api<K>,
    manager: &str,
    wanted: &K,
    there: Option<&K>,
    owner: RequiredOwner<'_>,
) -> Result<ApplyOutcome, kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let name = wanted.name_any();
    let found = match there {
        Some(_) => None,
        // An object of another owner may lack the label and be missing in a list.
        None => api.get_opt(&name).await?,
    };
    let wanted_json = serde_json::to_value(wanted).map_err(kube::Error::SerdeError)?;
    if let Some(there) = there.or(found.as_ref()) {
        if let Some(other) = other_owner(there, owner) {
            return Ok(ApplyOutcome::OwnedByOther(other));
        }
        let there = serde_json::to_value(there).map_err(kube::Error::SerdeError)?;
        if intent::holds(&without_kind(&there), &without_kind(&wanted_json)) {
            return Ok(ApplyOutcome::Unchanged);
        }
    }
    let parameters = PatchParams::apply(manager).force();
    let written = api.patch(&name, &parameters, &Patch::Apply(wanted)).await?;
    let mark = mark(&written);
    let written = serde_json::to_value(written).map_err(kube::Error::SerdeError)?;
    let holds = intent::holds(&without_kind(&written), &without_kind(&wanted_json));
    Ok(if holds { ApplyOutcome::Written } else { ApplyOutcome::Altered(mark) })
}

/// Identifies the state of an object: differs after its spec was changed.
pub fn mark(object: &impl Resource) -> String {
    let meta = object.meta();
    let generation = meta.generation.map(|generation| format!("generation {generation}"));
    generation.or_else(|| meta.resource_version.clone()).unwrap_or_default()
}

/// Applies the part of a status that belongs to `manager`. The caller checks whether it changed. An
/// object that was recreated under the same name is not written, because its uid differs.
///
/// # Errors
///
/// An error of the API server; see [`is_gone`].
pub async fn status<K>(
    api: &Api<K>,
    manager: &str,
    object: &ObjectReference,
    status: &impl Serialize,
) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let name = object.name.as_deref().unwrap_or_default();
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": name, "uid": object.uid},
        "status": status,
    });
    let parameters = PatchParams::apply(manager).force();
    api.patch_status(name, &parameters, &Patch::Apply(&body)).await?;
    Ok(())
}

/// Whether [`status`] failed because the object is gone or was recreated under the same name.
#[must_use]
pub fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(said) if said.code == 404 || said.code == 409)
}

/// The owner of an object, if it is not the required one.
fn other_owner(object: &impl Resource, owner: RequiredOwner<'_>) -> Option<String> {
    let controller = object.owner_references().iter().find(|owner| owner.controller == Some(true));
    match (owner, controller) {
        (RequiredOwner::Controller(uid), Some(owner)) if owner.uid == uid => None,
        (RequiredOwner::None, None) => None,
        (_, Some(owner)) => Some(format!("{} {} (uid {})", owner.kind, owner.name, owner.uid)),
        (RequiredOwner::Controller(_), None) => {
            Some("an owner that this operator does not know".to_owned())
        }
    }
}

/// The object without fields that differ without meaning: objects in a list have no kind, and the
/// API server never returns the clear text of a Secret.
fn without_kind(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
        fields.remove("stringData");
    }
    object
}
