//! The finalizer of the operator's own kinds, present only under `deletionPolicy: Delete` (K4).

use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt as _};
use ropewalk_operator_api::names::FINALIZER;
use serde::de::DeserializeOwned;
use serde_json::json;

/// Adds the finalizer to an object, or removes it, as `wanted` says.
///
/// # Errors
///
/// An error of the API server. A conflict when another client changed the object meanwhile; the
/// caller retries.
pub async fn keep<K>(api: &Api<K>, object: &K, wanted: bool) -> Result<(), kube::Error>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let there = object.finalizers();
    let has = there.iter().any(|name| name == FINALIZER);
    if has == wanted {
        return Ok(());
    }
    let mut finalizers: Vec<&str> = there.iter().map(String::as_str).collect();
    if wanted {
        finalizers.push(FINALIZER);
    } else {
        finalizers.retain(|name| *name != FINALIZER);
    }
    let patch = json!({"metadata": {
        "finalizers": finalizers,
        "resourceVersion": object.resource_version(),
    }});
    let name = object.name_any();
    match api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        // The object is gone already, which is the wanted result.
        Err(kube::Error::Api(status)) if status.code == 404 && !wanted => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether the object has the finalizer.
pub fn is_on(object: &impl Resource) -> bool {
    object.finalizers().iter().any(|name| name == FINALIZER)
}
