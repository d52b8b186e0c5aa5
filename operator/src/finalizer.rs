//! The finalizer of our own kinds: there under `deletionPolicy: Delete`, and only then (K4).

use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt as _};
use ropewalk_operator_api::names::FINALIZER;
use serde::de::DeserializeOwned;
use serde_json::json;

/// Puts the finalizer on an object, or takes it off. Refused by the API server when somebody else
/// changed the object meanwhile; whoever calls this tries again.
///
/// # Errors
///
/// What the API server says.
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
        // Gone already: that is what was wanted.
        Err(kube::Error::Api(status)) if status.code == 404 && !wanted => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether the finalizer stands on it.
pub fn is_on(object: &impl Resource) -> bool {
    object.finalizers().iter().any(|name| name == FINALIZER)
}
