//! One target of several queues, and one group of several targets.

use super::*;

/// A second queue, whose consumer has the same target.
fn bills(scaling: &serde_json::Value) -> Arc<Queue> {
    let mut bills = (*queue(worker(scaling.clone()))).clone();
    bills.metadata.name = Some("bills".to_owned());
    bills.metadata.uid = Some("u2".to_owned());
    Arc::new(bills)
}

#[tokio::test]
async fn one_target_of_two_queues_wakes_for_either_and_sleeps_when_both_are_idle() {
    let scaling = json!({"idleSeconds": 30, "expectedPerReplicaPerSecond": 100});
    let mut stage = Stage::new(0, scaling.clone());
    stage.queues.write().push(bills(&scaling));
    stage.bills = Some((0, 0));
    stage.connect();
    stage.seconds(20).await;
    assert_eq!(stage.server.writes(), 0, "{:?}", stage.server.log());
    // The queue that is second by name has the message and the wake-up.
    stage.end = 7;
    stage.state();
    stage.wake(7).await;
    assert_eq!(stage.server.counts(), [1], "{:?}", stage.server.log());
    // One of them continues; the other has nothing to do.
    stage.members = 1;
    for _ in 0..90 {
        stage.end += 1;
        stage.committed = stage.end;
        stage.seconds(1).await;
    }
    assert_eq!(stage.server.counts(), [1], "not while either works: {:?}", stage.server.log());
    assert_eq!(stage.condition("ScalingActive").1, "Scaling");
    stage.seconds(60).await;
    assert_eq!(stage.server.counts(), [1, 0], "{:?}", stage.server.log());
    // The first by name is also scaled up from zero.
    stage.members = 0;
    stage.bills = Some((3, 0));
    stage.seconds(8).await;
    assert_eq!(stage.server.counts(), [1, 0, 1], "{:?}", stage.server.log());
}

#[tokio::test]
async fn one_target_of_two_queues_gets_the_most_that_either_asks_for() {
    let least = |min: u32| json!({"minReplicas": min, "maxReplicas": 9, "expectedPerReplicaPerSecond": 100});
    let mut stage = Stage::new(1, least(2));
    stage.queues.write().push(bills(&least(4)));
    stage.bills = Some((0, 0));
    stage.connect();
    stage.members = 1;
    stage.seconds(60).await;
    assert_eq!(stage.server.replicas(), 4, "{:?}", stage.server.log());
    let writes = stage.server.writes();
    stage.members = 4;
    stage.seconds(60).await;
    assert_eq!(stage.server.writes(), writes, "they do not pull it to and fro");
    let status = stage.server.status().expect("a status");
    assert_eq!(status["consumers"][0]["desiredReplicas"], 4, "what it gets");
    assert_eq!(status["consumerReplicas"], "4/4");
}

#[tokio::test]
async fn a_queue_that_is_switched_off_keeps_a_shared_target_from_zero_while_messages_wait() {
    let scaling = json!({"idleSeconds": 10});
    let mut paused = (*bills(&scaling)).clone();
    paused.spec.management_state = ropewalk_operator_api::ManagementState::Paused;
    let disabled = (*bills(&json!({"idleSeconds": 10, "mode": "Disabled"}))).clone();
    let mut going = paused.clone();
    going.metadata.deletion_timestamp = Some(crate::scaling::wall());
    for (second, left) in [(paused, 1), (disabled, 1), (going, 0)] {
        let mut stage = Stage::new(3, scaling.clone());
        stage.queues.write().push(Arc::new(second));
        stage.bills = Some((10, 0));
        stage.connect();
        stage.members = 3;
        stage.seconds(120).await;
        assert_eq!(stage.server.replicas(), left, "{:?}", stage.server.log());
        stage.members = left;
        stage.bills = Some((10, 10));
        stage.seconds(120).await;
        assert_eq!(stage.server.replicas(), 0, "nothing waits: {:?}", stage.server.log());
    }
}

#[tokio::test]
async fn k3_one_target_of_two_queues_stays_up_while_either_is_unknown() {
    let scaling = json!({"idleSeconds": 10});
    let mut stage = Stage::new(1, scaling.clone());
    stage.queues.write().push(bills(&scaling));
    stage.connect();
    stage.members = 1;
    // The brokers send nothing about the second queue.
    stage.seconds(120).await;
    assert_eq!(stage.server.writes(), 0, "{:?}", stage.server.log());
    stage.bills = Some((0, 0));
    stage.seconds(60).await;
    assert_eq!(stage.server.counts(), [0], "{:?}", stage.server.log());
}

/// A second queue that is read by the same group, for a target of its own.
fn bills_of_the_same_group(target: &str) -> Arc<Queue> {
    let mut bills = (*queue(json!([{
        "name": "worker",
        "groupId": "shop.orders.worker",
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target},
    }])))
    .clone();
    bills.metadata.name = Some("bills".to_owned());
    bills.metadata.uid = Some("u2".to_owned());
    Arc::new(bills)
}

#[tokio::test]
async fn members_that_work_for_another_target_of_the_same_group_are_not_taken_for_ours() {
    // Three members for three replicas, of which one holds a partition. With one target the others
    // wait for partitions. With two targets they belong to the other target, and two of our pods
    // have not joined.
    for (target, missing) in [("order-worker", false), ("bill-worker", true)] {
        let scaling = json!({"minReplicas": 3, "maxReplicas": 3});
        let mut stage = Stage::new(3, scaling);
        stage.queues.write().push(bills_of_the_same_group(target));
        stage.members = 3;
        stage.connect();
        stage.seconds(150).await;
        let is_missing = stage.condition("ScalingActive").1 == "ConsumersNotJoining"
            || stage.condition("ScalingLimited").1 == "ConsumersNotJoining";
        assert_eq!(is_missing, missing, "{target}: {:?}", stage.server.status());
    }
}
