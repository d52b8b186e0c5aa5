//! To zero and back: wake-ups, idle groups, hibernation.

use super::*;

#[tokio::test]
async fn a_message_wakes_a_consumer_from_zero() {
    let mut stage = Stage::new(0, json!({"expectedPerReplicaPerSecond": 100}));
    stage.connect();
    stage.seconds(30).await;
    assert_eq!(stage.server.writes(), 0, "{:?}", stage.server.log());
    stage.end = 500;
    stage.state();
    stage.wake(500).await;
    assert_eq!(stage.server.replicas(), 1, "{:?}", stage.server.log());
    assert_eq!(stage.server.managers(), ["ropewalk-operator/autoscaler"]);
    stage.seconds(2).await;
    let (reason, note) = stage.server.events().pop().expect("an Event");
    assert_eq!(reason, "Scaled");
    assert!(note.contains("0→1: 500 messages wait and no consumer runs"), "{note}");
    let status = stage.server.status().expect("a status");
    assert_eq!(status["consumers"][0]["desiredReplicas"], 1);
    assert!(status["consumers"][0]["lastScaleReason"].as_str().expect("text").starts_with("0→1"));
    assert!(stage.metrics().contains(
        r#"ropewalk_autoscaler_desired_replicas{namespace="shop",queue="orders",consumer="worker"} 1"#
    ), "{}", stage.metrics());
}

#[tokio::test]
async fn the_level_wakes_as_well_as_the_edge() {
    // The operator was not running when the message came, so it received no first wake-up.
    let mut stage = Stage::new(0, json!({}));
    stage.end = 7;
    stage.connect();
    stage.seconds(2).await;
    assert_eq!(stage.server.replicas(), 1, "{:?}", stage.server.log());
}

#[tokio::test]
async fn to_zero_and_what_arrives_with_the_write_brings_it_back() {
    let mut stage = Stage::new(1, json!({"idleSeconds": 30}));
    stage.connect();
    stage.members = 1;
    // A message arrives while the zero is being written.
    let table = stage.table.clone();
    let origin = stage.origin;
    stage.server.on_write(move |replicas| {
        if replicas == 0 {
            let state = json!({
                "kind": "state", "topic": "orders", "topicId": "t", "group": "shop.orders.worker",
                "length": 1, "partitions": [{"partition": 0, "length": 1, "end": 1, "committed": 0}],
            });
            let line = line::parse(state.to_string().as_bytes()).expect("a line");
            table.take(&cluster(), line, origin + Duration::from_secs(30));
        }
    });
    let mut written = 0;
    while written == 0 && stage.second < 60 {
        stage.seconds(1).await;
        written = stage.server.writes();
    }
    assert_eq!(stage.server.counts(), [0, 1], "{:?}", stage.server.log());
    assert!(stage.second >= 30, "not before the gate: {}", stage.second);
}

#[tokio::test]
async fn a_wake_up_during_a_decision_counts_in_it_and_begins_no_second_one() {
    let mut stage = Stage::new(0, json!({}));
    stage.connect();
    stage.seconds(30).await;
    let mut due = Vec::new();
    while due.is_empty() {
        stage.second += 1;
        stage.state();
        due = stage.autoscaler.tick(stage.now());
    }
    stage.end = 7;
    stage.state();
    let second = stage.autoscaler.on_wake_up(&wake_up(7), stage.now());
    assert!(second.is_empty(), "it is being decided");
    for (key, entry) in due {
        stage.autoscaler.act(&key, &entry).await;
    }
    assert_eq!(stage.server.counts(), [1], "{:?}", stage.server.log());
}

#[tokio::test]
async fn a_wake_up_looks_at_the_consumers_of_its_group_only() {
    let stage = Stage::new(0, json!({}));
    for number in 0..50 {
        let mut other = (*stage.queues.read()[0]).clone();
        other.metadata.name = Some(format!("other-{number}"));
        other.metadata.uid = Some(format!("other-{number}"));
        stage.queues.write().push(Arc::new(other));
    }
    stage.connect();
    stage.autoscaler.tick(stage.now());
    let consumers = stage.autoscaler.consumers.lock().clone();
    assert_eq!(consumers.len(), 51);
    for entry in consumers.values() {
        entry.lock().is_busy = false;
    }
    let wake = wake_up(7);
    // For the other consumers a read of the target would be waited for without end.
    let others = consumers.iter().filter(|(key, _)| key.queue != "u1");
    let held: Vec<_> = others.map(|(_, entry)| entry.lock()).collect();
    let (sender, receiver) = std::sync::mpsc::channel();
    let (autoscaler, now) = (stage.autoscaler.clone(), stage.now());
    let looking = std::thread::spawn(move || {
        let due = autoscaler.on_wake_up(&wake, now);
        sender.send(due.into_iter().map(|(key, _)| key.queue).collect::<Vec<_>>()).ok();
    });
    let due = receiver.recv_timeout(Duration::from_secs(60));
    drop(held);
    looking.join().expect("the wake-up ends");
    assert_eq!(due.expect("it waits for the consumers of other groups"), ["u1"]);
}

#[tokio::test]
async fn hibernation_takes_consumers_to_their_minimum_and_says_when() {
    let mut stage = Stage::new(4, json!({"minReplicas": 1}));
    stage.seconds_unconnected(20).await;
    stage.hibernations.begin(&cluster(), stage.now());
    assert_eq!(
        stage.hibernations.awaits(&cluster(), stage.now()),
        Some(vec![]),
        "scaling has not reported"
    );
    stage.autoscaler.tick(stage.now());
    let waited_for = stage.hibernations.awaits(&cluster(), stage.now());
    assert_eq!(waited_for, Some(vec!["orders/worker".to_owned()]));
    stage.release().await;
    stage.seconds_unconnected(40).await;
    assert_eq!(stage.server.counts(), [1], "{:?}", stage.server.log());
    assert_eq!(stage.hibernations.awaits(&cluster(), stage.now()), None, "they may be stopped");
    assert_eq!(stage.condition("ScalingActive").1, "Hibernating");
}
