//! A cluster that gets a bucket: its keys, its settings and its restart.

use super::*;

const KEYS: &str = "/api/v1/namespaces/shop/secrets/keys";
const SET_OF_KEYS: &str = "PATCH /apis/apps/v1/namespaces/shop/statefulsets/prod-broker-0";

fn with_keys() -> Value {
    let keys = json!({"secret": {"name": "keys"}});
    json!({"objectStorage": {"bucket": "older", "credentials": keys}})
}

fn put_keys(stage: &Stage) {
    let data = json!({"accessKeyId": "YQ==", "secretAccessKey": "Yg=="});
    stage.server.put(KEYS, json!({"metadata": {"name": "keys"}, "data": data}));
}

fn file(stage: &Stage) -> String {
    stage.server.at(CONFIG)["data"]["broker.properties"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_bucket_takes_effect_with_one_restart_and_not_before_its_keys_are_there() {
    let stage = Stage::set(&json!({})).await;
    stage.settle().await;
    stage.change_spec(&with_keys(), 2);
    stage.broker.lock().waiting = vec!["ropewalk.tier.url"];
    for _ in 0..3 {
        let writes = stage.reconcile().await;
        assert!(!writes.contains(&EVICTION.to_owned()), "the pod would not start: {writes:?}");
    }
    assert_eq!(stage.condition("RestartPending").1, "WaitingForSecret");
    assert_eq!(stage.condition("TieringHealthy").1, "SecretMissing");
    assert!(!file(&stage).contains("ropewalk.tier"), "the pod has no keys yet");
    put_keys(&stage);
    let writes = stage.reconcile().await;
    let at = |what: &str| writes.iter().position(|write| write.contains(what)).expect("written");
    assert!(at(SET_OF_KEYS) < at("configmaps") && at("configmaps") < at("eviction"), "{writes:?}");
    assert!(file(&stage).contains("ropewalk.tier.url=s3://older\n"), "{}", file(&stage));
    stage.broker.lock().waiting.clear();
    stage.is_restarted_once("pod-2").await;
    let mounted = stage.server.at(SET)["spec"]["template"]["spec"]["volumes"].to_string();
    assert!(mounted.contains("secretAccessKey"), "{mounted}");
    assert!(file(&stage).contains("ropewalk.tier.url=s3://older\n"), "{}", file(&stage));
}

#[tokio::test]
async fn k1_a_cluster_with_a_bucket_that_fails_is_written_once() {
    let stage = Stage::set(&with_keys()).await;
    put_keys(&stage);
    stage.settle().await;
    let tier = |failure: &Value| {
        json!({"url": "s3://older", "claimed": true, "failure": failure,
            "notUploadedSeconds": 1, "uploadMaxAgeSeconds": 3600})
    };
    stage.broker.lock().tier = tier(&Value::Null);
    stage.reconcile().await;
    assert_eq!(stage.condition("TieringHealthy").0, "True");
    assert_eq!(stage.server.at(CLUSTER)["status"]["bucket"], "s3://older");
    let failing = |text: &str| json!({"kind": "unavailable", "operation": "put", "message": text});
    stage.broker.lock().tier = tier(&failing("503 for 1"));
    stage.reconcile().await;
    assert_eq!(stage.condition("TieringHealthy").1, "BucketUnavailable");
    assert_eq!(stage.condition("Ready").0, "True", "it serves all the same");
    assert!(stage.warnings().contains(&"BucketUnavailable".to_owned()));
    stage.broker.lock().tier = tier(&failing("503 for 2"));
    assert_eq!(stage.reconcile().await, Vec::<String>::new());
    stage.broker.lock().tier = tier(&Value::Null);
    stage.reconcile().await;
    assert_eq!(stage.condition("TieringHealthy").0, "True");
}

#[tokio::test]
async fn the_first_broker_restores_before_it_starts_and_may_fill_an_empty_volume_once() {
    let mut spec = with_keys();
    spec["restoreFrom"] = json!({"acceptLoss": true});
    let stage = Stage::set(&spec).await;
    put_keys(&stage);
    stage.reconcile().await;
    let restore = stage.server.at(SET)["spec"]["template"]["spec"]["initContainers"][0].clone();
    assert_eq!(restore["name"], "restore");
    let arguments = restore["args"].as_array().expect("arguments").clone();
    let arguments: Vec<&str> = arguments.iter().filter_map(Value::as_str).collect();
    let expected = "--log-format json restore --from s3://older --data-dir /var/lib/ropewalk/data --config /etc/ropewalk/broker.properties --if-format-allowed --accept-loss";
    assert_eq!(arguments.join(" "), expected);
    assert!(file(&stage).contains("format.cluster.id=") && file(&stage).contains("tier.url"));
    assert_eq!(stage.condition("Restored").0, "False");
    stage.settle().await;
    assert!(!file(&stage).contains("format.cluster.id="));
    assert_eq!(stage.condition("Restored").0, "True");
}
