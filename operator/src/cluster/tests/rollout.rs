//! Settings and restarts, where brokers do not answer, are not ready, or may not be stopped.

use super::*;

fn recorded(stage: &Stage) -> String {
    let annotations = stage.server.at(SET)["metadata"]["annotations"].clone();
    annotations["ropewalk.dev/pod-intent"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_change_that_was_not_sent_is_not_recorded_as_done() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    let before = recorded(&stage);
    stage.broker.lock().is_silent = true;
    stage.change_spec(&json!({"config": {"num.partitions": "3"}}), 2);
    for _ in 0..3 {
        stage.reconcile().await;
    }
    assert_eq!(recorded(&stage), before);
    assert_eq!(stage.condition("ConfigurationApplied").0, "Unknown");
    // It answers again, and needs the restart that the user asked for.
    {
        let mut broker = stage.broker.lock();
        (broker.is_silent, broker.waiting) = (false, vec!["num.partitions"]);
    }
    let writes = stage.reconcile().await;
    assert!(writes.contains(&EVICTION.to_owned()), "{writes:?}");
}

#[tokio::test]
async fn a_second_change_during_the_restart_of_the_first_gets_its_own_restart() {
    for says in [false, true] {
        let stage = Stage::set(&json!({})).await;
        stage.broker.lock().reports_its_hash = says;
        stage.settle().await;
        stage.change_spec(&json!({"config": {"num.partitions": "3"}}), 2);
        stage.broker.lock().waiting = vec!["num.partitions"];
        assert!(stage.reconcile().await.contains(&EVICTION.to_owned()));
        // The new pod starts with the first file, and the second change comes before it is ready.
        stage.broker.lock().waiting.clear();
        stage.run_pod("pod-2");
        let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
        stage.server.change(POD, &not_ready);
        stage.broker.lock().recovers = true;
        stage.change_spec(&json!({"config": {"num.partitions": "4"}}), 3);
        for _ in 0..3 {
            let writes = stage.reconcile().await;
            assert!(!writes.contains(&EVICTION.to_owned()), "it recovers: {writes:?}");
        }
        assert_eq!(stage.condition("ConfigurationApplied").0, "Unknown");
        {
            let mut broker = stage.broker.lock();
            (broker.recovers, broker.waiting) = (false, vec!["num.partitions"]);
        }
        let writes = stage.reconcile().await;
        assert!(writes.contains(&EVICTION.to_owned()), "{writes:?}");
        stage.broker.lock().waiting.clear();
        stage.is_restarted_once("pod-3").await;
        assert_eq!(stage.condition("ConfigurationApplied").0, "True");
    }
}

#[tokio::test]
async fn a_broker_that_reports_its_hash_is_sent_settings_only_when_it_differs() {
    let stage = Stage::set(&json!({})).await;
    stage.broker.lock().reports_its_hash = true;
    stage.settle().await;
    let before = stage.broker.lock().settings_sent;
    // Another operator becomes leader, without the log of settings.
    let mut context = (*stage.context).clone();
    (context.settings_log, context.contested) = Default::default();
    let newer = Stage { context: Arc::new(context), ..stage };
    newer.reconcile().await;
    assert_eq!(newer.broker.lock().settings_sent, before);
    // Another client has sent the broker other settings.
    newer.broker.lock().sent_hash = Some("else".into());
    newer.reconcile().await;
    assert_eq!(newer.broker.lock().settings_sent, before + 1);
}

#[tokio::test]
async fn a_full_broker_whose_pod_is_not_ready_gets_the_retention_that_makes_room() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    let full = json!({"kind": "storage_full", "message": "the disk is full", "count": 1});
    stage.broker.lock().conditions = vec![full];
    stage.broker.lock().is_unready = true;
    let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    stage.server.change(POD, &not_ready);
    stage.change_spec(&json!({"config": {"log.retention.ms": "1000"}}), 2);
    let before = stage.broker.lock().settings_sent;
    stage.reconcile().await;
    assert_eq!(stage.broker.lock().settings_sent, before + 1);
    assert_eq!(stage.condition("StorageFull").0, "True");
    assert_eq!(stage.condition("AdminReachable").0, "True");
    assert_eq!(stage.warnings().iter().filter(|reason| *reason == "VolumeFull").count(), 1);
    let file = stage.server.at(CONFIG)["data"]["broker.properties"].to_string();
    assert!(file.contains("log.retention.ms=1000"));
}

#[tokio::test]
async fn a_file_that_a_running_broker_had_no_chance_to_refuse_is_not_written() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    let file = |stage: &Stage| stage.server.at(CONFIG)["data"]["broker.properties"].to_string();
    stage.broker.lock().is_silent = true;
    stage.change_spec(&json!({"config": {"num.partitions": "no number"}}), 2);
    stage.reconcile().await;
    assert!(!file(&stage).contains("no number"));
    // A process in a crash loop may need just this file.
    stage.process_ends_again_and_again();
    stage.reconcile().await;
    assert!(file(&stage).contains("no number"));
}

