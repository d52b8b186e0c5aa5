//! What scaling costs the API server where nothing changes (K1), or where the API server is slow.

use super::*;

#[tokio::test]
async fn k1_a_consumer_that_is_right_costs_next_to_nothing() {
    let mut stage = Stage::new(1, json!({"minReplicas": 1}));
    stage.connect();
    stage.members = 1;
    stage.seconds(60).await;
    let before = stage.server.requests();
    let written = stage.server.changes();
    stage.seconds(600).await;
    let requests = stage.server.requests() - before;
    // One read of the target, and one list of autoscalers a minute.
    assert!(requests <= 13, "{requests} requests in 10 minutes: {:?}", stage.server.log());
    assert_eq!(stage.server.changes(), written, "{:?}", stage.server.log());
}

#[tokio::test]
async fn k1_figures_that_only_move_are_written_twice_a_minute_at_most() {
    let mut stage = Stage::new(1, json!({"minReplicas": 1, "maxReplicas": 1}));
    stage.connect();
    stage.members = 1;
    let speed = |second: i64| 100 + second / 10 % 7 * 40;
    for second in 0..300 {
        stage.end += 400;
        stage.committed += speed(second);
        stage.seconds(1).await;
    }
    let written = stage.server.changes();
    for second in 300..900 {
        stage.end += 400;
        stage.committed += speed(second);
        stage.seconds(1).await;
    }
    let changes = stage.server.changes() - written;
    assert!((1..=600 / 30 + 2).contains(&changes), "{changes} in ten minutes");
}

#[tokio::test]
async fn k1_an_idle_consumer_at_zero_is_hardly_looked_at() {
    let mut stage = Stage::new(0, json!({}));
    stage.connect();
    stage.seconds(60).await;
    let before = stage.server.requests();
    stage.seconds(1200).await;
    let requests = stage.server.requests() - before;
    // The autoscalers of a namespace once a minute; every ten minutes whether KEDA was installed.
    assert!(requests <= 24, "{requests} requests in 20 minutes: {:?}", stage.server.log());
}

#[tokio::test]
async fn a_slow_api_server_does_not_age_what_is_decided() {
    let mut stage = Stage::new(1, json!({"minReplicas": 1}));
    let (clock, second) = (stage.clock.clone(), Duration::from_secs(1));
    stage.server.on_read(move || *clock.lock() += second * 3);
    stage.connect();
    stage.seconds(1).await;
    let entries = stage.autoscaler.consumers.lock().clone();
    let consumer = entries.values().next().expect("a consumer").lock();
    let (_, seen) = consumer.seen.expect("it was read");
    assert!(seen >= stage.now() + second * 3, "it was read when the answer came");
    assert!(consumer.due >= stage.now() + second * 6);
}
