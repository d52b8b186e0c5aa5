//! Conditions and status, for pods as the kubelet reports them.

use k8s_openapi::jiff::Timestamp;
use ropewalk_operator_api::{BrokerCluster, condition};

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

/// A container that runs, and a broker in it that serves or not.
const RUNS: &str = "{podIP: 10.0.0.1, conditions: [{type: Ready, status: 'True'}], containerStatuses: [{name: broker, image: i, imageID: '', ready: true, restartCount: 0, state: {running: {}}}]}";

fn with_condition(kind: &str, message: &str) -> Case {
    let mut case = Case::new("{}", RUNS);
    let conditions = serde_json::json!([{"kind": kind, "message": message, "count": 3}]);
    let answer = serde_json::json!({"ready": true, "conditions": conditions});
    case.observed.answers.insert(0, serde_json::from_value(answer).expect("an answer"));
    case
}

#[test]
fn damage_and_a_full_volume_are_said_and_take_nothing_away() {
    for (of, condition, reason) in [
        ("damaged_shard", kind::DEGRADED, "ShardsDamaged"),
        ("damaged_partitions", kind::DEGRADED, "PartitionsDamaged"),
        ("storage_full", kind::STORAGE_FULL, "VolumeFull"),
    ] {
        let case = with_condition(of, "x");
        let (status, said, message) = case.said(condition);
        assert_eq!((status.as_str(), said.as_str()), ("True", reason), "{message}");
        assert_eq!(case.said(READY).0, "True");
        let words = with_condition(of, "other words, and another order").said(condition).2;
        assert_eq!(words, message, "k1: the broker's words change, the condition does not");
    }
    for of in ["log_at_limit", "something_new"] {
        let case = with_condition(of, "x");
        for condition in [kind::DEGRADED, kind::STORAGE_FULL] {
            assert_eq!(case.said(condition).0, "False", "{of}");
        }
    }
}

#[test]
fn a_claim_that_is_deleted_under_a_broker_is_an_alarm_with_the_way_out() {
    let mut case = Case::new("{}", RUNS);
    assert_eq!(case.said(kind::DATA_AT_RISK).0, "False");
    let claim = case.observed.claims.get_mut(&0).expect("a claim");
    claim.metadata.deletion_timestamp = Some(at(10));
    claim.spec.as_mut().expect("a spec").volume_name = Some("pv-7".into());
    let (status, reason, message) = case.said(kind::DATA_AT_RISK);
    assert_eq!((status.as_str(), reason.as_str()), ("True", "VolumeDeleting"));
    assert!(message.contains("kubectl patch pv pv-7") && message.contains("Retain"), "{message}");
    assert_eq!(case.said(READY).0, "True", "it serves");
    let status = case.status(1000);
    let alarm = condition::find(&status.conditions, kind::DATA_AT_RISK).expect("the condition");
    assert!(is_warning(alarm));
    // Without the pod it is also what keeps the broker from serving.
    case.observed.pods.clear();
    assert_eq!(case.said(READY).1, "VolumeDeleting");
}

#[test]
fn an_admin_api_that_cannot_be_reached_is_an_alarm_and_a_network_policy_may_be_why() {
    let mut case = Case::new("{}", RUNS);
    case.observed.unanswered.insert(0, "no answer within 5 s".into());
    // The first time, the pod may have become ready just before.
    assert_eq!(case.said(kind::ADMIN_REACHABLE).1, "AnswerMissing");
    case.cluster.status = Some(case.status(990));
    let (status, reason, message) = case.said(kind::ADMIN_REACHABLE);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "AdminUnreachable"));
    for words in ["prod-broker-0.shop.svc:9644", "no answer within 5 s", "NetworkPolicy"] {
        assert!(message.contains(words), "{message}");
    }
    case.observed.answers.insert(0, Answer { ready: true, ..Answer::default() });
    assert_eq!(case.said(kind::ADMIN_REACHABLE).0, "True");
    // A single late answer is no outage.
    case.cluster.status = Some(case.status(1000));
    case.observed.answers.clear();
    assert_eq!(case.said(kind::ADMIN_REACHABLE).0, "Unknown");
    case.cluster.status = Some(case.status(1010));
    assert_eq!(case.said(kind::ADMIN_REACHABLE).0, "False");
    let starting = Case::new("{}", "{}");
    assert_eq!(starting.said(kind::ADMIN_REACHABLE).0, "Unknown");
}

