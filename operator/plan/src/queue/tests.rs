//! What the brokers and the people are told of a Queue.

use super::*;

fn queue(spec: &str) -> Queue {
    let text = format!(
        "{{apiVersion: ropewalk.dev/v1alpha1, kind: Queue, metadata: {{name: orders, namespace: shop, uid: uid-1}}, spec: {spec}}}"
    );
    serde_yaml_ng::from_str(&text).expect("a Queue")
}

fn present(ready: bool) -> ClusterSeen {
    ClusterSeen::Present { ready, reason: "Starting".into(), message: "soon".into() }
}

fn declared(partitions: i32) -> Option<Result<Declared, Refused>> {
    Some(Ok(Declared { topic_id: "t".into(), partitions, ..Declared::default() }))
}

fn said(facts: &Facts<'_>, kind: &str) -> (Status, &'static str) {
    let findings = facts.findings();
    let finding = findings.iter().find(|finding| finding.kind == kind).expect("the condition");
    (finding.status, finding.reason)
}

#[test]
fn the_whole_intent_is_declared_in_kafkas_words() {
    let spec = "{partitions: 3, cleanupPolicy: CompactAndDelete, maxMessageSize: 2Mi,
        retention: {maxAgeSeconds: 60, maxSize: 10Gi}, config: {segment.bytes: '1'}}";
    let declaration = declaration(&queue(spec));
    assert_eq!((declaration.owner.as_str(), declaration.partitions), ("uid-1", 3));
    let config: Vec<_> = declaration.config.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let expected = [
        "cleanup.policy=compact,delete",
        "max.message.bytes=2097164",
        "retention.bytes=3579139414",
        "retention.ms=60000",
        "segment.bytes=1",
    ];
    assert_eq!(config, expected);
}

#[test]
fn five_lines_mean_kafkas_defaults() {
    let config = declaration(&queue("{}")).config;
    assert_eq!(config["max.message.bytes"], "1048588", "as Kafka");
    assert_eq!(
        (config["retention.bytes"].as_str(), config["retention.ms"].as_str()),
        ("-1", "604800000")
    );
}

#[test]
fn a_queue_is_ready_when_all_of_it_is() {
    let queue = queue("{consumers: [{name: worker}]}");
    let mut facts =
        Facts { queue: &queue, cluster: present(true), declared: declared(12), unbound: vec![] };
    assert_eq!(said(&facts, READY), (Status::True, "QueueReady"));
    facts.cluster = present(false);
    assert_eq!(said(&facts, READY), (Status::False, "ClusterNotReady"));
    facts.declared = None;
    facts.cluster = present(true);
    assert_eq!(said(&facts, READY), (Status::Unknown, "WaitingForCluster"));
    facts.declared = declared(12);
    let refused = Refused { reason: "BrokerUnreachable", message: "no route".into() };
    facts.unbound = vec![("worker".into(), refused)];
    assert_eq!(said(&facts, READY), (Status::False, "BrokerUnreachable"));
}

#[test]
fn a_cluster_that_is_missing_is_a_condition() {
    let queue = queue("{clusterRef: {name: prod}}");
    let refused = Refused { reason: "ClusterNotFound", message: "make it".into() };
    let cluster = ClusterSeen::Missing(refused);
    let facts = Facts { queue: &queue, cluster, declared: None, unbound: vec![] };
    assert_eq!(said(&facts, READY), (Status::False, "ClusterNotFound"));
    assert_eq!(said(&facts, kind::PROVISIONED).0, Status::Unknown);
}

#[test]
fn another_owner_is_a_name_collision() {
    let queue = queue("{}");
    let refused = Refused { reason: "NameCollision", message: "taken".into() };
    let facts = Facts {
        queue: &queue,
        cluster: present(true),
        declared: Some(Err(refused)),
        unbound: vec![],
    };
    assert_eq!(said(&facts, READY), (Status::False, "NameCollision"));
}

#[test]
fn k4_more_partitions_than_asked_are_shown_and_never_undone() {
    let queue = queue("{partitions: 3}");
    let facts =
        Facts { queue: &queue, cluster: present(true), declared: declared(5), unbound: vec![] };
    assert_eq!(said(&facts, kind::DRIFTED), (Status::True, "MorePartitions"));
    assert_eq!(said(&facts, READY).0, Status::True);
    assert_eq!(declaration(&queue).partitions, 3);
}
