//! Which broker may be restarted now, and why the others may not.
//!
//! A broker has to restart when its pod was made from another template, or when it says that settings
//! wait for a restart. Whether it may is another question.
//!
//! # Invariants
//!
//! - **K2** never two at once: while any other broker is not ready, none is restarted.
//! - **K5** only what the user asked for restarts a broker. When the intent that the pod was started
//!   with is the present one, the difference is the operator's own; it is shown, and waits.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use ropewalk_operator_api::cluster::RolloutStrategy;
use ropewalk_operator_api::{BrokerCluster, names};

use super::observed::is_ready;
use super::properties::FORMAT_KEY;
use super::validate::Intent;
use super::{Broker, Observed, Valid, pod};
use crate::intent;

/// What happens to one broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It runs what it should.
    Settled,
    /// It runs what it should, but the recorded intent is old: every change took effect at once.
    Record,
    /// Its pod may be restarted now.
    Restart {
        /// Why.
        reason: String,
    },
    /// It has to restart, and must not yet.
    Wait {
        /// Why it has to.
        reason: String,
        /// What it waits for.
        cause: Cause,
    },
    /// It would be set up differently by now; nobody asked for it.
    Offer {
        /// What would be different.
        reason: String,
    },
}

/// What a restart waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Another broker is not ready.
    OtherBroker(i32),
    /// A person, who has to set the annotation to this value.
    Approval(String),
}

/// Something that only a restart brings about.
struct Difference {
    what: String,
    /// Whether it follows from something that the user asked for since the last restart.
    is_asked: bool,
}

/// Decides for every broker, in the order of their ids. At most one is [`Decision::Restart`].
#[must_use]
pub fn decide(cluster: &BrokerCluster, valid: &Valid, observed: &Observed) -> Vec<(i32, Decision)> {
    let not_ready = |id: i32| !observed.pods.get(&id).is_some_and(is_ready);
    let mut order: Vec<&Broker> = valid.brokers.iter().collect();
    // One that does not serve anyway comes first: restarting it costs nobody anything.
    order.sort_by_key(|broker| (!not_ready(broker.id), broker.id));
    let mut taken = None;
    let mut decisions = Vec::new();
    for broker in order {
        let differences = differences(valid, observed, broker);
        let reason = differences.iter().map(|one| one.what.as_str()).collect::<Vec<_>>().join("; ");
        let decision = if differences.iter().any(|difference| difference.is_asked) {
            let other = valid.brokers.iter().map(|other| other.id).find(|id| {
                *id != broker.id && (Some(*id) == taken || (valid.running && not_ready(*id)))
            });
            judge(cluster, valid, reason, other)
        } else if recorded(observed, broker.id).is_some_and(|old| old != valid.intent) {
            Decision::Record
        } else if differences.is_empty() {
            Decision::Settled
        } else {
            Decision::Offer { reason }
        };
        if matches!(decision, Decision::Restart { .. }) {
            taken = Some(broker.id);
        }
        decisions.push((broker.id, decision));
    }
    decisions.sort_by_key(|(id, _)| *id);
    decisions
}

fn judge(cluster: &BrokerCluster, valid: &Valid, reason: String, other: Option<i32>) -> Decision {
    let token = valid.intent.to_string();
    let approved = cluster.annotations().get(names::ANNOTATION_APPROVE_RESTART) == Some(&token);
    let is_supervised = cluster.spec.rollout.strategy == RolloutStrategy::Supervised;
    if is_supervised && !approved && valid.running {
        return Decision::Wait { reason, cause: Cause::Approval(token) };
    }
    match other {
        Some(id) => Decision::Wait { reason, cause: Cause::OtherBroker(id) },
        None => Decision::Restart { reason },
    }
}

/// What the user had asked for when the pod was (re)started.
fn recorded(observed: &Observed, id: i32) -> Option<Intent> {
    let set = observed.stateful_sets.get(&id)?;
    Intent::parse(set.annotations().get(names::ANNOTATION_INTENT)?)
}

