//! A client of Kafka's protocol that sends one request at a time.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use ropewalk_batch::{Builder, Header, records};
use ropewalk_codec::create_topics_request::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use ropewalk_codec::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use ropewalk_codec::init_producer_id_request::InitProducerIdRequest;
use ropewalk_codec::metadata_request::MetadataRequest;
use ropewalk_codec::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use ropewalk_codec::offset_fetch_request::{OffsetFetchRequest, OffsetFetchRequestTopic};
use ropewalk_codec::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use ropewalk_codec::{Records, Request, decode_response, encode_request};

/// A record as a consumer gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    timestamp_ms: i64,
    key: Option<Bytes>,
    value: Option<Bytes>,
}

/// A connection to one broker.
pub(crate) struct Client(TcpStream);

impl Client {
    pub(crate) fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        Self(stream)
    }

    fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        let frame = encode_request(1, Some("restore"), version, request).expect("valid");
        self.0.write_all(&frame.into_bytes()).expect("sent");
        let mut length = [0; 4];
        self.0.read_exact(&mut length).expect("an answer");
        let mut answer = vec![0; i32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut answer).expect("an answer");
        decode_response::<R>(answer.into(), version).expect("it decodes").1
    }

    pub(crate) fn create(&mut self, name: &str, partitions: i32, is_tiered: bool) {
        let config = CreatableTopicConfig {
            name: "remote.storage.enable".into(),
            value: Some(is_tiered.to_string().as_str().into()),
        };
        let topic = CreatableTopic {
            name: name.into(),
            num_partitions: partitions,
            replication_factor: 1,
            configs: vec![config],
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], ..Default::default() };
        let answer = self.call(5, &request);
        assert_eq!(answer.topics[0].error_code, 0, "{:?}", answer.topics[0].error_message);
    }

    /// A new idempotent producer.
    pub(crate) fn producer(&mut self) -> (i64, i16) {
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: 60_000,
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        };
        let answer = self.call(3, &request);
        assert_eq!(answer.error_code, 0);
        (answer.producer_id, answer.producer_epoch)
    }

    /// Sends one record with this sequence. Returns its offset.
    pub(crate) fn produce(
        &mut self,
        topic: &str,
        index: i32,
        (id, epoch): (i64, i16),
        sequence: i32,
    ) -> i64 {
        let value = format!("value {sequence} of {topic}-{index}");
        let builder = match id {
            -1 => Builder::new(),
            id => Builder::new().producer(id, epoch, sequence),
        };
        let timestamp_ms = 1_700_000_000_000 + i64::from(sequence);
        let batch = builder.record(timestamp_ms, Some(b"key"), Some(value.as_bytes())).build();
        let data = PartitionProduceData { index, records: Records::from(batch) };
        let topic = TopicProduceData {
            name: topic.into(),
            partition_data: vec![data],
            ..Default::default()
        };
        let request = ProduceRequest {
            acks: -1,
            timeout_ms: 30_000,
            topic_data: vec![topic],
            ..Default::default()
        };
        let answer = self.call(9, &request);
        let partition = &answer.responses[0].partition_responses[0];
        assert_eq!(partition.error_code, 0);
        partition.base_offset
    }

    /// All records of a partition.
    pub(crate) fn read(&mut self, topic: &str, partition: i32) -> Vec<Read> {
        let mut all = Vec::new();
        let mut next = None;
        loop {
            let asked = FetchPartition {
                partition,
                fetch_offset: next.unwrap_or(0),
                partition_max_bytes: 1 << 20,
                ..Default::default()
            };
            let topics =
                FetchTopic { topic: topic.into(), partitions: vec![asked], ..Default::default() };
            let request = FetchRequest {
                max_wait_ms: 1_000,
                min_bytes: 1,
                max_bytes: 1 << 20,
                session_epoch: -1,
                topics: vec![topics],
                ..Default::default()
            };
            let answer = self.call(12, &request);
            let found = &answer.responses[0].partitions[0];
            // Out of range: the log starts later.
            if found.error_code == 1 && next.is_none() {
                next = Some(found.log_start_offset);
                continue;
            }
            assert_eq!(found.error_code, 0, "{topic}-{partition} at {next:?}");
            all.extend(unpacked(found.records.to_bytes().unwrap_or_default()));
            let end = all.last().map_or(next.unwrap_or(0), |last: &Read| last.offset + 1);
            if end >= found.high_watermark {
                return all;
            }
            next = Some(end);
        }
    }

    pub(crate) fn commit(&mut self, group: &str, topic: &str, partition: i32, offset: i64) {
        let partition = OffsetCommitRequestPartition {
            partition_index: partition,
            committed_offset: offset,
            committed_leader_epoch: -1,
            committed_metadata: Some("metadata".into()),
        };
        let topic = OffsetCommitRequestTopic {
            name: topic.into(),
            partitions: vec![partition],
            ..Default::default()
        };
        let request = OffsetCommitRequest {
            group_id: group.into(),
            generation_id_or_member_epoch: -1,
            topics: vec![topic],
            ..Default::default()
        };
        let answer = self.call(7, &request);
        assert_eq!(answer.topics[0].partitions[0].error_code, 0);
    }

    /// The committed offset of a group; -1 for none.
    pub(crate) fn committed(&mut self, group: &str, topic: &str, partition: i32) -> i64 {
        let topic =
            OffsetFetchRequestTopic { name: topic.into(), partition_indexes: vec![partition] };
        let request = OffsetFetchRequest {
            group_id: group.into(),
            topics: Some(vec![topic]),
            ..Default::default()
        };
        let answer = self.call(5, &request);
        let partition = &answer.topics[0].partitions[0];
        assert_eq!(partition.error_code, 0);
        partition.committed_offset
    }

    fn metadata(&mut self) -> Vec<(String, i32)> {
        let request = MetadataRequest { topics: None, ..Default::default() };
        let answer = self.call(9, &request);
        let name = |topic: &ropewalk_codec::metadata_response::MetadataResponseTopic| {
            let name = topic.name.as_ref().map(ToString::to_string).unwrap_or_default();
            (name, topic.partitions.len() as i32)
        };
        answer.topics.iter().map(name).collect()
    }

    /// The names of all topics.
    pub(crate) fn topics(&mut self) -> Vec<String> {
        self.metadata().into_iter().map(|(name, _)| name).collect()
    }

    /// The number of partitions of a topic.
    pub(crate) fn partitions(&mut self, topic: &str) -> i32 {
        let all = self.metadata();
        all.into_iter().find(|(name, _)| name == topic).map_or(0, |(_, count)| count)
    }
}

/// The records of adjacent batches.
fn unpacked(mut bytes: Bytes) -> Vec<Read> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let batch = bytes.split_to(Header::parse(&bytes).expect("a batch").size_bytes());
        let header = Header::verify(&batch).expect("a batch");
        let (base, leader_epoch) = (header.base_offset, header.leader_epoch);
        for record in records(&header, batch, 1 << 20).expect("it opens") {
            let record = record.expect("it opens");
            all.push(Read {
                offset: base + i64::from(record.offset_delta),
                leader_epoch,
                timestamp_ms: record.timestamp_ms,
                key: record.key,
                value: record.value,
            });
        }
    }
    all
}