#[test]
fn a_pod_whose_node_is_lost_names_the_node_and_the_taint() {
    let mut case = Case::new("{}", RUNS);
    let pod = case.observed.pods.get_mut(&0).expect("a pod");
    pod.metadata.deletion_timestamp = Some(at(1000));
    let spec = serde_json::json!({"containers": [], "nodeName": "node-b"});
    pod.spec = serde_json::from_value(spec).expect("a spec");
    case.observed.at_second = 1005;
    assert_eq!(case.said(READY).1, "Stopping");
    case.observed.at_second = 1030;
    let (_, reason, message) = case.said(READY);
    assert_eq!(reason, "NodeUnreachable");
    assert!(message.contains("node-b") && message.contains("out-of-service"), "{message}");
}

#[test]
fn a_pod_that_a_limit_or_a_policy_refuses_says_which_setting_helps() {
    for (warning, setting) in [
        (
            "create Pod prod-broker-0-0 in StatefulSet prod-broker-0 failed error: Pod \"prod-broker-0-0\" is invalid: spec.containers[0].resources.requests: Invalid value: \"256Mi\": must be less than or equal to memory limit of 128Mi",
            "spec.resources",
        ),
        (
            "pods \"prod-broker-0-0\" is forbidden: failed quota: q: must specify limits.memory for: broker",
            "spec.resources",
        ),
        (
            "pods \"prod-broker-0-\" is forbidden: unable to validate against any security context constraint: .spec.securityContext.fsGroup: Invalid value: []int64{65532}",
            "spec.podTemplate.securityContext",
        ),
    ] {
        let mut case = Case::new("{}", "{}");
        case.observed.pods.clear();
        case.observed.warnings.insert("prod-broker-0".into(), warning.into());
        let (status, reason, message) = case.said(READY);
        assert_eq!((status.as_str(), reason.as_str()), ("False", "PodNotCreated"));
        assert!(message.contains(warning) && message.contains(setting), "{message}");
    }
}

#[test]
fn a_claim_that_waits_for_its_pod_is_no_trouble_and_the_schedulers_words_are_said() {
    let pod = "{conditions: [{type: PodScheduled, status: 'False', message: '0/3 nodes are available: 3 node(s) had volume node affinity conflict'}]}";
    let mut case = Case::new("{}", pod);
    let claim = case.observed.claims.get_mut(&0).expect("a claim");
    claim.status.as_mut().expect("a status").phase = Some("Pending".into());
    let (_, reason, message) = case.said(READY);
    assert_eq!(reason, "Unschedulable");
    assert!(message.contains("volume node affinity conflict"), "{message}");
    let mut waits = Case::new("{}", "{}");
    let claim = waits.observed.claims.get_mut(&0).expect("a claim");
    claim.status.as_mut().expect("a status").phase = Some("Pending".into());
    assert_eq!(waits.said(READY).1, "Starting");
}

#[test]
fn a_file_system_that_has_not_grown_yet_is_said_to_wait() {
    let mut case = Case::new("{storage: {size: 30Gi}}", RUNS);
    let claim = case.observed.claims.get_mut(&0).expect("a claim");
    let text = "{phase: Bound, capacity: {storage: 20Gi}, conditions: [{type: FileSystemResizePending, status: 'True'}]}";
    claim.status = serde_yaml_ng::from_str(text).expect("a status");
    let spec = "{resources: {requests: {storage: 30Gi}}}";
    claim.spec = serde_yaml_ng::from_str(spec).expect("a spec");
    let (status, reason, message) = case.said(kind::STORAGE_RESIZED);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "FileSystemResizePending"));
    assert!(message.contains("restarted once"), "{message}");
}

