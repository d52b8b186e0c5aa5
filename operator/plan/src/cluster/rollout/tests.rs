//! Restart decisions on observed clusters.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use super::super::{Answer, children, fixture};
use super::*;

/// The cluster after `spec` was rolled out, brokers ready.
fn running(spec: &str) -> Observed {
    let mut observed = fixture::observed_claim(0, "20Gi", true);
    let cluster = fixture::cluster(spec);
    let valid = fixture::valid(&cluster, &observed);
    let set = children::children(&valid).stateful_sets.remove(&0).expect("a set");
    observed.stateful_sets.insert(0, set);
    observed.pods.insert(0, fixture::pod(fixture::READY));
    observed.answers.insert(0, Answer { ready: true, ..Answer::default() });
    seen_by_kubernetes(&mut observed);
    observed
}

/// The pod is of the newest template, as far as Kubernetes knows.
fn seen_by_kubernetes(observed: &mut Observed) {
    let set = observed.stateful_sets.get_mut(&0).expect("a set");
    set.metadata.generation = Some(1);
    let status =
        serde_json::json!({"replicas": 1, "observedGeneration": 1, "updateRevision": "r1"});
    set.status = Some(serde_json::from_value(status).expect("a status"));
    let pod = observed.pods.get_mut(&0).expect("a pod");
    pod.labels_mut().insert("controller-revision-hash".into(), "r1".into());
}

/// The broker has received the settings of this spec.
fn send_settings(observed: &mut Observed, spec: &str) {
    let cluster = fixture::cluster(spec);
    let valid = fixture::valid(&cluster, observed);
    let hash = properties::hash(&properties::settings(&valid, &valid.brokers[0]));
    let answer = observed.answers.get_mut(&0).expect("an answer");
    answer.settings.last_hash = Some(hash);
}

fn decision(spec: &str, observed: &Observed) -> Decision {
    let cluster = fixture::cluster(spec);
    let valid = fixture::valid(&cluster, observed);
    decide(&valid, observed, &[]).remove(0).1
}

#[test]
fn k1_what_runs_as_it_should_is_left_alone() {
    assert_eq!(decision("{}", &running("{}")), Decision::Settled);
}

#[test]
fn another_image_restarts_the_broker() {
    let decision = decision("{version: 0.2.0}", &running("{}"));
    let Decision::Restart { reason } = decision else { panic!("{decision:?}") };
    assert!(reason.contains("to ghcr.io/ropewalk/ropewalk-broker:0.2.0"), "{reason}");
}

#[test]
fn the_restart_annotation_alone_restarts_the_broker_once() {
    let with_restart = |value: &str, observed: &Observed| {
        let mut cluster = fixture::cluster("{}");
        let annotation = (names::ANNOTATION_RESTART.into(), value.to_owned());
        cluster.metadata.annotations = Some([annotation].into());
        let valid = fixture::valid(&cluster, observed);
        let decision = decide(&valid, observed, &[]).remove(0).1;
        (decision, children::children(&valid).stateful_sets.remove(&0).expect("a set"))
    };
    let mut observed = running("{}");
    let (decision, set) = with_restart("1", &observed);
    assert!(matches!(decision, Decision::Restart { .. }), "{decision:?}");
    // The pod of the new template runs.
    observed.stateful_sets.insert(0, set);
    seen_by_kubernetes(&mut observed);
    assert_eq!(with_restart("1", &observed).0, Decision::Settled);
    let (decision, _) = with_restart("2", &observed);
    assert!(matches!(decision, Decision::Restart { .. }), "{decision:?}");
}

#[test]
fn k5_a_restart_that_an_older_operator_noted_as_done_waits() {
    let mut cluster = fixture::cluster("{}");
    let annotation = (names::ANNOTATION_RESTART.into(), "1".to_owned());
    cluster.metadata.annotations = Some([annotation].into());
    let mut observed = running("{}");
    let valid = fixture::valid(&cluster, &observed);
    let set = observed.stateful_sets.get_mut(&0).expect("a set");
    set.annotations_mut().insert(names::ANNOTATION_INTENT.into(), valid.intent.to_string());
    // The intent of the template was not recorded.
    set.annotations_mut().remove(names::ANNOTATION_TEMPLATE_INTENT);
    let decision = decide(&valid, &observed, &[]).remove(0).1;
    assert!(matches!(decision, Decision::Offer { .. }), "{decision:?}");
}

