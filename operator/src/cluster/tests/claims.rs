//! Volumes that would be lost: claims that are deleted under a broker, and claims that only look
//! like ours.

use super::*;

const COPY: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/restored-copy";
const DELETED: &str = "2026-01-01T00:00:00Z";

/// A user deletes the claim; Kubernetes keeps it while the pod uses it.
fn delete_claim(server: &Server) {
    server.change(CLAIM, &json!({"metadata": {"deletionTimestamp": DELETED}}));
}

/// A copy of the claim with all of its labels, as tools for backups leave them.
fn copy_claim(stage: &Stage) {
    let mut copy = stage.server.at(CLAIM);
    copy["metadata"]["name"] = json!("restored-copy");
    copy["metadata"]["uid"] = json!("uid-of-the-copy");
    copy["spec"]["resources"]["requests"]["storage"] = json!("99Gi");
    stage.server.put(COPY, copy);
}

#[tokio::test]
async fn k4_a_broker_whose_claim_was_deleted_is_neither_restarted_nor_upgraded() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    delete_claim(&stage.server);
    let template = stage.server.at(SET)["spec"]["template"].clone();
    stage.change_spec(&json!({"version": "0.2.0", "config": {"num.partitions": "3"}}), 2);
    stage.broker.lock().waiting.push("num.partitions");
    let restart = json!({"metadata": {"annotations": {"ropewalk.dev/restart": "now"}}});
    stage.server.change(CLUSTER, &restart);
    for _ in 0..3 {
        let writes = stage.reconcile().await;
        assert!(!writes.contains(&EVICTION.to_owned()), "{writes:?}");
    }
    assert_eq!(stage.server.at(POD)["metadata"]["uid"], "pod-1");
    assert_eq!(stage.server.at(SET)["spec"]["template"], template, "nor by an eviction");
    let (status, reason, _) = stage.condition("RestartPending");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "VolumeDeleting"));
    let (status, reason, message) = stage.condition("DataAtRisk");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "VolumeDeleting"));
    assert!(message.contains("persistentVolumeReclaimPolicy") && message.contains("snapshot"));
    assert_eq!(stage.warnings(), ["VolumeDeleting"]);
    assert_eq!(stage.condition("Ready").0, "True", "it serves as before");
}

#[tokio::test]
async fn k4_a_broker_whose_claim_was_deleted_does_not_go_to_sleep() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    delete_claim(&stage.server);
    stage.hibernate(2);
    for _ in 0..3 {
        let (outcome, _) = stage.try_reconcile().await;
        assert!(outcome.is_err(), "it is tried again");
    }
    assert_eq!(stage.server.at(SET)["spec"]["replicas"], 1);
    let (_, reason, message) = stage.condition("Progressing");
    assert_eq!(reason, "VolumeDeleting");
    assert!(message.contains("is not stopped"), "{message}");
    // Rescued: another claim is there, older than the pod as far as is known.
    stage.server.change(CLAIM, &json!({"metadata": {"deletionTimestamp": null}}));
    stage.reconcile().await;
    assert_eq!(stage.server.at(SET)["spec"]["replicas"], 0);
}

#[tokio::test]
async fn k2_a_claim_that_is_deleted_after_the_decision_stops_the_restart() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    stage.change_spec(&json!({"version": "0.2.0"}), 2);
    // The first read is a list; the live read before the restart is of this claim alone.
    stage.server.before(&format!("GET {CLAIM}"), delete_claim);
    let writes = stage.reconcile().await;
    assert!(!writes.contains(&EVICTION.to_owned()), "{writes:?}");
    assert_eq!(stage.server.at(POD)["metadata"]["uid"], "pod-1");
}

#[tokio::test]
async fn k4_a_copy_of_a_claim_outlives_the_cluster_and_is_not_believed() {
    let stage = Stage::set(&json!({"deletionPolicy": "Delete"})).await;
    stage.settle().await;
    copy_claim(&stage);
    for _ in 0..3 {
        assert_eq!(stage.reconcile().await, Vec::<String>::new(), "k1");
    }
    assert_eq!(stage.server.at(CLAIM)["spec"]["resources"]["requests"]["storage"], "20Gi");
    // The loss of the copy does not count either.
    let accept =
        json!({"metadata": {"annotations": {"ropewalk.dev/accept-data-loss": "uid-of-the-copy"}}});
    stage.server.change(CLUSTER, &accept);
    stage.reconcile().await;
    let file = stage.server.at(CONFIG)["data"]["broker.properties"].to_string();
    assert!(!file.contains("format.cluster.id"));
    stage.server.change(CLUSTER, &json!({"metadata": {"deletionTimestamp": DELETED}}));
    stage.reconcile().await;
    assert_eq!(stage.server.at(CLAIM), Value::Null);
    assert_eq!(stage.server.at(COPY)["metadata"]["uid"], "uid-of-the-copy");
}

