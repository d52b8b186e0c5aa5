//! Volume claims: threats to their data, and their growth.
//!
//! **K4** A claim that is being deleted, has lost its volume, or was recreated under a running pod
//! is a threat: Kubernetes keeps the data only until the pod stops, so the operator must not stop
//! it.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use ropewalk_operator_api::{Size, names, size};

use super::Observed;
use super::observed::pod_condition_since;

/// A pod that was scheduled this many seconds before its claim was created does not use that claim.
/// More than the clock difference within one control plane.
const REPLACED_SECONDS: i64 = 60;
/// Seconds that a node has to grow a mounted file system. After that the volume needs a pod that
/// mounts it again.
pub const RESIZE_PATIENCE_SECONDS: i64 = 300;

const MI: u64 = 1 << 20;

/// Why a volume may be lost when its pod stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threat {
    /// The claim was deleted; it exists until the pod stops.
    Deleting,
    /// The claim lost its volume.
    Lost,
    /// The claim was deleted and recreated: the pod uses a volume that no claim names.
    Replaced,
}

impl Threat {
    /// The reason of the condition.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Deleting => "VolumeDeleting",
            Self::Lost => "VolumeLost",
            Self::Replaced => "VolumeReplaced",
        }
    }
}

/// The threat to the volume of a broker, if there is one.
#[must_use]
pub fn threat(observed: &Observed, id: i32) -> Option<Threat> {
    threat_to(observed.claims.get(&id)?, observed.pods.get(&id))
}

/// The threat to the volume of a claim, given the pod that uses it.
#[must_use]
pub fn threat_to(claim: &PersistentVolumeClaim, pod: Option<&Pod>) -> Option<Threat> {
    if claim.metadata.deletion_timestamp.is_some() {
        return Some(Threat::Deleting);
    }
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    if phase == Some("Lost") {
        return Some(Threat::Lost);
    }
    let made = claim.metadata.creation_timestamp.as_ref()?.0.as_second();
    let placed = pod.and_then(|pod| pod_condition_since(pod, "PodScheduled"))?;
    (placed + REPLACED_SECONDS < made).then_some(Threat::Replaced)
}

/// A message that describes the threat and how to rescue the data.
#[must_use]
pub fn rescue(observed: &Observed, cluster: &str, id: i32) -> Option<String> {
    let what = threat(observed, id)?;
    let claim = names::volume_claim(cluster, id);
    let volume =
        observed.claims.get(&id).and_then(|claim| claim.spec.as_ref()?.volume_name.clone());
    let volume = volume.unwrap_or_else(|| "of the claim".to_owned());
    let pod = names::pod(cluster, id);
    Some(match what {
        Threat::Deleting => format!(
            "the volume claim {claim} was deleted; Kubernetes removes it, and with most storage classes the data, as soon as the pod {pod} stops. The operator does not stop or restart broker {id} meanwhile. Keep the volume first: `kubectl patch pv {volume} -p '{{\"spec\":{{\"persistentVolumeReclaimPolicy\":\"Retain\"}}}}'`, and take a snapshot; then bind it again as operator/README.md says under \"A deleted volume claim\""
        ),
        Threat::Lost => format!(
            "the volume claim {claim} has lost its volume {volume}: the PersistentVolume is gone. The operator does not stop or restart broker {id}, which may still have it mounted: copy the data off the pod {pod}, or make a PersistentVolume of that name for the same disk"
        ),
        Threat::Replaced => format!(
            "the volume claim {claim} was deleted and made again while the pod {pod} ran: the pod uses the volume of the deleted claim, and would find an empty one when it starts again. The operator does not stop or restart broker {id}: keep the old volume (`persistentVolumeReclaimPolicy: Retain`), copy its data, and bind it again as operator/README.md says under \"A deleted volume claim\""
        ),
    })
}

/// The size that a claim requests.
#[must_use]
pub fn claimed(claim: &PersistentVolumeClaim) -> Option<String> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    requests.get("storage").map(|size| size.0.clone())
}