#[test]
fn an_image_that_is_no_longer_chosen_is_let_go() {
    let observed = running("{image: {tag: none-such}}");
    let decision = decision("{}", &observed);
    let Decision::Restart { reason } = decision else { panic!("{decision:?}") };
    assert!(reason.ends_with("to ghcr.io/ropewalk/ropewalk-broker:0.1.0"), "{reason}");
}

#[test]
fn settings_that_took_effect_at_once_restart_nothing() {
    let spec = "{config: {log.retention.ms: '1'}}";
    let mut observed = running("{}");
    send_settings(&mut observed, spec);
    assert_eq!(decision(spec, &observed), Decision::Record);
}

#[test]
fn settings_that_wait_for_a_restart_get_one() {
    let mut observed = running("{}");
    let answer = observed.answers.get_mut(&0).expect("an answer");
    answer.settings.needs_restart = vec!["num.partitions".into(), FORMAT_KEY.into()];
    let decision = decision("{config: {num.partitions: '3'}}", &observed);
    let Decision::Restart { reason } = decision else { panic!("{decision:?}") };
    assert!(reason.ends_with("restart: num.partitions"), "{reason}");
}

#[test]
fn k5_what_only_the_operator_would_do_differently_waits() {
    let mut observed = running("{}");
    // As an older operator would have left it: another template, the same intent.
    let set = observed.stateful_sets.get_mut(&0).expect("a set");
    set.annotations_mut().insert(names::ANNOTATION_TEMPLATE.into(), "older".into());
    assert!(matches!(decision("{}", &observed), Decision::Offer { .. }));
    // And so do settings that a newer operator renders differently.
    let mut observed = running("{}");
    let answer = observed.answers.get_mut(&0).expect("an answer");
    answer.settings.needs_restart = vec!["auto.create.topics.enable".into()];
    assert!(matches!(decision("{}", &observed), Decision::Offer { .. }));
}

#[test]
fn k5_settings_that_need_no_restart_do_not_bring_the_operators_own_changes_in() {
    let mut observed = running("{}");
    let set = observed.stateful_sets.get_mut(&0).expect("a set");
    set.annotations_mut().insert(names::ANNOTATION_TEMPLATE.into(), "older".into());
    let spec = "{config: {log.retention.ms: '1'}}";
    send_settings(&mut observed, spec);
    assert_eq!(decision(spec, &observed), Decision::Record);
}

#[test]
fn k5_an_edit_that_took_effect_at_once_does_not_bring_the_operators_own_settings_in() {
    let spec = "{config: {log.retention.ms: '1'}}";
    let mut observed = running("{}");
    send_settings(&mut observed, spec);
    let waits = |observed: &mut Observed, keys: &[&str]| {
        let answer = observed.answers.get_mut(&0).expect("an answer");
        answer.settings.needs_restart = keys.iter().map(|key| (*key).to_owned()).collect();
    };
    // A newer operator renders them differently.
    waits(&mut observed, &["auto.create.topics.enable", "ropewalk.admin.listener"]);
    assert_eq!(decision(spec, &observed), Decision::Record);
    assert!(matches!(decision("{}", &observed), Decision::Offer { .. }), "they are shown");
    waits(&mut observed, &["ropewalk.admin.listener", "num.partitions"]);
    let asked = decision("{config: {num.partitions: '3'}}", &observed);
    assert!(matches!(asked, Decision::Restart { .. }), "{asked:?}");
    waits(&mut observed, &["auto.create.topics.enable"]);
    let asked = decision("{config: {auto.create.topics.enable: 'true'}}", &observed);
    assert!(matches!(asked, Decision::Restart { .. }), "the user's by now: {asked:?}");
}

