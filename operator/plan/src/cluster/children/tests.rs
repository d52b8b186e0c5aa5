//! Tests of the objects of a cluster.

use super::super::{Observed, fixture};
use super::*;

/// The children as JSON, as the API server receives them.
#[derive(Debug)]
struct ChildObjects {
    service_account: Value,
    services: Vec<Value>,
    budget: Value,
    config_maps: BTreeMap<i32, Value>,
    claims: BTreeMap<i32, Value>,
    stateful_sets: BTreeMap<i32, Value>,
}

fn as_json(all: &Children) -> ChildObjects {
    fn each<K: Serialize>(objects: &BTreeMap<i32, K>) -> BTreeMap<i32, Value> {
        objects.iter().map(|(id, object)| (*id, json!(object))).collect()
    }
    ChildObjects {
        service_account: json!(all.service_account),
        services: all.services.iter().map(|service| json!(service)).collect(),
        budget: json!(all.budget),
        config_maps: each(&all.config_maps),
        claims: each(&all.claims),
        stateful_sets: each(&all.stateful_sets),
    }
}

fn built(spec: &str) -> ChildObjects {
    let cluster = fixture::cluster(spec);
    as_json(&children(&fixture::valid(&cluster, &Observed::default())))
}

#[test]
fn k1_the_same_cluster_gives_the_same_bytes() {
    let (one, other) = (built("{config: {a: b, c: d}}"), built("{config: {c: d, a: b}}"));
    assert_eq!(format!("{one:?}"), format!("{other:?}"));
}

#[test]
fn k4_everything_is_owned_but_the_volumes() {
    let children = built("{}");
    let mut owned = vec![&children.service_account, &children.budget];
    owned.extend(&children.services);
    owned.extend(children.config_maps.values());
    owned.extend(children.stateful_sets.values());
    for child in owned {
        let owner = &child["metadata"]["ownerReferences"][0];
        assert_eq!(owner["uid"], "uid-1", "{child}");
    }
    assert!(children.claims[&0]["metadata"].get("ownerReferences").is_none());
}

#[test]
fn deployment_tools_are_kept_from_volumes_and_secrets() {
    let cluster = fixture::cluster("{}");
    let valid = fixture::valid(&cluster, &Observed::default());
    for kept in [json!(secret(&valid, "t")), json!(children(&valid).claims[&0])] {
        let metadata = &kept["metadata"];
        assert!(metadata["labels"].get("app.kubernetes.io/instance").is_none(), "{kept}");
        assert_eq!(metadata["labels"]["app.kubernetes.io/managed-by"], "ropewalk-operator");
        let annotations = &metadata["annotations"];
        let options = annotations["argocd.argoproj.io/sync-options"].as_str();
        assert!(options.is_some_and(|options| options.contains("Prune=false")), "{kept}");
        assert_eq!(annotations["argocd.argoproj.io/compare-options"], "IgnoreExtraneous");
        assert_eq!(annotations["helm.sh/resource-policy"], "keep");
    }
}

#[test]
fn services_and_the_budget_find_brokers_only_in_both_families_of_addresses() {
    let children = built("{}");
    for service in &children.services {
        assert_eq!(service["spec"]["selector"]["app.kubernetes.io/component"], "broker");
        assert_eq!(service["spec"]["ipFamilyPolicy"], "PreferDualStack");
        assert_eq!(service["spec"]["ports"][0]["appProtocol"], "tcp");
    }
    let found = &children.budget["spec"]["selector"]["matchLabels"];
    let set = &children.stateful_sets[&0]["spec"];
    let pod = &set["template"]["metadata"]["labels"];
    for (key, value) in found.as_object().expect("labels") {
        assert_eq!(&pod[key], value);
    }
    // The selector of a StatefulSet is immutable.
    assert_eq!(
        set["selector"]["matchLabels"],
        json!({"ropewalk.dev/cluster": "prod", "ropewalk.dev/broker-id": "0"})
    );
}

#[test]
fn user_and_groups_can_be_left_to_the_platform() {
    let context = |spec: &str| {
        let set = built(spec).stateful_sets[&0].clone();
        set["spec"]["template"]["spec"]["securityContext"].clone()
    };
    let plain = context("{}");
    let ids = (&plain["runAsUser"], &plain["runAsGroup"], &plain["fsGroup"]);
    assert_eq!(ids, (&json!(65_532), &json!(65_532), &json!(65_532)));
    let left_out = context("{podTemplate: {securityContext: {}}}");
    for key in ["runAsUser", "runAsGroup", "fsGroup"] {
        assert!(left_out.get(key).is_none(), "{left_out}");
    }
    assert_eq!(left_out["runAsNonRoot"], true);
    let own = context("{podTemplate: {securityContext: {fsGroup: 7}}}");
    assert_eq!((&own["fsGroup"], own.get("runAsUser")), (&json!(7), None));
}

