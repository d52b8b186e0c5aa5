//! Whether the cluster holds what its bucket had, while and after it is restored.
//!
//! The first broker's pod restores in an init container, at each of its starts: a restore that is
//! complete ends at once. So the condition stays True once it was.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus};
use ropewalk_operator_api::condition::{Finding, cluster as kind, is_true};
use ropewalk_operator_api::names;

use super::Facts;
use crate::cluster::observed::{RESTORE_CONTAINER, restore_container};

/// Reason and advice for an exit code of `ropewalk-broker restore`.
fn meaning(code: i32) -> (&'static str, &'static str) {
    match code {
        2 => ("RestoreRefused", "correct `spec.objectStorage`"),
        3 | 4 => (
            "VolumeNotEmpty",
            "the volume holds the data of another cluster: restore into a BrokerCluster of another name, or delete this one and its volume",
        ),
        7 => ("VolumeLost", "see DataLost"),
        8 => (
            "BucketIncomplete",
            "`spec.restoreFrom.withoutCatalog` restores without the list of topics, and `acceptLoss` without damaged or missing objects",
        ),
        _ => ("RestoreFailed", "Kubernetes tries again, and the restore continues where it ended"),
    }
}

impl Facts<'_> {
    /// `None` for a cluster without `restoreFrom`.
    pub(super) fn restored(&self) -> Option<Finding> {
        self.valid.restore_from.as_ref()?;
        let of = kind::RESTORED;
        let Some(broker) = self.valid.brokers.first() else {
            return Some(Finding::new(of, false, "NotStarted", "there is no broker yet"));
        };
        if let Some((reason, message)) = self.restore_trouble(broker.id) {
            let was_restored = is_true(self.valid.conditions_before(), of);
            if reason != "Restoring" || !was_restored {
                return Some(Finding::new(of, false, reason, message));
            }
        }
        if self.serves(broker.id) || broker.formatted {
            let message = "the cluster holds what the bucket had; the log of the container `restore` lists what was not there";
            return Some(Finding::new(of, true, "Restored", message));
        }
        Some(Finding::new(of, false, "NotStarted", "the first broker has not started yet"))
    }

    /// Reason and message for a broker whose restore has not ended, or has failed.
    pub(super) fn restore_trouble(&self, id: i32) -> Option<(&'static str, String)> {
        let status = restore_container(self.observed.pods.get(&id)?)?;
        let pod = names::pod(&self.valid.name, id);
        let log =
            format!("`kubectl logs -n {} {pod} -c {RESTORE_CONTAINER}`", self.valid.namespace);
        let state = status.state.as_ref()?;
        if state.running.is_some() {
            let message =
                format!("broker {id} is being restored from the bucket; {log} shows the progress");
            return Some(("Restoring", message));
        }
        let ended = failed_end(status)?;
        let (reason, advice) = meaning(ended.exit_code);
        let cause = ended.message.as_deref().unwrap_or_default().trim();
        let message = format!(
            "the restore of broker {id} ended with exit code {}: {cause}; {advice}; {log} says more",
            ended.exit_code
        );
        Some((reason, message))
    }
}

/// The last end of a restore that failed, while it does not run again.
fn failed_end(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let now = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    let last = || status.last_state.as_ref()?.terminated.as_ref();
    now.or_else(last).filter(|ended| ended.exit_code != 0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use ropewalk_operator_api::condition::{READY, find};
    use ropewalk_operator_api::{BrokerCluster, BrokerClusterStatus};

    use super::super::super::fixture;
    use super::*;

    const SPEC: &str = "{objectStorage: {bucket: older}, restoreFrom: {}}";

    fn status(cluster: &BrokerCluster, pod: &str) -> BrokerClusterStatus {
        let mut observed = fixture::observed_claim(0, "20Gi", false);
        observed.pods.insert(0, fixture::pod(pod));
        let valid = fixture::valid(cluster, &observed);
        let now = Time(Timestamp::from_second(1000).expect("a time"));
        let (decisions, problems, restarted) = (&[][..], &[][..], &[][..]);
        Facts { valid: &valid, observed: &observed, decisions, problems, restarted, now: &now }
            .status()
    }

    fn said(status: &BrokerClusterStatus, kind: &str) -> (String, String, String) {
        let found = find(&status.conditions, kind).expect("the condition").clone();
        (found.status, found.reason, found.message)
    }

    fn pod(state: &str) -> String {
        format!(
            "{{initContainerStatuses: [{{name: restore, image: i, imageID: '', ready: false, restartCount: 1, {state}}}]}}"
        )
    }

    #[test]
    fn a_restore_is_shown_until_the_broker_serves() {
        let mut cluster = fixture::cluster(SPEC);
        let running = status(&cluster, &pod("state: {running: {}}"));
        let (state, reason, message) = said(&running, kind::RESTORED);
        assert_eq!((state.as_str(), reason.as_str()), ("False", "Restoring"));
        assert!(message.contains("kubectl logs -n shop prod-broker-0-0 -c restore"), "{message}");
        assert_eq!(said(&running, READY).1, "Restoring");
        let done = pod("state: {terminated: {exitCode: 0}}");
        assert_eq!(said(&status(&cluster, &done), kind::RESTORED).1, "NotStarted");
        let serves = status(&cluster, fixture::READY);
        assert_eq!(said(&serves, kind::RESTORED).0, "True");
        // The next start finds a complete restore.
        cluster.status = Some(serves);
        let again = status(&cluster, &pod("state: {running: {}}"));
        assert_eq!(said(&again, kind::RESTORED).0, "True");
        assert!(find(&status(&fixture::cluster("{}"), "{}").conditions, kind::RESTORED).is_none());
    }

    #[test]
    fn a_restore_that_fails_says_why_and_what_to_do() {
        let cluster = fixture::cluster(SPEC);
        for (code, reason, advice) in [
            (1, "RestoreFailed", "tries again"),
            (2, "RestoreRefused", "spec.objectStorage"),
            (4, "VolumeNotEmpty", "another name"),
            (8, "BucketIncomplete", "withoutCatalog"),
        ] {
            let ended = format!("{{terminated: {{exitCode: {code}, message: 'the cause'}}}}");
            for state in [
                format!("state: {ended}"),
                format!("state: {{waiting: {{reason: CrashLoopBackOff}}}}, lastState: {ended}"),
            ] {
                let status = status(&cluster, &pod(&state));
                let (state, found, message) = said(&status, kind::RESTORED);
                assert_eq!((state.as_str(), found.as_str()), ("False", reason));
                for part in ["the cause", advice] {
                    assert!(message.contains(part), "{part} is not in {message}");
                }
                assert_eq!(said(&status, READY).1, reason);
            }
        }
    }

    #[test]
    fn a_volume_that_was_lost_is_not_restored_in_silence() {
        let cluster = fixture::cluster(SPEC);
        let lost = pod("state: {terminated: {exitCode: 7, message: empty}}");
        let status = status(&cluster, &lost);
        let (state, _, message) = said(&status, kind::DATA_LOST);
        assert_eq!(state, "True");
        assert!(message.contains("ropewalk.dev/accept-data-loss=claim-0"), "{message}");
        assert_eq!(said(&status, READY).1, "DataLost");
    }
}