#[tokio::test]
async fn a_claim_that_was_restored_without_its_labels_is_found_by_its_name() {
    let stage = Stage::set(&json!({})).await;
    stage.server.put(
        CLAIM,
        json!({
            "metadata": {"name": "data-prod-broker-0", "namespace": "shop", "annotations": {"ropewalk.dev/formatted": "true"}},
            "spec": {"resources": {"requests": {"storage": "20Gi"}}},
        }),
    );
    stage.reconcile().await;
    let file = stage.server.at(CONFIG)["data"]["broker.properties"].to_string();
    assert!(!file.contains("format.cluster.id"), "d4: it holds data");
    assert_eq!(stage.server.at(CLAIM)["metadata"]["labels"]["ropewalk.dev/cluster"], "prod");
}

#[tokio::test]
async fn a_paused_cluster_keeps_its_volumes_while_it_is_deleted_and_says_so() {
    let stage = Stage::set(&json!({"deletionPolicy": "Delete"})).await;
    stage.settle().await;
    let deleted = json!({
        "metadata": {"deletionTimestamp": DELETED},
        "spec": {"managementState": "Paused"},
    });
    stage.server.change(CLUSTER, &deleted);
    assert_eq!(stage.reconcile().await, Vec::<String>::new());
    assert_ne!(stage.server.at(CLAIM), Value::Null);
    assert_eq!(stage.warnings(), ["DeletionPaused"]);
    stage.server.change(CLUSTER, &json!({"spec": {"managementState": "Managed"}}));
    stage.reconcile().await;
    assert_eq!(stage.server.at(CLAIM), Value::Null);
    assert_eq!(stage.server.at(CLUSTER)["metadata"]["finalizers"], json!([]));
}

#[tokio::test]
async fn k4_a_paused_cluster_does_not_hold_up_a_namespace_that_ends() {
    let stage = Stage::set(&json!({"deletionPolicy": "Delete"})).await;
    stage.settle().await;
    let ends = json!({"metadata": {"name": "shop", "deletionTimestamp": DELETED}});
    stage.server.put("/api/v1/namespaces/shop", ends);
    let deleted = json!({
        "metadata": {"deletionTimestamp": DELETED},
        "spec": {"managementState": "Paused"},
    });
    stage.server.change(CLUSTER, &deleted);
    stage.reconcile().await;
    assert_eq!(stage.server.at(CLUSTER)["metadata"]["finalizers"], json!([]));
    assert_ne!(stage.server.at(CLAIM), Value::Null, "it is paused: Kubernetes deletes the claim");
    assert_eq!(stage.warnings(), Vec::<String>::new());
}

