//! Requests of administration tools, as widely used tools send them.

use ropewalk_codec::alter_configs_request as replace;
use ropewalk_codec::describe_configs_request::*;
use ropewalk_codec::describe_configs_response::DescribeConfigsResourceResult;
use ropewalk_codec::describe_quorum_request as quorum;
use ropewalk_codec::incremental_alter_configs_request as alter;
use ropewalk_codec::list_offsets_request::*;
use tokio::time::Instant;

use super::versions::{Client, create};
use super::*;
use crate::clock;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

impl Client {
    async fn describe(
        &mut self,
        (resource_type, name): (i8, &str),
        keys: &[&str],
    ) -> Vec<DescribeConfigsResourceResult> {
        let resource = DescribeConfigsResource {
            resource_type,
            resource_name: name.into(),
            configuration_keys: Some(keys.iter().map(|key| Str::from(*key)).collect()),
        };
        let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
        let mut answer = self.ask(4, &request).await;
        assert_eq!(answer.results[0].error_code, 0);
        answer.results.remove(0).configs
    }
}

fn values(configs: &[DescribeConfigsResourceResult]) -> BTreeMap<&str, (&str, i8)> {
    let value = |c: &'_ DescribeConfigsResourceResult| c.config_source;
    configs
        .iter()
        .map(|c| (c.name.as_str(), (c.value.as_deref().unwrap_or_default(), value(c))))
        .collect()
}

/// A sink connector reads the broker's defaults before it creates its topic, and looks up a
/// timestamp in many partitions.
#[tokio::test(flavor = "multi_thread")]
async fn the_brokers_defaults_are_described_and_many_partitions_are_searched_at_once() {
    let mut client = Client::new().await;
    let keys = ["num.partitions", "default.replication.factor"];
    let described = client.describe((BROKER, "1"), &keys).await;
    let described = values(&described);
    for key in keys {
        let (value, source) = described[key];
        assert_eq!(value, "1", "{key}");
        assert!(source > 0, "{key} has a source");
    }

    let mut wide = create("wide");
    wide.topics[0].num_partitions = 1000;
    assert_eq!(client.ask(5, &wide).await.topics[0].error_code, 0);
    let partition = |partition_index| ListOffsetsPartition {
        partition_index,
        timestamp: 1,
        ..Default::default()
    };
    let topic =
        ListOffsetsTopic { name: "wide".into(), partitions: (0..1000).map(partition).collect() };
    let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
    let begun = Instant::now();
    let answer = client.ask(7, &request).await;
    let parts = &answer.topics[0].partitions;
    assert!(parts.iter().all(|part| (part.error_code, part.offset) == (0, -1)));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    client.broker.stop().await;
}

/// AlterConfigs resets keys that it does not name; a key set to its default counts as set.
#[tokio::test(flavor = "multi_thread")]
async fn alter_configs_replaces_and_incremental_ones_add() {
    const SET_FOR_TOPIC: i8 = 1;
    const DEFAULT: i8 = 5;
    let mut client = Client::new().await;
    let set = |name: &str, value: &str| alter::AlterableConfig {
        name: name.into(),
        config_operation: 0,
        value: Some(value.into()),
    };
    let resource = alter::AlterConfigsResource {
        resource_type: TOPIC,
        resource_name: "t".into(),
        configs: vec![set("retention.ms", "604800000"), set("segment.ms", "5000")],
    };
    let request =
        alter::IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    assert_eq!(client.ask(1, &request).await.responses[0].error_code, 0);
    let keys = ["retention.ms", "segment.ms"];
    let described = client.describe((TOPIC, "t"), &keys).await;
    let described = values(&described);
    assert_eq!(described["retention.ms"], ("604800000", SET_FOR_TOPIC), "the default, but set");
    assert_eq!(described["segment.ms"], ("5000", SET_FOR_TOPIC));

    let only = replace::AlterableConfig { name: "retention.ms".into(), value: Some("7000".into()) };
    let resource = replace::AlterConfigsResource {
        resource_type: TOPIC,
        resource_name: "t".into(),
        configs: vec![only],
    };
    let request = replace::AlterConfigsRequest { resources: vec![resource], validate_only: false };
    assert_eq!(client.ask(1, &request).await.responses[0].error_code, 0);
    let described = client.describe((TOPIC, "t"), &keys).await;
    let described = values(&described);
    assert_eq!(described["retention.ms"], ("7000", SET_FOR_TOPIC));
    assert_eq!(described["segment.ms"].1, DEFAULT, "back to the default");
    client.broker.stop().await;
}