#[test]
fn a_supervised_restart_waits_for_its_approval() {
    let spec = "{version: 0.2.0, rollout: {strategy: Supervised}}";
    let observed = running("{rollout: {strategy: Supervised}}");
    let Decision::Wait { cause: Cause::Approval(token), .. } = decision(spec, &observed) else {
        panic!("it waits")
    };
    let approve = |value: &str| {
        let mut cluster = fixture::cluster(spec);
        let annotation = (names::ANNOTATION_APPROVE_RESTART.into(), value.to_owned());
        cluster.metadata.annotations = Some([annotation].into());
        let valid = fixture::valid(&cluster, &observed);
        decide(&valid, &observed, &[]).remove(0).1
    };
    assert!(matches!(approve(&token), Decision::Restart { .. }));
    assert!(matches!(approve("an older one"), Decision::Wait { .. }));
}

#[test]
fn k2_no_restart_while_another_broker_is_not_ready() {
    let cluster = fixture::cluster("{version: 0.2.0}");
    let mut observed = running("{}");
    let mut valid = fixture::valid(&cluster, &observed);
    let second = Broker { id: 1, ..valid.brokers[0].clone() };
    valid.brokers.push(second);
    let mut set = observed.stateful_sets[&0].clone();
    set.annotations_mut().insert(names::ANNOTATION_TEMPLATE.into(), "older".into());
    observed.stateful_sets.insert(1, set);
    // Broker 1 has no pod: it may restart, broker 0 waits for it.
    let decisions = decide(&valid, &observed, &[]);
    assert!(matches!(&decisions[0].1, Decision::Wait { cause: Cause::OtherBroker(1), .. }));
    assert!(matches!(&decisions[1].1, Decision::Restart { .. }));
    // Both ready: one at a time.
    observed.pods.insert(1, fixture::pod(fixture::READY));
    let decisions = decide(&valid, &observed, &[]);
    assert!(matches!(&decisions[0].1, Decision::Restart { .. }));
    assert!(matches!(&decisions[1].1, Decision::Wait { cause: Cause::OtherBroker(0), .. }));
}

#[test]
fn settings_are_recorded_as_done_only_by_a_broker_that_received_them() {
    let spec = "{config: {num.partitions: '3'}}";
    let mut observed = running("{}");
    let undecided = |observed: &Observed| {
        let decision = decision(spec, observed);
        assert!(matches!(decision, Decision::Unconfirmed { .. }), "{decision:?}");
    };
    // It answers and reports the settings before: those that it received while it ran, or at its
    // start.
    undecided(&observed);
    send_settings(&mut observed, "{}");
    undecided(&observed);
    // It does not answer at all.
    let answer = observed.answers.remove(&0).expect("an answer");
    undecided(&observed);
    // A broker that started with exactly these settings needs no restart.
    observed.answers.insert(0, answer);
    send_settings(&mut observed, spec);
    let settings = &mut observed.answers.get_mut(&0).expect("an answer").settings;
    settings.started_hash = settings.last_hash.take();
    assert_eq!(decision(spec, &observed), Decision::Record);
    // An older release does not report what it received; the operator has stored it.
    let settings = &mut observed.answers.get_mut(&0).expect("an answer").settings;
    settings.sent_hash = settings.started_hash.take();
    assert_eq!(decision(spec, &observed), Decision::Record);
}

#[test]
fn a_template_is_recorded_as_done_only_when_kubernetes_has_seen_it_and_the_pod_is_of_it() {
    let spec = "{version: 0.2.0}";
    let mut observed = running(spec);
    let set = observed.stateful_sets.get_mut(&0).expect("a set");
    let old = "older.intent".to_owned();
    set.annotations_mut().insert(names::ANNOTATION_INTENT.into(), old);
    send_settings(&mut observed, spec);
    assert_eq!(decision(spec, &observed), Decision::Record);
    // The template has just been written, and the pod of before is still there.
    observed.stateful_sets.get_mut(&0).expect("a set").metadata.generation = Some(2);
    assert!(matches!(decision(spec, &observed), Decision::Unconfirmed { .. }));
    observed.pods.remove(&0);
    assert!(matches!(decision(spec, &observed), Decision::Unconfirmed { .. }));
}

/// Changes the claim of broker 0.
fn claim(observed: &mut Observed, change: impl FnOnce(&mut PersistentVolumeClaim)) {
    change(observed.claims.get_mut(&0).expect("a claim"));
}

