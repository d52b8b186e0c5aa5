//! What the status of a Queue says, and when it is written.

use k8s_openapi::jiff::Timestamp;
use ropewalk_operator_plan::queue::Refused;

use super::*;

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

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).expect("a time"))
}

#[test]
fn k1_a_converged_queue_is_not_written() {
    let declared = Declared { topic_id: "t".into(), partitions: 12, ..Declared::default() };
    let resolved = Resolved::Found(cluster());
    let mut queue = queue("{}");
    let status_of = |queue: &Queue, second| {
        let facts = Facts {
            queue,
            cluster: resolved.seen(),
            declared: Some(Ok(declared.clone())),
            unbound: vec![],
        };
        status(&facts, &resolved, &queue.status.clone().unwrap_or_default(), &at(second))
    };
    let first = status_of(&queue, 1000);
    assert!(condition::is_true(&first.conditions, condition::READY));
    assert_eq!(first.bootstrap_servers.as_deref(), Some("b:9092"));
    // The figures and the scaling add what is theirs.
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
    let refused = Refused { reason: "ClusterNotFound", message: "gone".into() };
    let resolved = Resolved::Missing(refused);
    let facts = Facts { queue: &queue, cluster: resolved.seen(), declared: None, unbound: vec![] };
    let status = status(&facts, &resolved, &queue.status.clone().unwrap_or_default(), &at(1));
    assert_eq!(status.cluster_name.as_deref(), Some("default"));
    assert_eq!((status.topic_id.as_deref(), status.partitions), (Some("t"), Some(12)));
    assert!(!condition::is_true(&status.conditions, condition::READY));
}