#[tokio::test]
async fn a_file_that_a_broker_refused_is_not_written_also_when_its_process_ends_again_and_again() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    stage.process_ends_again_and_again();
    stage.broker.lock().refuses = true;
    stage.change_spec(&json!({"config": {"num.partitions": "no number"}}), 2);
    for _ in 0..2 {
        let (outcome, _) = stage.try_reconcile().await;
        assert!(outcome.is_err(), "it is tried again");
    }
    let file = stage.server.at(CONFIG)["data"]["broker.properties"].to_string();
    assert!(!file.contains("no number"), "{file}");
    assert_eq!(stage.condition("ConfigurationApplied").1, "InvalidSetting");
}

#[tokio::test]
async fn k2_a_restart_that_the_spec_no_longer_asks_for_is_not_begun() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    let template = stage.server.at(SET)["spec"]["template"].clone();
    stage.change_spec(&json!({"version": "0.2.0"}), 2);
    // The first read begins the reconcile; the live one is right before the restart.
    let look = format!("GET {CLUSTER}");
    stage.server.before(&look, |_| {});
    stage.server.before(&look, |server| {
        let back = json!({"spec": {"version": null}, "metadata": {"generation": 3}});
        server.change(CLUSTER, &back);
    });
    let (_, writes) = stage.try_reconcile().await;
    assert!(!writes.contains(&EVICTION.to_owned()), "{writes:?}");
    assert_eq!(stage.server.at(CLUSTER)["metadata"]["generation"], 3, "the live look was made");
    assert_eq!(stage.server.at(SET)["spec"]["template"], template);
    assert_eq!(stage.server.at(POD)["metadata"]["uid"], "pod-1");
}

#[tokio::test]
async fn k2_another_pod_of_that_name_survives_the_restart_that_was_not_about_it() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    stage.change_spec(&json!({"version": "0.2.0"}), 2);
    // Between the dry run and the eviction another pod takes the name.
    stage.server.before(EVICTION, |_| {});
    stage.server.before(EVICTION, |server| {
        server.change(POD, &json!({"metadata": {"uid": "pod-2"}}));
    });
    let (outcome, _) = stage.try_reconcile().await;
    assert!(outcome.is_err(), "it is reconciled again");
    assert_eq!(stage.server.at(POD)["metadata"]["uid"], "pod-2");
}

#[tokio::test]
async fn a_restart_that_a_disruption_budget_forbids_is_not_begun_and_says_so() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    let template = stage.server.at(SET)["spec"]["template"].clone();
    stage.server.refuse_evictions(Some("it would violate the pod's disruption budget strict"));
    stage.change_spec(&json!({"version": "0.2.0"}), 2);
    let (outcome, _) = stage.try_reconcile().await;
    assert!(outcome.is_err(), "it is tried again");
    assert_eq!(stage.server.at(SET)["spec"]["template"], template);
    let (_, reason, message) = stage.condition("Progressing");
    assert_eq!(reason, "EvictionRefused");
    assert!(message.contains("disruption budget strict"), "{message}");
    stage.server.refuse_evictions(None);
    assert!(stage.reconcile().await.contains(&EVICTION.to_owned()));
}

#[tokio::test]
async fn an_eviction_that_is_answered_with_created_and_a_failure_is_refused() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    let template = stage.server.at(SET)["spec"]["template"].clone();
    stage.server.set_two_budgets(true);
    stage.change_spec(&json!({"version": "0.2.0"}), 2);
    let (outcome, _) = stage.try_reconcile().await;
    assert!(outcome.is_err(), "it is tried again");
    assert_eq!(stage.server.at(SET)["spec"]["template"], template, "it is not begun");
    assert_eq!(stage.server.at(POD)["metadata"]["uid"], "pod-1");
    let (_, reason, message) = stage.condition("Progressing");
    assert_eq!(reason, "EvictionRefused");
    assert!(message.contains("more than one PodDisruptionBudget"), "{message}");
    stage.server.set_two_budgets(false);
    assert!(stage.reconcile().await.contains(&EVICTION.to_owned()));
}

#[tokio::test]
async fn an_admin_api_that_is_cut_off_stops_restarts_and_is_said() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    stage.broker.lock().is_silent = true;
    stage.change_spec(&json!({"version": "0.2.0"}), 2);
    for _ in 0..2 {
        let writes = stage.reconcile().await;
        assert!(!writes.contains(&EVICTION.to_owned()), "{writes:?}");
    }
    assert_eq!(stage.condition("AdminReachable").1, "AdminUnreachable");
    assert_eq!(stage.condition("RestartPending").1, "WaitingForAnswer");
    assert_eq!(stage.warnings(), ["AdminUnreachable"]);
}

