//! Objects that other clients change: a user by hand, or an admission policy.

use super::*;

fn image(stage: &Stage) -> String {
    let containers = stage.server.at(SET)["spec"]["template"]["spec"]["containers"].clone();
    containers[0]["image"].as_str().unwrap_or_default().to_owned()
}

/// What `kubectl set image` does.
fn set_image(stage: &Stage, image: &str) {
    let mut containers = stage.server.at(SET)["spec"]["template"]["spec"]["containers"].clone();
    containers[0]["image"] = json!(image);
    let spec = json!({"spec": {"template": {"spec": {"containers": containers}}}});
    stage.server.change(SET, &spec);
}

#[tokio::test]
async fn a_stateful_set_that_was_edited_by_hand_is_put_right_without_a_restart() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    for _ in 0..2 {
        set_image(&stage, "example/other:1");
        assert_eq!(stage.reconcile().await, [format!("PATCH {SET}")]);
        assert_eq!(image(&stage), "ropewalk-broker:0.1.0");
    }
    // Other edits that make Kubernetes restart pods have the same effect.
    let strategy = json!({"spec": {"updateStrategy": {"type": "RollingUpdate"}}});
    stage.server.change(SET, &strategy);
    stage.reconcile().await;
    assert_eq!(stage.server.at(SET)["spec"]["updateStrategy"]["type"], "OnDelete");
    assert_eq!(stage.server.at(POD)["metadata"]["uid"], "pod-1");
}

#[tokio::test]
async fn k5_a_newer_operator_puts_back_what_the_older_one_applied() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    let mut context = (*stage.context).clone();
    context.settings.broker_image = "ropewalk-broker:0.9.0".to_owned();
    let newer = Stage { context: Arc::new(context), ..stage };
    // The newer release builds another template, which is not applied by itself.
    newer
        .server
        .change(SET, &json!({"metadata": {"annotations": {"ropewalk.dev/pod-template": "older"}}}));
    newer.reconcile().await;
    set_image(&newer, "example/other:1");
    assert_eq!(newer.reconcile().await, [format!("PATCH {SET}")]);
    assert_eq!(image(&newer), "ropewalk-broker:0.1.0");
}

#[tokio::test]
async fn k1_what_a_policy_changes_at_every_write_is_said_once_and_left() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    let path = "/api/v1/namespaces/shop/services/prod-bootstrap";
    stage.server.mutate(path, json!({"spec": {"type": "NodePort"}}));
    stage.server.change(path, &json!({"spec": {"type": "NodePort"}}));
    let (outcome, writes) = stage.try_reconcile().await;
    assert!(outcome.is_err() && writes.contains(&format!("PATCH {path}")), "{writes:?}");
    assert_eq!(stage.condition("Progressing").1, "ChangedByOthers");
    for _ in 0..3 {
        let (_, writes) = stage.try_reconcile().await;
        assert_eq!(writes, Vec::<String>::new());
    }
    // The object changes again: the policy may be gone.
    stage.server.change(path, &json!({"metadata": {"labels": {"a": "b"}}}));
    let (_, writes) = stage.try_reconcile().await;
    assert_eq!(writes, [format!("PATCH {path}")]);
}

#[tokio::test]
async fn k1_what_others_add_is_none_of_our_business() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    let mut containers = stage.server.at(SET)["spec"]["template"]["spec"]["containers"].clone();
    let sidecar = json!({"name": "mesh", "image": "m:1"});
    containers.as_array_mut().expect("containers").push(sidecar);
    let template = json!({
        "metadata": {"labels": {"policy": "x"}, "annotations": {"policy": "x"}},
        "spec": {"containers": containers, "securityContext": {"supplementalGroups": [1]}},
    });
    stage.server.change(SET, &json!({"spec": {"template": template}}));
    stage.server.change(CLAIM, &json!({"metadata": {"labels": {"team": "a"}}}));
    for _ in 0..3 {
        assert_eq!(stage.reconcile().await, Vec::<String>::new());
    }
}
