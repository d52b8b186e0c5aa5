//! Counts that other autoscalers, tools or users change as well, and a process that does not lead.

use super::server::Server;
use super::*;

#[tokio::test]
async fn a_count_that_a_person_changed_is_noticed_by_its_members() {
    let mut stage = Stage::new(1, json!({"minReplicas": 1}));
    stage.connect();
    stage.members = 1;
    stage.seconds(60).await;
    stage.server.put_target(3);
    stage.members = 3;
    stage.seconds(25).await;
    let status = stage.server.status().expect("a status");
    assert_eq!(status["consumerReplicas"], "3/3", "{:?}", stage.server.log());
}

#[tokio::test]
async fn an_autoscaler_of_somebody_else_is_not_fought() {
    let mut stage = Stage::new(0, json!({}));
    stage.server.add_autoscaler("Deployment", "order-worker");
    stage.end = 100;
    stage.connect();
    stage.seconds(60).await;
    assert_eq!(stage.server.writes(), 0);
    let (status, reason, message) = stage.condition("ScalingActive");
    assert_eq!((&*status, &*reason), ("False", "ConflictingAutoscaler"));
    assert!(message.contains("HorizontalPodAutoscaler order-worker"), "{message}");
    stage.server.clear_autoscalers();
    stage.seconds(60).await;
    assert_eq!(stage.server.replicas(), 1, "scaling resumes once the other is gone");
    assert_eq!(stage.condition("ScalingActive").1, "Scaling");
}

#[tokio::test]
async fn a_scaled_object_is_not_fought_and_keda_need_not_be_there() {
    let mut stage = Stage::new(0, json!({}));
    stage.server.install_keda("order-worker");
    stage.end = 100;
    stage.connect();
    stage.seconds(30).await;
    assert_eq!(stage.server.writes(), 0);
    let (_, reason, message) = stage.condition("ScalingActive");
    assert_eq!(reason, "ConflictingAutoscaler");
    assert!(message.contains("ScaledObject"), "{message}");
}

#[tokio::test]
async fn an_autoscaler_of_another_target_is_no_conflict() {
    for (kind, name) in [("Deployment", "web"), ("StatefulSet", "order-worker")] {
        let mut stage = Stage::new(0, json!({}));
        stage.server.add_autoscaler(kind, name);
        stage.end = 100;
        stage.connect();
        stage.seconds(10).await;
        assert_eq!(stage.server.replicas(), 1, "{kind} {name}");
    }
}

#[tokio::test]
async fn an_autoscaler_that_came_since_the_last_look_is_found_before_a_count_is_written() {
    let mut stage = Stage::new(0, json!({}));
    stage.connect();
    // Autoscalers were listed at the beginning, and are again after a minute.
    stage.seconds(30).await;
    stage.server.add_autoscaler("Deployment", "order-worker");
    stage.end = 100;
    stage.seconds(10).await;
    assert_eq!(stage.server.writes(), 0, "{:?}", stage.server.log());
    assert_eq!(stage.condition("ScalingActive").1, "ConflictingAutoscaler");
}

#[tokio::test]
async fn who_sets_replicas_back_is_named_and_not_fought() {
    let mut stage = Stage::new(2, json!({"idleSeconds": 10}));
    stage.server.overwrite_with(2);
    stage.connect();
    stage.members = 2;
    stage.seconds(400).await;
    assert_eq!(stage.server.counts(), [0, 0, 0], "{:?}", stage.server.log());
    let (status, reason, message) = stage.condition("ScalingActive");
    assert_eq!((&*status, &*reason), ("False", "ReplicasOverwritten"));
    assert!(
        message.contains("`argocd-controller`") && message.contains("ignoreDifferences"),
        "{message}"
    );
    let report = stage.server.events().into_iter().filter(|(why, _)| why == "ReplicasOverwritten");
    assert_eq!(report.count(), 1);
    // Scaling resumes after the back-off: the manifest may have been corrected by then.
    stage.server.overwrite_no_more();
    stage.seconds(700).await;
    assert_eq!(stage.server.replicas(), 0, "{:?}", stage.server.log());
    assert_eq!(stage.condition("ScalingActive").1, "Scaling");
}

/// Another client sets the count to 5 by `set`; the count that is decided then is not written.
async fn is_not_written_over(set: impl FnOnce(&Server)) {
    let mut stage = Stage::new(0, json!({}));
    stage.connect();
    stage.seconds(20).await;
    set(&stage.server);
    stage.end = 100;
    stage.seconds(1).await;
    assert_eq!(
        (stage.server.replicas(), stage.server.writes()),
        (5, 0),
        "{:?}",
        stage.server.log()
    );
}

#[tokio::test]
async fn k2_a_count_that_was_changed_since_the_decision_is_not_written_over() {
    is_not_written_over(|server| server.put_target(5)).await;
}

#[tokio::test]
async fn k2_a_count_that_somebody_changed_is_not_written_over() {
    // The change comes between the live read and the write.
    is_not_written_over(|server| server.race_once(5)).await;
}

#[tokio::test]
async fn k2_who_does_not_lead_writes_no_count() {
    let mut stage = Stage::led(0, json!({}), None);
    stage.end = 100;
    stage.connect();
    stage.seconds(30).await;
    assert_eq!((stage.server.replicas(), stage.server.writes()), (0, 0));
}