/// Whether a pod was made from a template that its StatefulSet has no longer.
fn is_of_older_template(set: &StatefulSet, pod: Option<&Pod>) -> bool {
    let status = set.status.as_ref();
    let is_seen =
        status.is_some_and(|status| status.observed_generation == set.metadata.generation);
    let newest = status.and_then(|status| status.update_revision.as_ref());
    let has = pod.and_then(|pod| pod.labels().get("controller-revision-hash"));
    is_seen && newest.is_some() && has.is_some() && newest != has
}

/// What a restart of a broker would bring about.
fn differences(valid: &Valid, observed: &Observed, broker: &Broker) -> Vec<Difference> {
    let Some(set) = observed.stateful_sets.get(&broker.id) else { return Vec::new() };
    let recorded = recorded(observed, broker.id);
    let mut differences = Vec::new();
    let wanted = intent::hash(&pod::template(valid, broker));
    if set.annotations().get(names::ANNOTATION_TEMPLATE) != Some(&wanted) {
        let what = match pod::image_of(set) {
            Some(image) if image != broker.image => {
                format!("the image changes from {image} to {}", broker.image)
            }
            Some(_) | None => "the pod template has changed".to_owned(),
        };
        let is_asked = recorded.as_ref().is_some_and(|old| old.pod != valid.intent.pod);
        differences.push(Difference { what, is_asked });
    } else if is_of_older_template(set, observed.pods.get(&broker.id)) {
        // A restart was begun and its pod is still there.
        let is_asked = recorded.as_ref().is_some_and(|old| *old != valid.intent);
        let what = "the pod still runs the template before".to_owned();
        differences.push(Difference { what, is_asked });
    }
    let answer = observed.answers.get(&broker.id);
    let waiting = answer.into_iter().flat_map(|answer| &answer.settings.needs_restart);
    let waiting: Vec<&str> = waiting.map(String::as_str).filter(|key| *key != FORMAT_KEY).collect();
    if !waiting.is_empty() {
        let what = format!("these settings take effect after a restart: {}", waiting.join(", "));
        let is_asked = recorded.as_ref().is_some_and(|old| old.config != valid.intent.config);
        differences.push(Difference { what, is_asked });
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, children, fixture};
    use super::*;

    /// The cluster as it runs after `spec` was rolled out, brokers ready.
    fn running(spec: &str) -> Observed {
        let mut observed = fixture::observed_claim(0, "20Gi", true);
        let cluster = fixture::cluster(spec);
        let valid = fixture::valid(&cluster, &observed);
        let set = children::children(&valid).stateful_sets.remove(&0).expect("a set");
        observed.stateful_sets.insert(0, serde_json::from_value(set).expect("a StatefulSet"));
        observed.pods.insert(0, fixture::pod(fixture::READY));
        observed.answers.insert(0, Answer { ready: true, ..Answer::default() });
        observed
    }

    fn decision(spec: &str, observed: &Observed) -> Decision {
        let cluster = fixture::cluster(spec);
        let valid = fixture::valid(&cluster, observed);
        decide(&cluster, &valid, observed).remove(0).1
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
    fn an_image_that_is_no_longer_chosen_is_let_go() {
        let observed = running("{image: {tag: none-such}}");
        let decision = decision("{}", &observed);
        let Decision::Restart { reason } = decision else { panic!("{decision:?}") };
        assert!(reason.ends_with("to ghcr.io/ropewalk/ropewalk-broker:0.1.0"), "{reason}");
    }

    #[test]
    fn settings_that_took_effect_at_once_restart_nothing() {
        let spec = "{config: {log.retention.ms: '1'}}";
        assert_eq!(decision(spec, &running("{}")), Decision::Record);
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
        assert_eq!(decision(spec, &observed), Decision::Record);
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
            decide(&cluster, &valid, &observed).remove(0).1
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
        let decisions = decide(&cluster, &valid, &observed);
        assert!(matches!(&decisions[0].1, Decision::Wait { cause: Cause::OtherBroker(1), .. }));
        assert!(matches!(&decisions[1].1, Decision::Restart { .. }));
        // Both ready: one at a time.
        observed.pods.insert(1, fixture::pod(fixture::READY));
        let decisions = decide(&cluster, &valid, &observed);
        assert!(matches!(&decisions[0].1, Decision::Restart { .. }));
        assert!(matches!(&decisions[1].1, Decision::Wait { cause: Cause::OtherBroker(0), .. }));
    }
}
