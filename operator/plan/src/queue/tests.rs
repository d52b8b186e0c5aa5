//! Declarations and conditions of a Queue.

use super::*;

fn queue(spec: &str) -> Queue {
    let text = format!(
        "{{apiVersion: ropewalk.dev/v1alpha1, kind: Queue, metadata: {{name: orders, namespace: shop, uid: uid-1}}, spec: {spec}}}"
    );
    serde_yaml_ng::from_str(&text).expect("a Queue")
}

fn present(ready: bool) -> ClusterState {
    ClusterState::Present { ready }
}

fn facts<'a>(
    queue: &'a Queue,
    cluster: ClusterState,
    declared: Option<Result<DeclareOutcome, Refusal>>,
) -> Facts<'a> {
    let (unbound, still_bound) = (vec![], vec![]);
    let found = declared.as_ref().and_then(|declared| declared.as_ref().ok());
    let lost_topic = lost_topic(queue, found.map(|declared| declared.topic_id.as_str()));
    Facts { queue, cluster, declared, unbound, still_bound, lost_topic }
}

fn declared(partitions: i32) -> Option<Result<DeclareOutcome, Refusal>> {
    Some(Ok(DeclareOutcome { topic_id: "t".into(), partitions, ..DeclareOutcome::default() }))
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
fn tiering_is_declared_in_kafkas_words() {
    let tiered = |tiering: &str| {
        let config = declaration(&queue(&format!("{{partitions: 2, tiering: {tiering}}}"))).config;
        let is_tier = |key: &str| key.starts_with("remote.") || key.starts_with("local.");
        let pairs = config.iter().filter(|(key, _)| is_tier(key));
        pairs.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
    };
    assert_eq!(tiered("{}"), ["remote.storage.enable=true"]);
    let local = "{localRetention: {maxAgeSeconds: 60, maxSize: 1Gi}}";
    let expected = [
        "local.retention.bytes=536870912",
        "local.retention.ms=60000",
        "remote.storage.enable=true",
    ];
    assert_eq!(tiered(local), expected);
    let kept = ["remote.log.copy.disable=true", "remote.storage.enable=true"];
    assert_eq!(tiered("{mode: Keep}"), kept);
    let discarded = ["remote.log.delete.on.disable=true", "remote.storage.enable=false"];
    assert_eq!(tiered("{mode: Discard}"), discarded);
    let none = declaration(&queue("{}")).config;
    assert!(!none.keys().any(|key| key.starts_with("remote.")), "{none:?}");
}

#[test]
fn a_queue_that_needs_a_bucket_which_its_cluster_lacks_says_so() {
    let cluster = |spec: &str| -> BrokerCluster {
        let text = format!(
            "{{apiVersion: ropewalk.dev/v1alpha1, kind: BrokerCluster, metadata: {{name: default}}, spec: {spec}}}"
        );
        serde_yaml_ng::from_str(&text).expect("a BrokerCluster")
    };
    let (with, without) = (cluster("{objectStorage: {bucket: abc}}"), cluster("{}"));
    let tiered = queue("{tiering: {}}");
    assert_eq!(without_bucket(&tiered, &with), None);
    let refused = without_bucket(&tiered, &without).expect("refused");
    assert_eq!(refused.reason, "NoObjectStorage");
    assert!(refused.message.contains("BrokerCluster default"), "{}", refused.message);
    let facts = facts(&tiered, present(true), Some(Err(refused)));
    assert_eq!(said(&facts, READY), (Status::False, "NoObjectStorage"));
    for spec in ["{}", "{tiering: {mode: Discard}}", "{tiering: {mode: Keep}}"] {
        assert_eq!(without_bucket(&queue(spec), &without), None, "{spec}");
    }
}

#[test]
fn a_queue_is_ready_when_all_of_it_is() {
    let queue = queue("{consumers: [{name: worker}]}");
    let mut facts = facts(&queue, present(true), declared(12));
    assert_eq!(said(&facts, READY), (Status::True, "QueueReady"));
    facts.cluster = present(false);
    assert_eq!(said(&facts, READY), (Status::False, "ClusterNotReady"));
    facts.declared = None;
    facts.cluster = present(true);
    assert_eq!(said(&facts, READY), (Status::Unknown, "WaitingForCluster"));
    facts.declared = declared(12);
    let refused = Refusal { reason: "BrokerUnreachable", message: "no route".into() };
    facts.unbound = vec![("worker".into(), refused)];
    assert_eq!(said(&facts, READY), (Status::False, "BrokerUnreachable"));
}

#[test]
fn a_cluster_that_is_missing_is_a_condition() {
    let queue = queue("{clusterRef: {name: prod}}");
    let refused = Refusal { reason: "ClusterNotFound", message: "make it".into() };
    let cluster = ClusterState::Missing(refused);
    let facts = facts(&queue, cluster, None);
    assert_eq!(said(&facts, READY), (Status::False, "ClusterNotFound"));
    assert_eq!(said(&facts, kind::PROVISIONED).0, Status::Unknown);
}

#[test]
fn another_owner_is_a_name_collision() {
    let queue = queue("{}");
    let refused = Refusal { reason: "NameCollision", message: "taken".into() };
    let facts = facts(&queue, present(true), Some(Err(refused)));
    assert_eq!(said(&facts, READY), (Status::False, "NameCollision"));
}

#[test]
fn k4_more_partitions_than_asked_are_shown_and_never_undone() {
    let queue = queue("{partitions: 3}");
    let facts = facts(&queue, present(true), declared(5));
    assert_eq!(said(&facts, kind::DRIFTED), (Status::True, "MorePartitions"));
    assert_eq!(said(&facts, READY).0, Status::True);
    assert_eq!(declaration(&queue).partitions, 3);
}

fn with_status(spec: &str, status: &str) -> Queue {
    let mut queue = queue(spec);
    queue.status = Some(serde_yaml_ng::from_str(status).expect("a status"));
    queue
}

#[test]
fn k4_a_topic_that_was_made_anew_is_a_loss_until_a_person_accepts_it() {
    let mut queue = with_status("{}", "{topicId: old}");
    let findings = facts(&queue, present(true), declared(12)).findings();
    let lost = findings.iter().find(|finding| finding.kind == kind::TOPIC_LOST).expect("it");
    assert_eq!((lost.status, lost.reason), (Status::True, "TopicRecreated"));
    for expected in ["id old", "id t", "ropewalk.dev/accept-topic-loss=old"] {
        assert!(lost.message.contains(expected), "{}", lost.message);
    }
    assert_eq!(said(&facts(&queue, present(true), declared(12)), READY).1, "TopicLost");
    // The status has the new id, and the loss stays recorded.
    queue.status = Some(serde_yaml_ng::from_str("{topicId: t, lostTopicId: old}").expect("it"));
    assert_eq!(said(&facts(&queue, present(true), declared(12)), READY).1, "TopicLost");
    assert_eq!(said(&facts(&queue, present(true), None), kind::TOPIC_LOST).0, Status::True);
    let accept =
        |id: &str| Some([(names::ANNOTATION_ACCEPT_TOPIC_LOSS.to_owned(), id.to_owned())].into());
    queue.metadata.annotations = accept("another");
    assert_eq!(said(&facts(&queue, present(true), declared(12)), READY).1, "TopicLost");
    queue.metadata.annotations = accept("old");
    assert_eq!(said(&facts(&queue, present(true), declared(12)), READY).1, "QueueReady");
    // The annotation accepts this loss only.
    queue.status = Some(serde_yaml_ng::from_str("{topicId: earlier}").expect("it"));
    assert_eq!(said(&facts(&queue, present(true), declared(12)), READY).1, "TopicLost");
}

#[test]
fn a_topic_that_is_as_it_was_is_no_loss() {
    for status in ["{}", "{topicId: t}"] {
        let queue = with_status("{}", status);
        assert_eq!(
            said(&facts(&queue, present(true), declared(12)), kind::TOPIC_LOST).0,
            Status::False
        );
    }
}

#[test]
fn what_the_brokers_hold_beyond_the_spec_is_superfluous() {
    let queue = queue("{consumers: [{name: worker}]}");
    let text = "{owner: uid-1, queues: [
        {name: another, groups: [{group: elsewhere}]},
        {name: orders, topicId: t, groups: [{group: shop.orders.worker, startPosition: Earliest}, {group: old}]}]}";
    let owned: OwnedResources = serde_yaml_ng::from_str(text).expect("an answer");
    assert_eq!(owned.superfluous(&queue), ["old"]);
}

#[test]
fn a_message_size_of_an_earlier_release_is_held_at_what_brokers_take_and_said() {
    let bytes = |spec: &str| declaration(&queue(spec)).config["max.message.bytes"].clone();
    let today = bytes("{maxMessageSize: 32Mi}");
    assert_eq!(today, "33554444");
    for spec in ["{maxMessageSize: 48Mi}", "{maxMessageSize: 64Mi}"] {
        assert_eq!(bytes(spec), today, "{spec}");
        let queue = queue(spec);
        let facts = facts(&queue, present(true), declared(12));
        assert_eq!(said(&facts, kind::DRIFTED), (Status::True, "MessageSizeReduced"));
        assert_eq!(said(&facts, READY), (Status::True, "QueueReady"), "it continues");
    }
    let queue = queue("{maxMessageSize: 32Mi}");
    let facts = facts(&queue, present(true), declared(12));
    assert_eq!(said(&facts, kind::DRIFTED), (Status::False, "AsAsked"));
}