/// The requests that provisioning tools send about a topic that they have just created.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_made_is_described_in_full() {
    let mut client = Client::new().await;
    let mut request = create("made");
    request.topics[0].replication_factor = -1;
    request.topics[0].configs = vec![config("retention.ms", "1000")];
    let made = client.ask(7, &request).await;
    let made = &made.topics[0];
    assert_eq!((made.error_code, made.num_partitions, made.replication_factor), (0, 1, 1));
    let configs = made.configs.as_ref().expect("since version 5");
    assert!(configs.iter().any(|c| c.name == "retention.ms" && c.value.as_deref() == Some("1000")));
    assert!(configs.len() >= 33, "{}", configs.len());

    request.topics[0].name = "more".into();
    request.topics[0].replication_factor = 3;
    let refused = client.ask(7, &request).await;
    assert_eq!(refused.topics[0].error_code, ErrorCode::InvalidReplicationFactor.code());

    let resource = DescribeConfigsResource {
        resource_type: TOPIC,
        resource_name: "made".into(),
        configuration_keys: None,
    };
    let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
    for config in &client.ask(3, &request).await.results[0].configs {
        assert_ne!(config.config_type, 0, "{} has a type", config.name);
    }

    let request = ropewalk_codec::describe_log_dirs_request::DescribeLogDirsRequest::default();
    let dirs = client.ask(4, &request).await;
    assert!(dirs.results[0].total_bytes > 0 && dirs.results[0].usable_bytes > 0);
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quorum_is_described_by_the_log_of_the_catalog() {
    let mut client = Client::new().await;
    let partitions = vec![quorum::PartitionData { partition_index: 0 }];
    let topic = quorum::TopicData { topic_name: "__cluster_metadata".into(), partitions };
    let request = quorum::DescribeQuorumRequest { topics: vec![topic] };
    let begun = clock::now_ms();
    let before = client.ask(2, &request).await;
    client.ask(5, &create("other")).await;
    let answer = client.ask(2, &request).await;
    let quorum = &answer.topics[0].partitions[0];
    assert_eq!((quorum.error_code, quorum.leader_id), (0, 1));
    assert!(quorum.leader_epoch > 0);
    let entries = quorum.high_watermark - before.topics[0].partitions[0].high_watermark;
    assert_eq!(entries, 1, "a topic that is created is one entry of the catalog");
    let voter = &quorum.current_voters[0];
    assert_eq!((voter.replica_id, voter.log_end_offset), (1, quorum.high_watermark));
    assert!(voter.last_fetch_timestamp >= begun && voter.last_caught_up_timestamp >= begun);
    assert_eq!(&*answer.nodes[0].listeners[0].name, "PLAINTEXT");
    client.broker.stop().await;
}

/// A topic that is named twice is not deleted; the other topics of the request are.
#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_topic_twice_in_one_request_is_refused() {
    use ropewalk_codec::delete_topics_request::DeleteTopicsRequest;
    let mut client = Client::new().await;
    client.ask(5, &create("other")).await;
    let topic_names = vec!["t".into(), "other".into(), "t".into()];
    let request = DeleteTopicsRequest { topic_names, timeout_ms: 10_000, ..Default::default() };
    let answer = client.ask(5, &request).await;
    let codes: Vec<i16> = answer.responses.iter().map(|topic| topic.error_code).collect();
    let invalid = ErrorCode::InvalidRequest.code();
    assert_eq!(codes, [invalid, 0, invalid]);
    client.broker.stop().await;
}
