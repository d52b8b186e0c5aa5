//! The one way to write an object: server-side apply of the whole intent, and only if it does not hold.
//!
//! # Invariants
//!
//! - **K1** what holds is not written.
//! - What an admission policy changes while it is written is said, so that nobody writes it for ever.
//! - An object that belongs to somebody else is never taken over: that is a [`Outcome::Taken`], not an
//!   overwrite.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt as _};
use ropewalk_operator_plan::intent;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was so already.
    Unchanged,
    /// It was written.
    Written,
    /// It was written, and something between here and the store changed it again. The state that it
    /// was left in is named as by [`mark`].
    Altered(String),
    /// An object of that name belongs to somebody else, named here.
    Taken(String),
}

/// Who an object has to belong to.
#[derive(Clone, Copy, Debug)]
pub enum Belongs<'a> {
    /// To the object with this uid, which controls it.
    To(&'a str),
    /// To nobody: it is kept when everything else goes.
    ToNobody,
}

/// Applies `wanted`. `there` is the object as it was seen, if it was; otherwise it is looked for.
///
/// # Errors
///
/// What the API server says.
pub async fn apply<K>(
    api: &Api<K>,
    manager: &str,
    wanted: &K,
    there: Option<&K>,
    belongs: Belongs<'_>,
) -> Result<Outcome, kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let name = wanted.name_any();
    let found = match there {
        Some(_) => None,
        // A list by label does not show what somebody else made.
        None => api.get_opt(&name).await?,
    };
    let wanted_json = serde_json::to_value(wanted).map_err(kube::Error::SerdeError)?;
    if let Some(there) = there.or(found.as_ref()) {
        if let Some(other) = other_owner(there, belongs) {
            return Ok(Outcome::Taken(other));
        }
        let there = serde_json::to_value(there).map_err(kube::Error::SerdeError)?;
        if intent::holds(&without_kind(&there), &without_kind(&wanted_json)) {
            return Ok(Outcome::Unchanged);
        }
    }
    let parameters = PatchParams::apply(manager).force();
    let written = api.patch(&name, &parameters, &Patch::Apply(wanted)).await?;
    let mark = mark(&written);
    let written = serde_json::to_value(written).map_err(kube::Error::SerdeError)?;
    let holds = intent::holds(&without_kind(&written), &without_kind(&wanted_json));
    Ok(if holds { Outcome::Written } else { Outcome::Altered(mark) })
}

/// Which state of an object this is: another one when somebody changed what it is meant to be.
pub fn mark(object: &impl Resource) -> String {
    let meta = object.meta();
    let generation = meta.generation.map(|generation| format!("generation {generation}"));
    generation.or_else(|| meta.resource_version.clone()).unwrap_or_default()
}

/// Applies the part of a status that belongs to `manager`. The caller knows whether it says something new.
/// An object of this name that was created since is another one and is not written: its uid differs.
///
/// # Errors
///
/// What the API server says; see [`is_gone`].
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

/// Whether [`status`] failed because the object is gone, or another one has its name by now.
#[must_use]
pub fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(said) if said.code == 404 || said.code == 409)
}

/// Who else an object belongs to.
fn other_owner(object: &impl Resource, belongs: Belongs<'_>) -> Option<String> {
    let controller = object.owner_references().iter().find(|owner| owner.controller == Some(true));
    match (belongs, controller) {
        (Belongs::To(uid), Some(owner)) if owner.uid == uid => None,
        (Belongs::ToNobody, None) => None,
        (_, Some(owner)) => Some(format!("{} {} (uid {})", owner.kind, owner.name, owner.uid)),
        (Belongs::To(_), None) => Some("nobody this operator knows".to_owned()),
    }
}

/// Objects in a list come without their kind, and the clear text of a Secret is never given back.
fn without_kind(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
        fields.remove("stringData");
    }
    object
}
