//! The chart grants the operator exactly the permissions that its code uses.
//!
//! A missing permission makes the fake API server refuse the request. A superfluous one is detected
//! here: every permission must have been used by a cluster from creation to deletion, or be in the
//! list of those that other parts use.

use super::*;
use crate::fake_api_server::granted;

/// Permissions of the parts that this test does not cover: verb, group, resource, part.
const ELSEWHERE: &[(&str, &str, &str, &str)] = &[
    ("list", "ropewalk.dev", "queues", "watch"),
    ("watch", "ropewalk.dev", "queues", "watch"),
    ("patch", "ropewalk.dev", "queues", "finalizer"),
    ("patch", "ropewalk.dev", "queues/status", "queue, status metrics, scaling"),
    ("list", "ropewalk.dev", "brokerclusters", "watch"),
    ("watch", "ropewalk.dev", "brokerclusters", "watch"),
    ("create", "ropewalk.dev", "brokerclusters", "queue/resolve"),
    ("update", "ropewalk.dev", "brokerclusters/finalizers", "owners that block deletion"),
    ("watch", "apps", "statefulsets", "watch"),
    ("watch", "", "services", "watch"),
    ("watch", "", "configmaps", "watch"),
    ("watch", "", "persistentvolumeclaims", "watch"),
    ("watch", "", "pods", "watch"),
    ("get", "", "namespaces", "queue/removal"),
    ("get", "apps", "deployments/scale", "scaling/target"),
    ("update", "apps", "deployments/scale", "scaling/target"),
    ("get", "apps", "statefulsets/scale", "scaling/target"),
    ("update", "apps", "statefulsets/scale", "scaling/target"),
    ("get", "apps", "replicasets/scale", "scaling/target"),
    ("update", "apps", "replicasets/scale", "scaling/target"),
    ("get", "apps", "deployments", "scaling/contest"),
    ("get", "apps", "statefulsets", "scaling/contest"),
    ("get", "apps", "replicasets", "scaling/contest"),
    ("list", "autoscaling", "horizontalpodautoscalers", "scaling/conflicts"),
    ("list", "keda.sh", "scaledobjects", "scaling/conflicts"),
    ("patch", "events.k8s.io", "events", "an Event that comes again"),
];

#[tokio::test]
async fn the_chart_gives_exactly_the_rights_that_the_code_asks_for() {
    let stage = Stage::set(&json!({"deletionPolicy": "Delete"})).await;
    stage.reconcile().await;
    // Events are listed while something is missing.
    stage.reconcile().await;
    stage.settle().await;
    stage.change_spec(&json!({"version": "0.2.0"}), 2);
    stage.reconcile().await;
    stage.run_pod("pod-2");
    stage.reconcile().await;
    stage.hibernate(3);
    stage.reconcile().await;
    let deleted = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    stage.server.change(CLUSTER, &deleted);
    stage.reconcile().await;
    let asked = stage.server.asked();
    let is_listed = |verb: &str, group: &str, resource: &str| {
        ELSEWHERE.iter().any(|(v, g, r, _)| (*v, *g, *r) == (verb, group, resource))
    };
    for (verb, group, resource) in granted() {
        let is_used = asked.contains(&(*verb, group.clone(), resource.clone()));
        assert!(
            is_used || is_listed(verb, group, resource),
            "no part of the operator needs {verb} {resource}"
        );
    }
    for (verb, group, resource, part) in ELSEWHERE {
        let right = (*verb, (*group).to_owned(), (*resource).to_owned());
        assert!(granted().contains(&right), "{part} needs {verb} {resource}");
    }
}
