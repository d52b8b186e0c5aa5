//! What the status of a Queue says, and when it is written.

use k8s_openapi::jiff::Timestamp;
use ropewalk_operator_plan::queue::Refusal;
use serde_json::json;

use super::*;
use crate::outages::{self as outage, Outages};

fn queue(status: &str) -> Queue {
    serde_yaml_ng::from_str(&format!(
        "{{apiVersion: ropewalk.dev/v1alpha1, kind: Queue, metadata: {{name: orders, namespace: shop, uid: u, generation: 1}}, spec: {{consumers: [{{name: worker}}]}}, status: {status}}}"
    ))
    .expect("a Queue")
}

fn cluster() -> Box<BrokerCluster> {
    let text = "{apiVersion: ropewalk.dev/v1alpha1, kind: BrokerCluster, metadata: {name: default, namespace: shop}, spec: {},
        status: {replicas: 1, readyReplicas: 1, bootstrapServers: 'b:9092', conditions: [{type: Ready, status: 'True', reason: R, message: m, lastTransitionTime: '2026-01-01T00:00:00Z'}]}}";
    Box::new(serde_yaml_ng::from_str(text).expect("a cluster"))
}

fn facts<'a>(
    queue: &'a Queue,
    resolved: &ClusterResolution,
    declared: Option<Result<DeclareOutcome, Refusal>>,
) -> Facts<'a> {
    let (cluster, unbound, still_bound) = (resolved.cluster_state(), vec![], vec![]);
    Facts { queue, cluster, declared, unbound, still_bound, lost_topic: None }
}

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).expect("a time"))
}

#[test]
fn k1_a_converged_queue_is_not_written() {
    let declared =
        DeclareOutcome { topic_id: "t".into(), partitions: 12, ..DeclareOutcome::default() };
    let resolved = ClusterResolution::Found(cluster());
    let mut queue = queue("{}");
    let status_of = |queue: &Queue, second| {
        let facts = facts(queue, &resolved, Some(Ok(declared.clone())));
        status(&facts, &resolved, &queue.status.clone().unwrap_or_default(), &at(second))
    };
    let first = status_of(&queue, 1000);
    assert!(condition::is_true(&first.conditions, condition::READY));
    assert_eq!(first.bootstrap_servers.as_deref(), Some("b:9092"));
    // Status metrics and scaling add their own fields.
    let mut stored = first.clone();
    stored.length = Some(7);
    stored.consumers[0].replicas = Some(3);
    queue.status = Some(stored.clone());
    assert!(holds(&stored, &status_of(&queue, 2000)));
}

#[test]
fn what_was_once_known_is_kept_while_the_cluster_is_away() {
    let queue =
        queue("{clusterName: default, topicId: t, partitions: 12, bootstrapServers: 'b:9092'}");
    let refused = Refusal { reason: "ClusterNotFound", message: "gone".into() };
    let resolved = ClusterResolution::Missing(refused);
    let facts = facts(&queue, &resolved, None);
    let status = status(&facts, &resolved, &queue.status.clone().unwrap_or_default(), &at(1));
    assert_eq!(status.cluster_name.as_deref(), Some("default"));
    assert_eq!((status.topic_id.as_deref(), status.partitions), (Some("t"), Some(12)));
    assert!(!condition::is_true(&status.conditions, condition::READY));
}

fn unready(mut cluster: Box<BrokerCluster>) -> Box<BrokerCluster> {
    let status = cluster.status.as_mut().expect("a status");
    status.ready_replicas = 0;
    status.conditions[0].status = "False".to_owned();
    cluster
}

const READY_QUEUE: &str = "{observedGeneration: 1, conditions: [{type: Ready, status: 'True', reason: QueueReady, message: m, lastTransitionTime: '2026-01-01T00:00:00Z'}]}";

#[test]
fn k1_a_short_outage_of_the_cluster_changes_no_condition() {
    let (outages, start) = (Outages::default(), Instant::now());
    let (queue, resolved) = (queue(READY_QUEUE), ClusterResolution::Found(unready(cluster())));
    let second = Duration::from_secs(1);
    for passed in [0, 10, 29] {
        let left = outages.hold(&facts(&queue, &resolved, None), start + second * passed);
        assert_eq!(left, Some(outage::HOLD - second * passed));
    }
    let unreachable = || Refusal { reason: "BrokerUnreachable", message: "no route".into() };
    let out = facts(&queue, &resolved, Some(Err(unreachable())));
    assert_eq!(outages.hold(&out, start + second * 30), None, "it is shown by then");
    // The outage is over; the next one counts on its own.
    let ready = ClusterResolution::Found(cluster());
    let declared = || Some(Ok(DeclareOutcome::default()));
    assert_eq!(outages.hold(&facts(&queue, &ready, declared()), start + second * 40), None);
    let out = facts(&queue, &ready, Some(Err(unreachable())));
    assert_eq!(outages.hold(&out, start + second * 50), Some(outage::HOLD));
}

#[test]
fn what_is_no_outage_is_shown_at_once() {
    let (outages, now) = (Outages::default(), Instant::now());
    let resolved = ClusterResolution::Found(unready(cluster()));
    let refused = Refusal { reason: "NameCollision", message: "taken".into() };
    let known = queue(READY_QUEUE);
    assert_eq!(outages.hold(&facts(&known, &resolved, Some(Err(refused))), now), None);
    let never_ready = queue("{}");
    assert_eq!(outages.hold(&facts(&never_ready, &resolved, None), now), None);
    let mut edited = queue(READY_QUEUE);
    edited.metadata.generation = Some(2);
    assert_eq!(outages.hold(&facts(&edited, &resolved, None), now), None);
}

#[test]
fn queues_are_declared_over_some_time_to_a_cluster_that_is_back() {
    let mut cluster = cluster();
    let now = Timestamp::from_second(1_800_000_000).expect("a time");
    let status = cluster.status.as_mut().expect("a status");
    status.conditions[0].last_transition_time = Time(now);
    let mut settled = queue(READY_QUEUE);
    let mut waits: Vec<Duration> = (0..100)
        .filter_map(|number| {
            settled.metadata.uid = Some(format!("uid-{number}"));
            outage::spread(&settled, &cluster, now)
        })
        .collect();
    waits.sort();
    assert!(waits.len() > 90 && waits[waits.len() - 1] <= outage::SPREAD, "{waits:?}");
    assert!(waits[10] < Duration::from_secs(6) && waits[80] > Duration::from_secs(12), "{waits:?}");
    let later = Timestamp::from_second(1_800_000_021).expect("a time");
    assert_eq!(outage::spread(&settled, &cluster, later), None, "once");
    assert_eq!(outage::spread(&queue("{}"), &cluster, now), None, "a new one does not wait");
}

#[test]
fn only_whether_a_cluster_is_ready_concerns_its_queues() {
    let hash = |cluster: Box<BrokerCluster>| readiness(&kube::core::DeserializeGuard(Ok(*cluster)));
    let mut other_words = unready(cluster());
    let condition = &mut other_words.status.as_mut().expect("a status").conditions[0];
    condition.reason = "Stopping".to_owned();
    assert_eq!(hash(unready(cluster())), hash(other_words));
    assert_ne!(hash(unready(cluster())), hash(cluster()));
}

mod walk;