#[test]
fn k5_settings_and_sizes_are_not_in_the_pod() {
    let template = |spec: &str| built(spec).stateful_sets[&0]["spec"]["template"].clone();
    let plain = template("{}");
    assert_eq!(plain, template("{config: {a: b}, storage: {size: 99Gi}, runState: Hibernated}"));
    assert!(!plain.to_string().contains("0.0.0-operator"), "nothing of the operator's release");
}

#[test]
fn what_is_built_is_what_kubernetes_understands() {
    let spec = "{resources: {requests: {cpu: '1'}}, podTemplate: {env: [{name: A, value: b}],
        tolerations: [{key: a, operator: Exists}], labels: {team: x}}}";
    let children = built(spec);
    let set: StatefulSet =
        serde_json::from_value(children.stateful_sets[&0].clone()).expect("a StatefulSet");
    let spec = set.spec.expect("a spec");
    let pod = spec.template.spec.expect("a pod");
    assert_eq!(spec.update_strategy.and_then(|s| s.type_).as_deref(), Some("OnDelete"));
    assert_eq!(pod.automount_service_account_token, Some(false));
    assert_eq!(
        pod.containers[0].security_context.as_ref().and_then(|c| c.read_only_root_filesystem),
        Some(true)
    );
    assert_eq!(pod.tolerations.map(|all| all.len()), Some(1));
    let selector = spec.selector.match_labels.expect("labels");
    let labels = spec.template.metadata.and_then(|m| m.labels).expect("labels");
    assert!(selector.iter().all(|(key, value)| labels.get(key) == Some(value)));
    assert_eq!(labels.get("team").map(String::as_str), Some("x"));
    let claim: PersistentVolumeClaim =
        serde_json::from_value(children.claims[&0].clone()).expect("a claim");
    assert_eq!(claim.metadata.name.as_deref(), Some("data-prod-broker-0"));
}

#[test]
fn a_hibernated_cluster_keeps_everything_but_its_pods() {
    let children = built("{runState: Hibernated}");
    assert_eq!(children.stateful_sets[&0]["spec"]["replicas"], 0);
    assert_eq!(children.claims.len(), 1);
}

#[test]
fn k5_everything_has_the_bytes_that_earlier_releases_gave_it() {
    let full = "{version: 1.2.3, image: {repository: a/b, pullPolicy: Always}, config: {x: y},
        resources: {requests: {cpu: '1', memory: 1Gi}, limits: {memory: 2Gi}},
        storage: {size: 30Gi, storageClassName: fast}, runState: Hibernated,
        podTemplate: {labels: {team: x}, annotations: {note: z}, nodeSelector: {disk: ssd},
        env: [{name: A, value: b}, {name: E, value: ''}], priorityClassName: high,
        tolerations: [{key: a, operator: Exists}], imagePullSecrets: [{name: pull}],
        affinity: {nodeAffinity: {}}, securityContext: {runAsUser: 7}}}";
    for (spec, restart, expected) in [
        ("{}", None, ["3a597ba648f0b8dd", "d6714f0fc303c365"]),
        ("{}", Some("now"), ["55a2aefe3120d404", "2a26165c844b3c07"]),
        (
            "{resources: {}, podTemplate: {securityContext: {}}}",
            None,
            ["47c2e0c8d1957de7", "1ef6fecc74eefa32"],
        ),
        (full, None, ["ff70308679cb0f75", "8abaac1c962876f3"]),
        (full, Some("now"), ["a2098e56ed830e1f", "e0be9234f1cfe663"]),
    ] {
        let mut cluster = fixture::cluster(spec);
        let restart = restart.map(|at| (names::ANNOTATION_RESTART.into(), String::from(at)));
        cluster.metadata.annotations = restart.map(|annotation| [annotation].into());
        let valid = fixture::valid(&cluster, &fixture::observed_claim(0, "20Gi", true));
        let all = children(&valid);
        let template = intent::hash(&pod::template(&valid, &valid.brokers[0]));
        let rest = intent::hash(&json!([
            all.service_account,
            all.services,
            all.budget,
            all.config_maps,
            all.claims,
            all.stateful_sets,
            secret(&valid, "t"),
        ]));
        assert_eq!([template.as_str(), rest.as_str()], expected, "{spec}");
    }
}
