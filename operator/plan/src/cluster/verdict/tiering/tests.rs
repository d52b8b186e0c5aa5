//! The condition `TieringHealthy`, for answers as brokers give them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use ropewalk_operator_api::{BrokerCluster, BrokerClusterStatus, condition};
use serde_json::{Value, json};

use super::super::super::{Answer, Observed, fixture};
use super::*;

const SPEC: &str = "{objectStorage: {bucket: older, prefix: prod}}";

struct Case {
    cluster: BrokerCluster,
    observed: Observed,
}

impl Case {
    fn new(spec: &str, answer: &Value) -> Self {
        let mut observed = fixture::observed_claim(0, "20Gi", true);
        observed.pods.insert(0, fixture::pod(fixture::READY));
        let answer: Answer = serde_json::from_value(answer.clone()).expect("an answer");
        observed.answers.insert(0, answer);
        Self { cluster: fixture::cluster(spec), observed }
    }

    fn of_tier(tier: &Value) -> Self {
        Self::new(SPEC, &json!({ "ready": true, "tier": tier }))
    }

    fn status(&self) -> BrokerClusterStatus {
        let valid = fixture::valid(&self.cluster, &self.observed);
        let now = Time(Timestamp::from_second(1000).expect("a time"));
        Facts {
            valid: &valid,
            observed: &self.observed,
            decisions: &[],
            problems: &[],
            restarted: &[],
            now: &now,
        }
        .status()
    }

    fn said(&self) -> Option<(String, String, String)> {
        let status = self.status();
        let found = condition::find(&status.conditions, kind::TIERING_HEALTHY)?.clone();
        Some((found.status, found.reason, found.message))
    }

    fn reason(&self) -> (String, String) {
        let (status, reason, _) = self.said().expect("the condition");
        (status, reason)
    }
}

fn working() -> Value {
    json!({
        "url": "s3://older/prod", "claimed": true, "failure": null,
        "notUploadedSeconds": 5, "uploadMaxAgeSeconds": 3600,
    })
}

fn failing(kind: &str, message: &str) -> Value {
    let failure = json!({"kind": kind, "operation": "put", "message": message});
    let mut tier = working();
    tier["failure"] = failure;
    tier
}

fn is(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

#[test]
fn a_bucket_that_works_is_healthy_and_recorded() {
    let case = Case::of_tier(&working());
    assert_eq!(case.reason(), is("True", "BucketWorks"));
    let status = case.status();
    assert_eq!(status.bucket.as_deref(), Some("s3://older/prod"));
    assert_eq!(status.data_loss_window_seconds, Some(3660));
}

#[test]
fn a_failing_bucket_is_named_with_the_operation_and_the_remedy() {
    let case = Case::of_tier(&failing("denied", "s3://older/prod refused to put a: 403"));
    let (status, reason, message) = case.said().expect("the condition");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "AccessDenied"));
    for part in ["broker 0 cannot put objects in s3://older/prod", "spec.objectStorage.cred", "403"]
    {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    let alarm = case.status().conditions;
    let alarm = condition::find(&alarm, kind::TIERING_HEALTHY).expect("the condition");
    assert!(super::super::is_warning(alarm));
    for (kind, reason) in [
        ("unavailable", "BucketUnavailable"),
        ("unsuitable", "BucketUnsuitable"),
        ("unready", "BucketUnready"),
        ("other_cluster", "OtherCluster"),
        ("fenced", "TakenOver"),
        ("settings", "InvalidSettings"),
        ("a kind of a later release", "BucketFailing"),
    ] {
        assert_eq!(Case::of_tier(&failing(kind, "x")).reason(), is("False", reason), "{kind}");
    }
}

#[test]
fn k1_other_words_for_the_same_failure_change_nothing() {
    let mut case = Case::of_tier(&failing("unavailable", "no answer for object 1"));
    let first = case.status();
    case.cluster.status = Some(first.clone());
    let next = Case::of_tier(&failing("unavailable", "no answer for object 2"));
    case.observed = next.observed;
    assert_eq!(case.status(), first);
    case.observed = Case::of_tier(&failing("denied", "no answer for object 2")).observed;
    assert_ne!(case.status(), first, "another kind");
    case.observed = Case::of_tier(&working()).observed;
    assert_eq!(case.reason(), is("True", "BucketWorks"));
}

#[test]
fn k1_a_window_is_reported_in_steps() {
    let window = |waited: i64| {
        let mut tier = working();
        tier["notUploadedSeconds"] = json!(waited);
        Case::of_tier(&tier).status().data_loss_window_seconds
    };
    assert_eq!((window(0), window(3660)), (Some(3660), Some(3660)), "as usual");
    assert_eq!((window(3661), window(7200), window(7201)), (Some(7200), Some(7200), Some(14_400)));
}

#[test]
fn what_cannot_be_read_is_unknown() {
    let mut case = Case::of_tier(&working());
    case.observed.answers.clear();
    assert_eq!(case.reason(), is("Unknown", "NotAnswered"));
    assert_eq!(case.status().data_loss_window_seconds, None);
    let case = Case::new(SPEC, &json!({"ready": true}));
    assert_eq!(case.reason(), is("Unknown", "NotReported"));
    let mut unclaimed = working();
    unclaimed["claimed"] = json!(false);
    let case = Case::of_tier(&unclaimed);
    assert_eq!(case.reason(), is("Unknown", "NotReported"));
    assert_eq!(case.status().bucket, None);
    let waiting = json!({"ready": true, "settings": {"needsRestart": ["ropewalk.tier.url"]}});
    assert_eq!(Case::new(SPEC, &waiting).reason(), is("Unknown", "RestartNeeded"));
}

#[test]
fn a_release_that_reports_the_condition_alone_is_read() {
    let failing = json!({"conditions": [{"kind": "tier_failing", "message": "m", "count": 1}]});
    assert_eq!(Case::new(SPEC, &failing).reason(), is("False", "BucketFailing"));
    let (status, reason, message) = Case::new("{}", &failing).said().expect("the condition");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "NoObjectStorage"));
    assert!(message.contains("spec.objectStorage"), "{message}");
    assert_eq!(Case::new("{}", &json!({"ready": true})).said(), None, "no bucket is needed");
}

#[test]
fn a_missing_secret_is_named_before_a_pod_waits_for_it() {
    let mut case = Case::of_tier(&working());
    case.observed.missing_input = Some("there is no Secret keys".to_owned());
    let (status, reason, message) = case.said().expect("the condition");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "SecretMissing"));
    assert!(message.starts_with("there is no Secret keys, which"), "{message}");
}

#[test]
fn a_time_is_rounded_up_to_a_step() {
    for (seconds, expected) in [(0, 60), (60, 60), (61, 120), (86_400, DAY), (86_401, 2 * DAY)] {
        assert_eq!(step(seconds), expected);
    }
    assert!(STEPS.is_sorted());
}