#[test]
fn k4_no_restart_and_no_rollout_while_the_volume_would_be_lost_with_the_pod() {
    let waits = |observed: &Observed, spec: &str| {
        let decision = decision(spec, observed);
        let Decision::Wait { cause: Cause::Volume(threat, words), .. } = decision else {
            panic!("{decision:?}")
        };
        (threat, words)
    };
    let mut observed = running("{}");
    claim(&mut observed, |claim| {
        let at = k8s_openapi::jiff::Timestamp::from_second(1000).expect("a time");
        let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at);
        claim.metadata.deletion_timestamp = Some(time);
        claim.spec.as_mut().expect("a spec").volume_name = Some("pv-7".into());
    });
    for spec in ["{version: 0.2.0}", "{version: 0.2.0, runState: Hibernated}"] {
        let (threat, words) = waits(&observed, spec);
        assert_eq!(threat, volume::Threat::Deleting);
        assert!(words.contains("pv pv-7") && words.contains("Retain"), "{words}");
    }
    let mut observed = running("{}");
    claim(&mut observed, |claim| {
        claim.status.as_mut().expect("a status").phase = Some("Lost".into());
    });
    assert_eq!(waits(&observed, "{version: 0.2.0}").0, volume::Threat::Lost);
}

const RECOVERS: &str = "{phase: Running, conditions: [{type: Ready, status: 'False'}], containerStatuses: [{name: broker, image: i, imageID: '', ready: false, restartCount: 0, state: {running: {}}}]}";

#[test]
fn k4_a_broker_that_recovers_is_not_restarted_unless_it_fails_to() {
    let mut observed = running("{}");
    observed.pods.insert(0, fixture::pod(RECOVERS));
    let answer = observed.answers.get_mut(&0).expect("an answer");
    (answer.ready, answer.recovery.done) = (false, false);
    let cause = |observed: &Observed| {
        let decision = decision("{version: 0.2.0}", observed);
        if let Decision::Wait { cause, .. } = decision {
            return Some(cause);
        }
        assert!(matches!(decision, Decision::Restart { .. }), "{decision:?}");
        None
    };
    assert_eq!(cause(&observed), Some(Cause::Recovery));
    // It needs the larger memory limit.
    let ended = "restartCount: 2, lastState: {terminated: {exitCode: 137, finishedAt: '1970-01-01T00:01:00Z'}}";
    let looping = RECOVERS.replace("restartCount: 0", ended);
    observed.pods.insert(0, fixture::pod(&looping));
    observed.at_second = 70;
    assert_eq!(cause(&observed), None);
    // That was long ago.
    observed.at_second = 7000;
    assert_eq!(cause(&observed), Some(Cause::Recovery));
    // Its state is unknown.
    observed.answers.clear();
    assert_eq!(cause(&observed), Some(Cause::Answer));
    // It does nothing.
    let waiting = RECOVERS.replace("{running: {}}", "{waiting: {reason: ImagePullBackOff}}");
    observed.pods.insert(0, fixture::pod(&waiting));
    assert_eq!(cause(&observed), None);
}

#[test]
fn a_volume_that_only_grows_when_mounted_anew_gets_one_restart() {
    let mut observed = running("{storage: {size: 30Gi}}");
    claim(&mut observed, |claim| {
        let text = "{phase: Bound, conditions: [{type: FileSystemResizePending, status: 'True', lastTransitionTime: '1970-01-01T00:10:00Z'}]}";
        claim.status = serde_yaml_ng::from_str(text).expect("a status");
    });
    let pod = observed.pods.get_mut(&0).expect("a pod");
    let made: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time =
        serde_json::from_value(serde_json::json!("1970-01-01T00:00:00Z")).expect("a time");
    pod.metadata.creation_timestamp = Some(made);
    observed.at_second = 600;
    assert_eq!(decision("{storage: {size: 30Gi}}", &observed), Decision::Settled);
    observed.at_second = 600 + volume::RESIZE_PATIENCE_SECONDS;
    let decision = decision("{storage: {size: 30Gi}}", &observed);
    let Decision::Restart { reason } = decision else { panic!("{decision:?}") };
    assert!(reason.contains("data-prod-broker-0"), "{reason}");
}
