//! Every served version of every API, with existing and missing resources: the response arrives and
//! can be decoded. A field that a version cannot encode would close the connection.

use ropewalk_batch::Builder;
use ropewalk_codec::alter_configs_request as alter;
use ropewalk_codec::incremental_alter_configs_request as change;
use ropewalk_codec::{Records, Request as ApiRequest};
use uuid::Uuid;

use super::*;

/// Requested partitions: one that exists and one that does not.
const PARTITIONS: [i32; 2] = [0, 7];

/// A client of a broker with topic `t`, whose id it has.
pub(super) struct Client<B = Broker> {
    stream: TcpStream,
    topic: Uuid,
    pub(super) broker: B,
    _dir: Option<TempDir>,
}

impl Client<()> {
    /// One more client of the same broker.
    pub(super) async fn beside(broker: &Broker) -> Self {
        Self { stream: connect(broker).await, topic: Uuid::nil(), broker: (), _dir: None }
    }
}

impl Client {
    pub(super) async fn new() -> Self {
        let (broker, dir) = broker().await;
        let mut client = Self { _dir: Some(dir), ..Self::on(broker).await };
        let created = client.ask(7, &create("t")).await;
        client.topic = created.topics[0].topic_id;
        client
    }

    /// A client of a broker without a topic.
    pub(super) async fn on(broker: Broker) -> Self {
        let stream = connect(&broker).await;
        Self { stream, topic: Uuid::nil(), broker, _dir: None }
    }
}

impl<B> Client<B> {
    /// One request and its response.
    pub(super) async fn ask<R: ApiRequest>(&mut self, version: i16, request: &R) -> R::Response {
        let frame = encode_request(9, Some("t"), version, request).expect("it encodes");
        let answer = exchange(&mut self.stream, &frame.into_bytes()[4..]).await;
        let answer = answer.unwrap_or_else(|| panic!("{} {version} is not answered", R::NAME));
        let (id, response) = decode_response::<R>(answer.into(), version)
            .unwrap_or_else(|error| panic!("{} {version}: {error}", R::NAME));
        assert_eq!(id, 9);
        response
    }

    /// The request in every served version; returns the responses.
    pub(super) async fn ask_all<R: ApiRequest>(
        &mut self,
        mut request: impl FnMut(&Self, i16) -> R,
    ) -> Vec<(i16, R::Response)> {
        let route = ROUTES.iter().find(|route| route.key == R::API_KEY).expect("it is served");
        let mut answers = Vec::new();
        for version in route.served.clone() {
            let request = request(self, version);
            answers.push((version, self.ask(version, &request).await));
        }
        answers
    }

    /// Topic `t` and a missing one, by name or by id.
    pub(super) fn topics(&self) -> [(Str, Uuid); 2] {
        [("t".into(), self.topic), ("none".into(), Uuid::from_u128(77))]
    }
}