/// Capacity of a claim's volume, in bytes and as Kubernetes reports it; `None` without a volume.
#[must_use]
pub fn capacity(claim: &PersistentVolumeClaim) -> Option<(u64, &str)> {
    let has = &claim.status.as_ref()?.capacity.as_ref()?.get("storage")?.0;
    Some((size::bytes(has)?, has))
}

/// The size that a claim should request for `wanted` in the spec.
///
/// Kubernetes lets a request grow, and (since 1.32) shrink as long as it stays above the capacity
/// of the volume: so a size that could not be provided is taken back. A volume that was enlarged by
/// hand is kept.
#[must_use]
pub fn request(claim: &PersistentVolumeClaim, wanted: &Size) -> String {
    let Some(asked) = claimed(claim) else { return wanted.to_string() };
    let Some((asked_bytes, wanted_bytes)) = size::bytes(&asked).zip(wanted.bytes()) else {
        return asked;
    };
    if asked_bytes <= wanted_bytes {
        return wanted.to_string();
    }
    let annotations = claim.metadata.annotations.as_ref();
    let ours = annotations.and_then(|all| size::bytes(all.get(names::ANNOTATION_SIZE)?));
    let capacity = capacity(claim).map(|(bytes, _)| bytes);
    let Some(has) = capacity.filter(|_| ours == Some(asked_bytes)) else { return asked };
    if has < wanted_bytes {
        return wanted.to_string();
    }
    // The smallest whole mebibyte above the capacity.
    let least = has / MI + 1;
    if least.saturating_mul(MI) < asked_bytes { format!("{least}Mi") } else { asked }
}

/// Why a volume cannot grow, if Kubernetes has given up.
#[must_use]
pub fn growth_failed(claim: &PersistentVolumeClaim) -> Option<&str> {
    let status = claim.status.as_ref()?;
    let conditions = status.conditions.iter().flatten();
    let mut failures =
        conditions.filter(|one| one.status == "True" && one.type_.ends_with("Error"));
    let failure = failures.find(|one| one.type_.contains("Resize"));
    let steps = status.allocated_resource_statuses.as_ref();
    let step = steps.and_then(|steps| steps.get("storage"));
    let step = step.filter(|step| step.ends_with("Infeasible"));
    match failure {
        Some(failure) => Some(failure.message.as_deref().unwrap_or(&failure.type_)),
        None => step.map(String::as_str),
    }
}

/// Since when the file system of a volume waits to be enlarged, Unix seconds.
#[must_use]
pub fn waits_for_file_system(claim: &PersistentVolumeClaim) -> Option<i64> {
    let conditions = claim.status.as_ref()?.conditions.as_ref()?;
    let pending = conditions
        .iter()
        .find(|one| one.type_ == "FileSystemResizePending" && one.status == "True")?;
    Some(pending.last_transition_time.as_ref().map_or(0, |time| time.0.as_second()))
}

