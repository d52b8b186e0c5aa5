//! What people are told, on pods as the kubelet reports them.

use k8s_openapi::jiff::Timestamp;
use ropewalk_operator_api::condition;

use super::super::{Answer, fixture};
use super::trouble::Concern;
use super::*;

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).expect("a time"))
}

struct Case {
    cluster: BrokerCluster,
    observed: Observed,
    problems: Vec<Problem>,
    decisions: Vec<(i32, Decision)>,
}

impl Case {
    fn new(spec: &str, pod_status: &str) -> Self {
        let mut observed = fixture::observed_claim(0, "20Gi", true);
        observed.pods.insert(0, fixture::pod(pod_status));
        let cluster = fixture::cluster(spec);
        Self { cluster, observed, problems: Vec::new(), decisions: Vec::new() }
    }

    fn status(&self, now: i64) -> BrokerClusterStatus {
        let valid = fixture::valid(&self.cluster, &self.observed);
        Facts {
            cluster: &self.cluster,
            valid: &valid,
            observed: &self.observed,
            decisions: &self.decisions,
            problems: &self.problems,
            restarted: &[],
            now: &at(now),
        }
        .status()
    }

    fn said(&self, kind: &str) -> (String, String, String) {
        let status = self.status(1000);
        let condition = condition::find(&status.conditions, kind).expect("the condition").clone();
        (condition.status, condition.reason, condition.message)
    }
}

#[test]
fn k1_a_converged_cluster_has_the_same_status_at_any_time() {
    let mut case = Case::new("{}", fixture::READY);
    let answer = Answer { ready: true, version: "0.1.0".into(), ..Answer::default() };
    case.observed.answers.insert(0, answer);
    let first = case.status(1000);
    assert!(condition::is_true(&first.conditions, READY));
    assert_eq!(first.brokers_ready.as_deref(), Some("1/1"));
    case.cluster.status = Some(first.clone());
    assert_eq!(case.status(2000), first);
}

#[test]
fn a_pod_that_finds_no_node_is_unschedulable() {
    let pod =
        "{conditions: [{type: PodScheduled, status: 'False', message: 0/3 nodes are available}]}";
    let (status, reason, message) = Case::new("{}", pod).said(READY);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Unschedulable"));
    assert!(message.contains("0/3 nodes") && message.contains("spec.resources"), "{message}");
}

#[test]
fn an_image_that_is_not_there_is_said_to_be() {
    let pod =
        "{containerStatuses: [{name: broker, image: i, imageID: '', ready: false, restartCount: 0,
        state: {waiting: {reason: ImagePullBackOff, message: not found}}}]}";
    assert_eq!(Case::new("{}", pod).said(READY).1, "ImageNotFound");
}

#[test]
fn an_empty_volume_where_data_was_is_data_lost() {
    let pod =
        "{containerStatuses: [{name: broker, image: i, imageID: '', ready: false, restartCount: 3,
        state: {waiting: {reason: CrashLoopBackOff}},
        lastState: {terminated: {exitCode: 7, message: the data directory is empty}}}]}";
    let case = Case::new("{}", pod);
    assert_eq!(case.said(READY).1, "DataLost");
    let (status, _, message) = case.said(kind::DATA_LOST);
    assert_eq!(status, "True");
    assert!(message.contains("ropewalk.dev/accept-data-loss=claim-0"), "{message}");
    assert!(case.status(1000).brokers[0].formatted, "it stays formatted");
}

#[test]
fn a_broker_that_ends_again_and_again_says_why() {
    let pod =
        "{containerStatuses: [{name: broker, image: i, imageID: '', ready: false, restartCount: 3,
        state: {waiting: {reason: CrashLoopBackOff}},
        lastState: {terminated: {exitCode: 4, message: 'num.partitions: 0 is too small'}}}]}";
    let (_, reason, message) = Case::new("{}", pod).said(READY);
    assert_eq!(reason, "CrashLooping");
    assert!(message.contains("exit code 4: num.partitions"), "{message}");
}

#[test]
fn a_storage_class_that_is_not_there_is_named() {
    // The pod finds no node, but only because its volume is missing.
    let pod = "{conditions: [{type: PodScheduled, status: 'False', message: unbound claims}]}";
    let mut case = Case::new("{storage: {storageClassName: fast}}", pod);
    let claim = case.observed.claims.get_mut(&0).expect("a claim");
    claim.status.as_mut().expect("a status").phase = Some("Pending".into());
    let warning = r#"storageclass.storage.k8s.io "fast" not found"#;
    case.observed.warnings.insert("data-prod-broker-0".into(), warning.into());
    assert_eq!(case.said(READY).1, "StorageClassNotFound");
}

#[test]
fn a_quota_that_is_used_up_is_named() {
    let mut case = Case::new("{}", "{}");
    case.observed.pods.clear();
    let warning = "pods is forbidden: exceeded quota: small";
    case.observed.warnings.insert("prod-broker-0".into(), warning.into());
    assert_eq!(case.said(READY).1, "QuotaExceeded");
}

#[test]
fn a_name_that_is_taken_stands_above_everything() {
    let mut case = Case::new("{}", fixture::READY);
    case.problems.push(Problem {
        reason: "NameCollision",
        message: "taken".into(),
        concerns: Concern::Existence,
    });
    assert_eq!(case.said(READY).1, "NameCollision");
}

#[test]
fn a_volume_that_cannot_grow_does_not_make_the_broker_unready() {
    let mut case = Case::new("{}", fixture::READY);
    case.problems.push(Problem {
        reason: "ResizeRefused",
        message: "the class does not allow it".into(),
        concerns: Concern::Storage,
    });
    assert_eq!(case.said(READY).0, "True");
    assert_eq!(case.said(kind::STORAGE_RESIZED).1, "ResizeRefused");
    assert_eq!(case.said(kind::PROGRESSING).1, "ResizeRefused");
}

#[test]
fn a_hibernated_cluster_says_how_to_wake_it() {
    let mut case = Case::new("{runState: Hibernated}", "{}");
    case.observed.pods.clear();
    assert_eq!(case.said(READY).1, "Hibernated");
    assert_eq!(case.said(kind::PROGRESSING).1, "Settled");
}

#[test]
fn k5_a_newer_default_is_shown() {
    let mut case = Case::new("{}", fixture::READY);
    case.cluster.status = Some(fixture::status(
        "{replicas: 1, readyReplicas: 1, brokers: [{id: 0, ready: true, formatted: true, image: 'ghcr.io/ropewalk/ropewalk-broker:0.0.9'}]}",
    ));
    let (status, reason, message) = case.said(kind::UPGRADE_AVAILABLE);
    assert_eq!((status.as_str(), reason.as_str()), ("True", "NewRelease"));
    assert!(message.contains(":0.0.9") && message.contains(":0.1.0"), "{message}");
}

#[test]
fn a_supervised_restart_says_how_to_approve_it() {
    let mut case = Case::new("{}", fixture::READY);
    let cause = Cause::Approval("abc.def".into());
    case.decisions = vec![(0, Decision::Wait { reason: "the image changes".into(), cause })];
    let (status, reason, message) = case.said(kind::RESTART_PENDING);
    assert_eq!((status.as_str(), reason.as_str()), ("True", "WaitingForApproval"));
    assert!(message.contains("ropewalk.dev/approve-restart=abc.def"), "{message}");
}