#[tokio::test]
async fn a_broker_that_is_back_from_a_restart_raises_no_alarm_about_its_admin_api() {
    // The operator saw the deletion of the pod, or only that no broker answered for a while.
    for saw_it in [true, false] {
        let stage = Stage::set(&json!({})).await;
        stage.settle().await;
        let serving = stage.server.at(POD)["status"].clone();
        stage.broker.lock().is_gone = true;
        if saw_it {
            let not_ready =
                json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
            stage.server.change(POD, &not_ready);
            stage.reconcile().await;
        }
        // Other calls fail meanwhile, until the breaker lets none through.
        let target = Target { cluster: ClusterKey::new("shop", "prod"), broker: 0 };
        for _ in 0..4 {
            let answer = stage.context.brokers.ask::<Value>(&target, "/v1/broker").await;
            assert!(answer.is_err());
        }
        stage.broker.lock().is_gone = false;
        stage.server.change(POD, &json!({ "status": serving }));
        for _ in 0..3 {
            stage.reconcile().await;
            assert_ne!(stage.condition("AdminReachable").0, "False", "saw it: {saw_it}");
        }
        assert_eq!(stage.condition("AdminReachable").0, "True", "saw it: {saw_it}");
        assert_eq!(stage.warnings(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_is_known_of_a_cluster_is_forgotten_with_it() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    assert_eq!(stage.context.settings_log.0.lock().len(), 1);
    let cluster = serde_json::from_value(stage.server.at(CLUSTER)).expect("a cluster");
    stage.server.remove(CLUSTER);
    reconcile(cluster, stage.context.clone()).await.expect("nothing to be done");
    assert!(stage.context.settings_log.0.lock().is_empty());
}

/// The new pod exists, and its image cannot be pulled.
fn run_pod_without_its_image(stage: &Stage, uid: &str) {
    stage.run_pod(uid);
    let why = json!({"reason": "ImagePullBackOff", "message": "no such image"});
    let container = json!({
        "name": "broker", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": why},
    });
    let status = json!({
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [container],
    });
    stage.server.change(POD, &json!({ "status": status }));
    stage.broker.lock().is_gone = true;
}

#[tokio::test]
async fn an_image_that_cannot_run_is_rolled_back_also_when_settings_are_taken_back_with_it() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    let bad = json!({"version": "0.9.9", "config": {"num.partitions": "3"}});
    stage.change_spec(&bad, 2);
    stage.broker.lock().waiting.push("num.partitions");
    assert!(stage.reconcile().await.contains(&EVICTION.to_owned()));
    run_pod_without_its_image(&stage, "pod-2");
    for _ in 0..3 {
        let writes = stage.reconcile().await;
        assert!(!writes.contains(&EVICTION.to_owned()), "{writes:?}");
    }
    assert_eq!(stage.condition("Ready").1, "ImageNotFound");
    stage.change_spec(&json!({"version": null, "config": null}), 3);
    let writes = stage.reconcile().await;
    assert!(writes.contains(&EVICTION.to_owned()), "{writes:?}");
    let image = stage.server.at(SET)["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    assert_eq!(image, "ropewalk-broker:0.1.0");
    {
        let mut broker = stage.broker.lock();
        (broker.is_gone, broker.waiting) = (false, Vec::new());
    }
    stage.is_restarted_once("pod-3").await;
    assert_eq!(stage.condition("Ready").0, "True");
}

#[tokio::test]
async fn a_setting_that_is_taken_back_before_its_restart_was_confirmed_gets_another_restart() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    stage.change_spec(&json!({"config": {"num.partitions": "3"}}), 2);
    stage.broker.lock().waiting = vec!["num.partitions"];
    assert!(stage.reconcile().await.contains(&EVICTION.to_owned()));
    // The new pod has the new setting. The setting is reverted while the pod recovers its log.
    stage.run_pod("pod-2");
    {
        let mut broker = stage.broker.lock();
        (broker.recovers, broker.waiting) = (true, Vec::new());
    }
    stage.reconcile().await;
    stage.change_spec(&json!({"config": null}), 3);
    stage.reconcile().await;
    {
        let mut broker = stage.broker.lock();
        (broker.recovers, broker.waiting) = (false, vec!["num.partitions"]);
    }
    let writes = stage.reconcile().await;
    assert!(writes.contains(&EVICTION.to_owned()), "{writes:?}");
    stage.broker.lock().waiting.clear();
    stage.is_restarted_once("pod-3").await;
}
