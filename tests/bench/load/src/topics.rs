//! Creates and deletes the topics of a run, and lists their offsets.
//!
//! Invariant: when `create` returns, every partition accepts a produce request.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ropewalk_codec::create_topics_request::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use ropewalk_codec::delete_topics_request::DeleteTopicsRequest;
use ropewalk_codec::fetch_request::FetchRequest;
use ropewalk_codec::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::fetch::{FETCH_VERSION, fetch_request};
use crate::leaders::{Leaders, Target};

const CREATE_VERSION: i16 = 5;
const DELETE_VERSION: i16 = 4;
const LIST_OFFSETS_VERSION: i16 = 5;
const EARLIEST: i64 = -2;
const TOPIC_ALREADY_EXISTS: i16 = 36;
/// Topics in one request, so that no request takes long.
const AT_ONCE: usize = 500;
/// Segment size of topics with bounded retention, in bytes: only whole segments are deleted.
const SEGMENT_BYTES: usize = 128 << 20;

/// Which topics a run uses, and how they are created.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Topics {
    #[arg(long)]
    pub(crate) topic: String,
    /// How many topics share the load; their names then end in a number.
    #[arg(long, default_value_t = 1)]
    topics: usize,
    #[arg(long, default_value_t = 1)]
    pub(crate) partitions: i32,
    /// Bytes that all partitions of a topic together keep; without it everything is kept.
    #[arg(long)]
    retain_bytes: Option<usize>,
}

impl Topics {
    /// One topic of one partition.
    pub(crate) fn single(topic: &str) -> Self {
        Self { topic: topic.to_owned(), topics: 1, partitions: 1, retain_bytes: None }
    }

    /// The names of the topics: the name itself when there is one.
    pub(crate) fn names(&self) -> Vec<String> {
        if self.topics == 1 {
            return vec![self.topic.clone()];
        }
        (0..self.topics).map(|i| format!("{}-{i}", self.topic)).collect()
    }

    /// All partitions of all topics.
    pub(crate) fn targets(&self) -> Vec<Target> {
        let of =
            |name: String| (0..self.partitions).map(move |partition| (name.clone(), partition));
        self.names().into_iter().flat_map(of).collect()
    }

    /// Creates the topics that do not exist, and waits up to 60 s for their leaders.
    pub(crate) fn create(&self, bootstrap: &str) -> Result<()> {
        let mut connection = Connection::open(bootstrap)?;
        for some in self.names().chunks(AT_ONCE) {
            let topics = some.iter().map(|name| CreatableTopic {
                name: name.as_str().into(),
                num_partitions: self.partitions,
                // As the cluster is set up to.
                replication_factor: -1,
                configs: self.configs(),
                ..Default::default()
            });
            let request = CreateTopicsRequest {
                topics: topics.collect(),
                timeout_ms: 60_000,
                validate_only: false,
            };
            for created in connection.call(CREATE_VERSION, &request)?.topics {
                let code = created.error_code;
                let exists = code == TOPIC_ALREADY_EXISTS;
                ensure!(code == 0 || exists, "creating {:?}: error {code}", created.name);
            }
            wait_for_leaders(bootstrap, some, self.partitions)?;
        }
        Ok(())
    }

    /// Deletes the topics, so that their files do not fill the disk.
    pub(crate) fn delete(&self, bootstrap: &str) -> Result<Value> {
        let mut connection = Connection::open(bootstrap)?;
        for some in self.names().chunks(AT_ONCE) {
            let topic_names = some.iter().map(|name| name.as_str().into()).collect();
            let request =
                DeleteTopicsRequest { topic_names, timeout_ms: 60_000, ..Default::default() };
            for deleted in connection.call(DELETE_VERSION, &request)?.responses {
                let code = deleted.error_code;
                ensure!(code == 0, "deleting {:?}: error {code}", deleted.name);
            }
        }
        Ok(json!({ "topics": self.topics }))
    }

    fn configs(&self) -> Vec<CreatableTopicConfig> {
        let config = |name: &'static str, value: usize| CreatableTopicConfig {
            name: name.into(),
            value: Some(value.to_string().into()),
        };
        let Some(bytes) = self.retain_bytes else { return Vec::new() };
        let of_each = bytes / self.partitions.unsigned_abs().max(1) as usize;
        vec![config("retention.bytes", of_each), config("segment.bytes", SEGMENT_BYTES)]
    }
}

/// Uses fetches, because Metadata may name a leader before it serves requests.
fn wait_for_leaders(bootstrap: &str, names: &[String], partitions: i32) -> Result<()> {
    let targets: Vec<Target> =
        names.iter().flat_map(|name| (0..partitions).map(|p| (name.clone(), p))).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let groups = Leaders::of(bootstrap, &targets)?.groups(&targets)?;
        let mut serving = groups.iter().map(|(address, led)| serves(address, led));
        if serving.all(|serves| serves.unwrap_or(false)) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "no leaders after 60 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a broker serves all these partitions.
fn serves(address: &str, targets: &[Target]) -> Result<bool> {
    let mut from: BTreeMap<&str, Vec<(i32, i64)>> = BTreeMap::new();
    for (name, partition) in targets {
        from.entry(name).or_default().push((*partition, 0));
    }
    let topics = from.iter().flat_map(|(name, from)| fetch_request(name, from, 1, 0).topics);
    let request = FetchRequest { topics: topics.collect(), ..fetch_request("", &[], 1, 0) };
    let answer = Connection::open(address)?.call(FETCH_VERSION, &request)?;
    let mut served = answer.responses.iter().flat_map(|topic| &topic.partitions);
    // Retention may have deleted the first records of a topic that a former load made.
    let is_served = served.all(|partition| matches!(partition.error_code, 0 | 1));
    Ok(answer.responses.len() == from.len() && is_served)
}

/// The first offset that each partition still holds.
pub(crate) fn earliest(
    connection: &mut Connection,
    topic: &str,
    partitions: &[i32],
) -> Result<Vec<(i32, i64)>> {
    let partitions = partitions.iter().map(|partition| ListOffsetsPartition {
        partition_index: *partition,
        timestamp: EARLIEST,
        ..Default::default()
    });
    let topic = ListOffsetsTopic { name: topic.into(), partitions: partitions.collect() };
    let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
    let answer = connection.call(LIST_OFFSETS_VERSION, &request)?;
    let mut found = Vec::new();
    for partition in answer.topics.into_iter().flat_map(|topic| topic.partitions) {
        let code = partition.error_code;
        ensure!(code == 0, "listing offsets refused with error {code}");
        found.push((partition.partition_index, partition.offset));
    }
    Ok(found)
}