pub(super) fn create(name: &str) -> ropewalk_codec::create_topics_request::CreateTopicsRequest {
    use ropewalk_codec::create_topics_request::{CreatableTopic, CreateTopicsRequest};
    let topic = |name: &str| CreatableTopic {
        name: name.into(),
        num_partitions: 1,
        replication_factor: 1,
        ..CreatableTopic::default()
    };
    CreateTopicsRequest {
        topics: vec![topic(name), topic("not a name")],
        ..CreateTopicsRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_in_every_version() {
    let mut client = Client::new().await;
    let produced = client
        .ask_all(|client, version| {
            use ropewalk_codec::produce_request::*;
            let data = |index| PartitionProduceData {
                index,
                records: Records::from(
                    Builder::new().record(clock_ms(), Some(b"k"), Some(b"v")).build(),
                ),
            };
            let topic = |(name, topic_id)| TopicProduceData {
                name,
                topic_id,
                partition_data: PARTITIONS.map(data).into(),
            };
            let topic_data = client.topics().map(topic).into();
            let acks = if version % 2 == 0 { 1 } else { -1 };
            ProduceRequest { acks, timeout_ms: 1000, topic_data, ..Default::default() }
        })
        .await;
    for (at, (version, answer)) in (0_i64..).zip(&produced) {
        let parts = &answer.responses[0].partition_responses;
        assert_eq!((parts[0].error_code, parts[0].base_offset), (0, at), "version {version}");
        assert_eq!(parts[1].error_code, ErrorCode::UnknownTopicOrPartition.code());
        let unknown = if *version < 13 {
            ErrorCode::UnknownTopicOrPartition
        } else {
            ErrorCode::UnknownTopicId
        };
        assert_eq!(answer.responses[1].partition_responses[0].error_code, unknown.code());
    }
    let fetched = client
        .ask_all(|client, _| {
            use ropewalk_codec::fetch_request::*;
            let partition = |partition| FetchPartition {
                partition,
                fetch_offset: 0,
                partition_max_bytes: 1 << 20,
                ..Default::default()
            };
            let topic = |(topic, topic_id)| FetchTopic {
                topic,
                topic_id,
                partitions: PARTITIONS.map(partition).into(),
            };
            let topics = client.topics().map(topic).into();
            FetchRequest { max_wait_ms: 10, min_bytes: 1, topics, ..Default::default() }
        })
        .await;
    for (version, answer) in fetched {
        let part = &answer.responses[0].partitions[0];
        // The field exists since version 5.
        let start = if version < 5 { -1 } else { 0 };
        assert_eq!(part.error_code, 0, "version {version}");
        assert_eq!(part.high_watermark, i64::try_from(produced.len()).expect("few"));
        assert_eq!((part.last_stable_offset, part.log_start_offset), (part.high_watermark, start));
        assert_eq!(offsets(&part.records), (0..part.high_watermark).collect::<Vec<_>>());
        let absent = &answer.responses[0].partitions[1];
        assert_eq!(absent.error_code, ErrorCode::UnknownTopicOrPartition.code());
        assert_eq!((absent.high_watermark, absent.records.len()), (-1, 0), "version {version}");
        let unknown = &answer.responses[1];
        let (name, id, code) = match version {
            13.. => ("", Uuid::from_u128(77), ErrorCode::UnknownTopicId),
            _ => ("none", Uuid::nil(), ErrorCode::UnknownTopicOrPartition),
        };
        assert_eq!((&*unknown.topic, unknown.topic_id), (name, id), "version {version}");
        assert_eq!(unknown.partitions[0].error_code, code.code(), "version {version}");
    }
    lookups(&mut client).await;
    client.broker.stop().await;
}

fn clock_ms() -> i64 {
    crate::clock::now_ms()
}

/// The offset of each batch.
fn offsets(records: &Records) -> Vec<i64> {
    let mut rest = records.single().expect("in one piece once it was sent");
    let mut offsets = Vec::new();
    while !rest.is_empty() {
        let header = ropewalk_batch::Header::parse(&rest).expect("whole batches");
        offsets.push(header.base_offset);
        rest = rest.split_off(header.size_bytes());
    }
    offsets
}

async fn lookups(client: &mut Client) {
    for timestamp in [-1, -2, -3, -4, -5, -6, 0, i64::MAX] {
        client
            .ask_all(|client, _| {
                use ropewalk_codec::list_offsets_request::*;
                let partition = |partition_index| ListOffsetsPartition {
                    partition_index,
                    timestamp,
                    ..Default::default()
                };
                let topic = |(name, _)| ListOffsetsTopic {
                    name,
                    partitions: PARTITIONS.map(partition).into(),
                };
                let topics = client.topics().map(topic).into();
                ListOffsetsRequest { replica_id: -1, topics, ..Default::default() }
            })
            .await;
    }
    client
        .ask_all(|client, _| {
            use ropewalk_codec::offset_for_leader_epoch_request::*;
            let partition = |partition| OffsetForLeaderPartition {
                partition,
                leader_epoch: 2,
                ..Default::default()
            };
            let topic = |(topic, _)| OffsetForLeaderTopic {
                topic,
                partitions: PARTITIONS.map(partition).into(),
            };
            OffsetForLeaderEpochRequest {
                topics: client.topics().map(topic).into(),
                ..Default::default()
            }
        })
        .await;
    client
        .ask_all(|_, _| ropewalk_codec::init_producer_id_request::InitProducerIdRequest {
            transaction_timeout_ms: 1,
            ..Default::default()
        })
        .await;
    client
        .ask_all(|client, _| {
            use ropewalk_codec::delete_records_request::*;
            let partition = |partition_index| DeleteRecordsPartition { partition_index, offset: 1 };
            let topic = |(name, _)| DeleteRecordsTopic {
                name,
                partitions: PARTITIONS.map(partition).into(),
            };
            DeleteRecordsRequest { topics: client.topics().map(topic).into(), timeout_ms: 1000 }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_and_the_cluster_in_every_version() {
    let mut client = Client::new().await;
    let created = client.ask_all(|_, version| create(&format!("made-{version}"))).await;
    for (version, answer) in created {
        assert_eq!(answer.topics[0].error_code, 0, "version {version}");
        assert_eq!(answer.topics[1].error_code, ErrorCode::InvalidTopicException.code());
    }
    let described = client
        .ask_all(|client, version| {
            use ropewalk_codec::metadata_request::*;
            let topic = |(name, topic_id): (Str, Uuid)| {
                let by_id = version >= 12;
                MetadataRequestTopic {
                    topic_id: if by_id { topic_id } else { Uuid::nil() },
                    name: (!by_id).then_some(name),
                }
            };
            MetadataRequest {
                topics: Some(client.topics().map(topic).into()),
                allow_auto_topic_creation: version < 4,
                ..Default::default()
            }
        })
        .await;
    for (version, answer) in described {
        assert_eq!(answer.topics[0].partitions.len(), 1, "version {version}");
        assert_eq!(answer.brokers.len(), 1);
    }
    client
        .ask_all(|_, _| ropewalk_codec::describe_topic_partitions_request::DescribeTopicPartitionsRequest::default())
        .await;
    client
        .ask_all(|_, _| ropewalk_codec::describe_cluster_request::DescribeClusterRequest::default())
        .await;
    client
        .ask_all(|_, _| {
            ropewalk_codec::describe_log_dirs_request::DescribeLogDirsRequest::default()
        })
        .await;
    client
        .ask_all(|client, _| {
            use ropewalk_codec::create_partitions_request::*;
            let topic = |(name, _)| CreatePartitionsTopic { name, count: 1, assignments: None };
            CreatePartitionsRequest {
                topics: client.topics().map(topic).into(),
                timeout_ms: 1000,
                validate_only: false,
            }
        })
        .await;
    replicas(&mut client).await;
    client
        .ask_all(|_, version| {
            use ropewalk_codec::delete_topics_request::*;
            let name = Str::from(format!("made-{}", version.clamp(2, 6)));
            let state = DeleteTopicState { name: Some(name.clone()), ..Default::default() };
            let topics = if version < 6 { vec![] } else { vec![state] };
            DeleteTopicsRequest { topics, topic_names: vec![name], timeout_ms: 1000 }
        })
        .await;
    client.broker.stop().await;
}

async fn replicas(client: &mut Client) {
    client
        .ask_all(|client, _| {
            use ropewalk_codec::elect_leaders_request::*;
            let topic = |(topic, _)| TopicPartitions { topic, partitions: PARTITIONS.into() };
            ElectLeadersRequest {
                topic_partitions: Some(client.topics().map(topic).into()),
                ..Default::default()
            }
        })
        .await;
    client
        .ask_all(|client, _| {
            use ropewalk_codec::alter_partition_reassignments_request::*;
            let partition = |partition_index| ReassignablePartition {
                partition_index,
                replicas: Some(vec![1]),
            };
            let topic = |(name, _)| ReassignableTopic {
                name,
                partitions: PARTITIONS.map(partition).into(),
            };
            AlterPartitionReassignmentsRequest {
                topics: client.topics().map(topic).into(),
                ..Default::default()
            }
        })
        .await;
    client
        .ask_all(|_, _| ropewalk_codec::list_partition_reassignments_request::ListPartitionReassignmentsRequest::default())
        .await;
    client
        .ask_all(|_, _| {
            use ropewalk_codec::describe_quorum_request::*;
            let topic = |name: &str| TopicData {
                topic_name: name.into(),
                partitions: vec![PartitionData { partition_index: 0 }],
            };
            DescribeQuorumRequest { topics: vec![topic("__cluster_metadata"), topic("t")] }
        })
        .await;
    client
        .ask_all(|client, _| {
            use ropewalk_codec::alter_replica_log_dirs_request::*;
            let topic = |(name, _)| AlterReplicaLogDirTopic { name, partitions: PARTITIONS.into() };
            let dir = AlterReplicaLogDir {
                path: "/elsewhere".into(),
                topics: client.topics().map(topic).into(),
            };
            AlterReplicaLogDirsRequest { dirs: vec![dir] }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_in_every_version() {
    // Topics, brokers, all brokers, groups, and an unknown type.
    const RESOURCES: [(i8, &str); 6] =
        [(2, "t"), (2, "none"), (4, "1"), (4, ""), (32, "g"), (99, "x")];
    let mut client = Client::new().await;
    client
        .ask_all(|_, _| {
            let config = |name: &str, value: &str| alter::AlterableConfig {
                name: name.into(),
                value: Some(value.into()),
            };
            let resource = |(resource_type, name): (i8, &str)| alter::AlterConfigsResource {
                resource_type,
                resource_name: name.into(),
                configs: vec![config("retention.ms", "1000"), config("nothing", "1")],
            };
            alter::AlterConfigsRequest {
                resources: RESOURCES.map(resource).into(),
                validate_only: false,
            }
        })
        .await;
    client
        .ask_all(|_, _| {
            let config = change::AlterableConfig {
                name: "cleanup.policy".into(),
                config_operation: 2,
                value: Some("compact".into()),
            };
            let resource = |(resource_type, name): (i8, &str)| change::AlterConfigsResource {
                resource_type,
                resource_name: name.into(),
                configs: vec![config.clone()],
            };
            change::IncrementalAlterConfigsRequest {
                resources: RESOURCES.map(resource).into(),
                validate_only: false,
            }
        })
        .await;
    let described = client
        .ask_all(|_, version| {
            use ropewalk_codec::describe_configs_request::*;
            let resource = |(resource_type, name): (i8, &str)| DescribeConfigsResource {
                resource_type,
                resource_name: name.into(),
                configuration_keys: None,
            };
            DescribeConfigsRequest {
                resources: RESOURCES.map(resource).into(),
                include_synonyms: true,
                include_documentation: version >= 3,
            }
        })
        .await;
    for (version, answer) in described {
        assert_eq!(answer.results[0].error_code, 0, "version {version}");
        assert_eq!(
            answer.results[0].configs.len(),
            33,
            "every key of a topic but the internal one"
        );
        assert!(answer.results[2].configs.len() > 300, "version {version}");
    }
    client
        .ask_all(|_, _| {
            ropewalk_codec::list_config_resources_request::ListConfigResourcesRequest::default()
        })
        .await;
    client.broker.stop().await;
}