#[test]
fn a_volume_that_cannot_grow_says_how_far_the_size_can_be_taken_back() {
    for (failure, why) in [
        (
            "conditions: [{type: ControllerResizeError, status: 'True', message: no space}]",
            "no space",
        ),
        ("allocatedResourceStatuses: {storage: NodeResizeInfeasible}", "NodeResizeInfeasible"),
    ] {
        let mut case = Case::new("{storage: {size: 20Ti}}", RUNS);
        let claim = case.observed.claims.get_mut(&0).expect("a claim");
        let text = format!("{{phase: Bound, capacity: {{storage: 20Gi}}, {failure}}}");
        claim.status = serde_yaml_ng::from_str(&text).expect("a status");
        let spec = "{resources: {requests: {storage: 20Ti}}}";
        claim.spec = serde_yaml_ng::from_str(spec).expect("a spec");
        let (status, reason, message) = case.said(kind::STORAGE_RESIZED);
        assert_eq!((status.as_str(), reason.as_str()), ("False", "ResizeFailed"), "{message}");
        assert!(message.contains(why) && message.contains("not below the 20Gi"), "{message}");
        assert_eq!(case.status(1000).storage_capacity.as_deref(), Some("20Gi"));
    }
}

#[test]
fn settings_that_nobody_confirmed_are_not_said_to_be_applied() {
    let mut case = Case::new("{}", RUNS);
    assert_eq!(case.said(kind::CONFIGURATION_APPLIED).0, "True");
    case.decisions = vec![(0, Decision::Unconfirmed { reason: "no answer".into() })];
    assert_eq!(case.said(kind::CONFIGURATION_APPLIED).0, "Unknown");
    assert_eq!(case.said(kind::PROGRESSING).0, "True", "it is checked again soon");
    let mut answer = Answer { ready: true, ..Answer::default() };
    answer.settings.needs_restart = vec!["num.partitions".into()];
    case.observed.answers.insert(0, answer);
    case.decisions = vec![(0, Decision::Restart { reason: "settings".into() })];
    assert_eq!(case.said(kind::CONFIGURATION_APPLIED).1, "RestartNeeded");
}

#[test]
fn an_open_data_directory_was_formatted_also_before_the_broker_is_ready() {
    let mut case = Case::new("{}", "{}");
    case.observed.claims.clear();
    assert!(!case.status(1000).brokers[0].formatted);
    let answer = Answer { cluster_id: "c".into(), ..Answer::default() };
    case.observed.answers.insert(0, answer);
    assert!(case.status(1000).brokers[0].formatted);
}

#[test]
fn an_accepted_loss_is_recorded_and_the_next_one_needs_other_words() {
    let lost =
        "{containerStatuses: [{name: broker, image: i, imageID: '', ready: false, restartCount: 3,
        state: {waiting: {reason: CrashLoopBackOff}},
        lastState: {terminated: {exitCode: 7, message: the data directory is empty}}}]}";
    let accepted = |status: &str| {
        let mut case = Case::new("{}", status);
        let annotation = (names::ANNOTATION_ACCEPT_DATA_LOSS.into(), "claim-0".into());
        case.cluster.metadata.annotations = Some([annotation].into());
        case
    };
    assert_eq!(accepted(lost).status(1000).brokers[0].accepted_loss, None, "not used yet");
    let mut case = accepted(RUNS);
    let status = case.status(1000);
    assert_eq!(status.brokers[0].accepted_loss.as_deref(), Some("claim-0"));
    case.cluster.status = Some(status);
    case.observed.pods.insert(0, fixture::pod(lost));
    let message = case.said(kind::DATA_LOST).2;
    assert!(message.contains("ropewalk.dev/accept-data-loss=claim-0.2"), "{message}");
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
