//! Brokers that cannot be reached, or that send few signals.

use super::*;

#[tokio::test]
async fn k3_nothing_is_written_while_the_broker_cannot_be_reached() {
    let mut stage = Stage::new(3, json!({}));
    for _ in 0..120 {
        stage.second().await;
    }
    assert_eq!(stage.server.writes(), 0);
    let (status, reason, message) = stage.condition("ScalingActive");
    assert_eq!((&*status, &*reason), ("Unknown", "SignalsUnknown"));
    assert!(message.contains("no signal stream"), "{message}");
    // A silent stream has the same effect.
    stage.connect();
    stage.end = 100_000;
    stage.seconds(1).await;
    for _ in 0..60 {
        stage.second().await;
    }
    assert_eq!(stage.server.writes(), 0);
}

#[tokio::test]
async fn a_broker_that_ticks_every_four_seconds_is_scaled_for() {
    let scaling = json!({"minReplicas": 1, "maxReplicas": 6, "expectedPerReplicaPerSecond": 100});
    let mut stage = Stage::new(1, scaling);
    stage.connect();
    stage.members = 1;
    for second in 0..80 {
        stage.end += 500;
        stage.committed += 100;
        if second % 4 == 0 {
            stage.state();
        }
        stage.second().await;
    }
    assert_eq!(stage.condition("ScalingActive").1, "Scaling", "it is not frozen");
}

#[tokio::test]
async fn a_group_is_idle_only_from_a_line_that_shows_that_nothing_came() {
    let mut stage = Stage::new(1, json!({"idleSeconds": 2}));
    stage.connect();
    stage.members = 1;
    // A message arrives and is processed between any two lines of a broker that sends few.
    for second in 0..120 {
        if second % 4 == 0 {
            stage.end += 1;
            stage.committed = stage.end;
            stage.state();
        }
        stage.second().await;
    }
    assert_eq!(stage.server.counts(), Vec::<u32>::new(), "{:?}", stage.server.log());
    // No more messages arrive.
    for second in 0..24 {
        if second % 4 == 0 {
            stage.state();
        }
        stage.second().await;
    }
    assert_eq!(stage.server.counts(), [0], "{:?}", stage.server.log());
}