#[tokio::test]
async fn a_label_of_earlier_releases_by_which_tools_take_objects_for_theirs_is_taken_off() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    let token = stage.server.at(SECRET)["data"]["token"].clone();
    let kept = [
        "argocd.argoproj.io/sync-options",
        "argocd.argoproj.io/compare-options",
        "helm.sh/resource-policy",
    ];
    let none: serde_json::Map<_, _> =
        kept.iter().map(|key| ((*key).to_owned(), Value::Null)).collect();
    for path in [SECRET, CLAIM] {
        let old = json!({"metadata": {
            "labels": {"app.kubernetes.io/instance": "prod"}, "annotations": none,
        }});
        stage.server.change(path, &old);
    }
    stage.reconcile().await;
    for path in [SECRET, CLAIM] {
        let metadata = stage.server.at(path)["metadata"].clone();
        let labels = metadata["labels"].as_object().expect("labels");
        assert!(!labels.contains_key("app.kubernetes.io/instance"), "{path}: {metadata}");
        assert_eq!(labels["ropewalk.dev/cluster"], "prod");
        for key in kept {
            assert!(metadata["annotations"][key].is_string(), "{path} {key}: {metadata}");
        }
    }
    assert_eq!(stage.server.at(SECRET)["data"]["token"], token);
    assert_eq!(stage.reconcile().await, Vec::<String>::new(), "k1");
    // An instance that is meant for another cluster.
    let theirs = json!({"metadata": {"labels": {"app.kubernetes.io/instance": "backup"}}});
    stage.server.change(CLAIM, &theirs);
    stage.server.change(SECRET, &theirs);
    assert_eq!(stage.reconcile().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_paused_cluster_gets_no_finalizer() {
    let spec = json!({"managementState": "Paused", "deletionPolicy": "Delete"});
    let stage = Stage::set(&spec).await;
    stage.reconcile().await;
    assert_eq!(stage.server.at(CLUSTER)["metadata"]["finalizers"], Value::Null);
}

#[tokio::test]
async fn k2_a_claim_that_was_made_since_under_the_same_name_is_not_deleted() {
    let stage = Stage::set(&json!({"deletionPolicy": "Delete"})).await;
    stage.settle().await;
    stage.server.change(CLUSTER, &json!({"metadata": {"deletionTimestamp": DELETED}}));
    stage.server.before(&format!("DELETE {CLAIM}"), |server| {
        server.change(CLAIM, &json!({"metadata": {"uid": "uid-of-another"}}));
    });
    let (outcome, _) = stage.try_reconcile().await;
    assert!(outcome.is_err(), "it is tried again");
    assert_eq!(stage.server.at(CLAIM)["metadata"]["uid"], "uid-of-another");
    assert_eq!(stage.server.at(CLUSTER)["metadata"]["finalizers"], json!(["ropewalk.dev/data"]));
}

#[tokio::test]
async fn finalizers_that_others_set_meanwhile_stay() {
    let stage = Stage::set(&json!({"deletionPolicy": "Delete"})).await;
    let add = |name: &'static str| {
        stage.server.before(&format!("PATCH {CLUSTER}"), move |server| {
            let mut finalizers = server.at(CLUSTER)["metadata"]["finalizers"].clone();
            let mut all = finalizers.as_array_mut().map(std::mem::take).unwrap_or_default();
            all.push(json!(name));
            server.change(CLUSTER, &json!({"metadata": {"finalizers": all}}));
        });
    };
    let finalizers = || stage.server.at(CLUSTER)["metadata"]["finalizers"].clone();
    add("example.com/first");
    let (outcome, _) = stage.try_reconcile().await;
    assert!(outcome.is_err(), "it is tried again");
    assert_eq!(finalizers(), json!(["example.com/first"]));
    stage.settle().await;
    assert_eq!(finalizers(), json!(["example.com/first", "ropewalk.dev/data"]));
    // The same when our label is removed.
    stage.change_spec(&json!({"deletionPolicy": "Retain"}), 2);
    add("example.com/second");
    let (outcome, _) = stage.try_reconcile().await;
    assert!(outcome.is_err(), "it is tried again");
    stage.reconcile().await;
    assert_eq!(finalizers(), json!(["example.com/first", "example.com/second"]));
}

#[tokio::test]
async fn an_acceptance_that_a_deployment_tool_sets_again_is_left_and_does_nothing() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    let uid = stage.server.at(CLAIM)["metadata"]["uid"].clone();
    let accept = json!({"metadata": {"annotations": {"ropewalk.dev/accept-data-loss": uid}}});
    stage.server.change(CLUSTER, &accept);
    for _ in 0..3 {
        stage.reconcile().await;
    }
    assert_eq!(stage.server.at(CLUSTER)["status"]["brokers"][0]["acceptedLoss"], uid);
    stage.server.change(CLUSTER, &accept);
    for _ in 0..3 {
        assert_eq!(stage.reconcile().await, Vec::<String>::new());
    }
    let file = stage.server.at(CONFIG)["data"]["broker.properties"].to_string();
    assert!(!file.contains("format.cluster.id"));
}

#[tokio::test]
async fn a_size_that_cannot_be_provided_can_be_taken_back() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    let request = || stage.server.at(CLAIM)["spec"]["resources"]["requests"]["storage"].clone();
    assert_eq!(stage.server.at(CLUSTER)["status"]["storageCapacity"], "20Gi");
    stage.change_spec(&json!({"storage": {"size": "20Ti"}}), 2);
    stage.reconcile().await;
    assert_eq!(request(), "20Ti");
    let failed =
        json!({"status": {"allocatedResourceStatuses": {"storage": "ControllerResizeInfeasible"}}});
    stage.server.change(CLAIM, &failed);
    stage.reconcile().await;
    let (_, reason, message) = stage.condition("StorageResized");
    assert_eq!(reason, "ResizeFailed", "{message}");
    stage.change_spec(&json!({"storage": {"size": "20Gi"}}), 3);
    stage.reconcile().await;
    assert_eq!(request(), "20481Mi", "Kubernetes takes only more than the volume has");
    // The volume gets what is asked for now.
    let grown =
        json!({"status": {"capacity": {"storage": "21Gi"}, "allocatedResourceStatuses": null}});
    stage.server.change(CLAIM, &grown);
    stage.reconcile().await;
    assert_eq!(stage.condition("StorageResized").0, "True");
    assert_eq!(stage.reconcile().await, Vec::<String>::new(), "k1");
    // A growth that the user made on the claim is no typo of the spec.
    let by_hand = json!({"spec": {"resources": {"requests": {"storage": "50Gi"}}}});
    stage.server.change(CLAIM, &by_hand);
    stage.reconcile().await;
    assert_eq!(request(), "50Gi");
}
