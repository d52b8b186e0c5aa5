//! What the operator last applied to a StatefulSet, as recorded on the StatefulSet itself.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use ropewalk_operator_api::names;

use super::observed::CONTAINER;

/// The pod template of a StatefulSet as it was last applied; `None` when that was not recorded.
#[must_use]
pub fn template(set: &StatefulSet) -> Option<PodTemplateSpec> {
    let annotations = set.metadata.annotations.as_ref()?;
    serde_json::from_str(annotations.get(names::ANNOTATION_APPLIED_TEMPLATE)?).ok()
}

/// The image that was last applied to a StatefulSet's pods; an image that somebody else wrote there since
/// counts only where nothing was recorded.
#[must_use]
pub fn image(set: &StatefulSet) -> Option<String> {
    let applied = template(set).and_then(|template| image_in(template.spec.as_ref()?));
    applied.or_else(|| image_in(set.spec.as_ref()?.template.spec.as_ref()?))
}

fn image_in(pod: &PodSpec) -> Option<String> {
    pod.containers.iter().find(|container| container.name == CONTAINER)?.image.clone()
}
