//! The pod template that the operator last applied to a StatefulSet, from its annotation.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use ropewalk_operator_api::names;

use super::observed::CONTAINER;

/// The pod template that was last applied; `None` if it was not recorded.
#[must_use]
pub fn template(set: &StatefulSet) -> Option<PodTemplateSpec> {
    let annotations = set.metadata.annotations.as_ref()?;
    serde_json::from_str(annotations.get(names::ANNOTATION_APPLIED_TEMPLATE)?).ok()
}

/// The image that was last applied. The image of the StatefulSet itself, which another writer may
/// have changed, is used only if nothing was recorded.
#[must_use]
pub fn image(set: &StatefulSet) -> Option<String> {
    let applied = template(set).and_then(|template| image_in(template.spec.as_ref()?));
    applied.or_else(|| image_in(set.spec.as_ref()?.template.spec.as_ref()?))
}

fn image_in(pod: &PodSpec) -> Option<String> {
    pod.containers.iter().find(|container| container.name == CONTAINER)?.image.clone()
}
