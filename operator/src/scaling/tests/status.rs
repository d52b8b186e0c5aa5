//! What the status of a Queue says of scaling, and what is discarded.

use super::*;

#[tokio::test]
async fn a_missing_target_says_what_to_do() {
    let mut stage = Stage::new(0, json!({}));
    stage.server.remove_target();
    stage.end = 100;
    stage.connect();
    stage.seconds(20).await;
    let (status, reason, message) = stage.condition("ScalingActive");
    assert_eq!((&*status, &*reason), ("False", "TargetMissing"));
    assert!(message.contains("there is no Deployment order-worker: create it"), "{message}");
    stage.server.put_target(0);
    stage.seconds(12).await;
    assert_eq!(stage.server.replicas(), 1, "found when it is there: {:?}", stage.server.log());
}

#[tokio::test]
async fn a_kind_that_is_unknown_or_has_no_scale_is_named() {
    for (kind, expected) in [("Gadget", "TargetKindMissing"), ("DaemonSet", "TargetNotScalable")] {
        let mut stage = Stage::new(0, json!({}));
        let mut consumers = worker(json!({}));
        consumers[0]["targetRef"]["kind"] = json!(kind);
        *stage.queues.write() = vec![queue(consumers)];
        stage.end = 1;
        stage.connect();
        stage.seconds(10).await;
        assert_eq!(stage.condition("ScalingActive").1, expected);
    }
}

#[tokio::test]
async fn a_paused_queue_is_watched_and_left_alone() {
    let mut stage = Stage::new(0, json!({}));
    let mut paused = (*queue(worker(json!({})))).clone();
    paused.spec.management_state = ropewalk_operator_api::ManagementState::Paused;
    *stage.queues.write() = vec![Arc::new(paused)];
    stage.end = 100;
    stage.connect();
    stage.seconds(30).await;
    assert_eq!(stage.server.writes(), 0);
    assert_eq!(stage.condition("ScalingActive").1, "Disabled");
}

#[tokio::test]
async fn a_restarted_operator_goes_on_from_the_status() {
    let mut stage = Stage::new(1, json!({"minReplicas": 1}));
    let mut known = (*queue(worker(json!({"minReplicas": 1})))).clone();
    let status = json!({"consumers": [{
        "name": "worker", "perReplicaPerSecondMilli": 96_000,
        "lastScaleReason": "2→1: earlier", "lastScaleTime": "2026-01-01T00:00:00Z",
    }]});
    known.status = Some(serde_json::from_value(status).expect("a status"));
    *stage.queues.write() = vec![Arc::new(known)];
    stage.connect();
    stage.members = 1;
    stage.seconds(60).await;
    assert_eq!(stage.server.writes(), 0);
    let status = stage.server.status().expect("a status");
    assert_eq!(status["consumers"][0]["perReplicaPerSecondMilli"], 96_000);
    assert_eq!(status["consumers"][0]["lastScaleReason"], "2→1: earlier");
}

#[tokio::test]
async fn a_status_speaks_of_scaling_only_while_something_is_scaled() {
    let mut stage = Stage::new(1, json!({"minReplicas": 1}));
    let mut both = worker(json!({"minReplicas": 1}));
    let mut second = both[0].clone();
    second["name"] = json!("another");
    both.as_array_mut().expect("a list").push(second);
    *stage.queues.write() = vec![queue(both)];
    stage.connect();
    stage.seconds(30).await;
    let names = |stage: &Stage| -> Vec<String> {
        let status = stage.server.status().expect("a status");
        let consumers = status["consumers"].as_array().cloned().unwrap_or_default();
        consumers.iter().map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names(&stage).len(), 2);
    let spec = |stage: &Stage, consumers| {
        let status = stage.queues.read()[0].status.clone();
        let mut changed = queue(consumers);
        Arc::make_mut(&mut changed).status = status;
        *stage.queues.write() = vec![changed];
    };
    spec(&stage, worker(json!({"minReplicas": 1})));
    stage.seconds(10).await;
    assert_eq!(names(&stage), ["worker"]);
    // The last one loses its target.
    spec(&stage, json!([{"name": "worker"}]));
    stage.seconds(10).await;
    assert_eq!(stage.server.status(), Some(json!({})), "{:?}", stage.server.log());
    let written = stage.server.changes();
    stage.seconds(30).await;
    assert_eq!(stage.server.changes(), written, "once");
}

#[tokio::test]
async fn what_an_operator_before_this_one_wrote_of_scaling_goes_as_well() {
    let mut stage = Stage::new(1, json!({}));
    let mut left = (*queue(json!([{"name": "worker"}]))).clone();
    let status =
        json!({"consumerReplicas": "3/6", "consumers": [{"name": "worker", "replicas": 3}]});
    left.status = Some(serde_json::from_value(status).expect("a status"));
    *stage.queues.write() = vec![Arc::new(left)];
    stage.seconds(3).await;
    assert_eq!(stage.server.status(), Some(json!({})));
}

#[tokio::test]
async fn what_is_gone_is_forgotten() {
    let mut stage = Stage::new(1, json!({"minReplicas": 1}));
    stage.connect();
    stage.seconds(20).await;
    assert!(stage.metrics().contains("order"));
    stage.queues.write().clear();
    stage.seconds(2).await;
    assert!(!stage.metrics().contains("orders"), "{}", stage.metrics());
    assert!(stage.autoscaler.consumers.lock().is_empty());
}