/// Whether only a restart of the pod enlarges the file system: the node had its time, and the pod
/// is older than the wait. One restart is enough: a second one would change nothing.
#[must_use]
pub fn needs_remount(observed: &Observed, id: i32) -> bool {
    let since = observed.claims.get(&id).and_then(waits_for_file_system);
    let made = observed.pods.get(&id).and_then(|pod| pod.metadata.creation_timestamp.as_ref());
    let (Some(since), Some(made)) = (since, made) else { return false };
    made.0.as_second() < since && observed.at_second - since >= RESIZE_PATIENCE_SECONDS
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    fn claim(text: &str) -> PersistentVolumeClaim {
        serde_yaml_ng::from_str(text).expect("a claim")
    }

    #[test]
    fn k4_a_claim_that_goes_or_has_lost_its_volume_is_a_threat() {
        let whole = claim(
            "{metadata: {name: c, creationTimestamp: '2026-01-01T10:00:00Z'}, status: {phase: Bound}}",
        );
        let pod = fixture::pod(
            "{conditions: [{type: PodScheduled, status: 'True', lastTransitionTime: '2026-01-01T10:00:01Z'}]}",
        );
        assert_eq!(threat_to(&whole, Some(&pod)), None);
        let deleted = claim("{metadata: {name: c, deletionTimestamp: '2026-01-01T10:00:00Z'}}");
        assert_eq!(threat_to(&deleted, Some(&pod)), Some(Threat::Deleting));
        let lost = claim("{metadata: {name: c}, status: {phase: Lost}}");
        assert_eq!(threat_to(&lost, Some(&pod)), Some(Threat::Lost));
        let again = claim(
            "{metadata: {name: c, creationTimestamp: '2026-01-01T12:00:00Z'}, status: {phase: Pending}}",
        );
        assert_eq!(threat_to(&again, Some(&pod)), Some(Threat::Replaced));
        assert_eq!(threat_to(&again, None), None);
        // The pod waited for its claim, and was placed when there was one.
        let waited = fixture::pod("{conditions: [{type: PodScheduled, status: 'False'}]}");
        assert_eq!(threat_to(&again, Some(&waited)), None);
    }

    #[test]
    fn a_size_that_no_volume_has_is_taken_back_and_a_larger_volume_is_left() {
        let asking = |request: &str, ours: &str, capacity: &str| {
            claim(&format!(
                "{{metadata: {{name: c, annotations: {{ropewalk.dev/size: {ours}}}}}, spec: {{resources: {{requests: {{storage: {request}}}}}}}, status: {{capacity: {{storage: {capacity}}}}}}}"
            ))
        };
        let wanted = Size::from("20Gi");
        let typo = asking("20Ti", "20Ti", "20Gi");
        // Kubernetes wants more than the volume has.
        assert_eq!(request(&typo, &wanted), "20481Mi");
        assert_eq!(request(&typo, &"30Gi".into()), "30Gi");
        assert_eq!(request(&typo, &"20Ti".into()), "20Ti");
        // This is the final state: nothing is written again.
        assert_eq!(request(&asking("20481Mi", "20Gi", "20Gi"), &wanted), "20481Mi");
        // It has grown, or grows by hand, or there is no volume yet.
        assert_eq!(request(&asking("20Ti", "20Ti", "20Ti"), &wanted), "20Ti");
        assert_eq!(request(&asking("50Gi", "20Gi", "20Gi"), &wanted), "50Gi");
        let mut pending = typo;
        pending.status = None;
        assert_eq!(request(&pending, &wanted), "20Ti");
        assert_eq!(request(&asking("10Gi", "10Gi", "10Gi"), &wanted), "20Gi");
    }

    #[test]
    fn a_file_system_that_did_not_grow_in_time_needs_one_new_pod() {
        let mut observed = fixture::observed_claim(0, "20Gi", true);
        let mut pending = claim(
            "{metadata: {name: c}, status: {conditions: [{type: FileSystemResizePending, status: 'True', lastTransitionTime: '1970-01-01T00:10:00Z'}]}}",
        );
        observed.claims.insert(0, pending.clone());
        let mut pod = fixture::pod(fixture::READY);
        let made = |second| {
            let at = k8s_openapi::jiff::Timestamp::from_second(second).expect("a time");
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at))
        };
        pod.metadata.creation_timestamp = made(10);
        observed.pods.insert(0, pod.clone());
        observed.at_second = 600 + RESIZE_PATIENCE_SECONDS - 1;
        assert!(!needs_remount(&observed, 0), "the node may still do it");
        observed.at_second += 1;
        assert!(needs_remount(&observed, 0));
        pod.metadata.creation_timestamp = made(700);
        observed.pods.insert(0, pod);
        assert!(!needs_remount(&observed, 0), "it was mounted again already");
        pending.status = None;
        observed.claims.insert(0, pending);
        assert!(!needs_remount(&observed, 0));
    }
}
