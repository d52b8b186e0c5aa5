//! Creates the topics of a run and waits until each partition has a leader.
//!
//! When `create` returns, every partition accepts a produce. Topics are not deleted: a run begins
//! with an empty broker.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ropewalk_codec::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use ropewalk_codec::fetch_request::FetchRequest;

use crate::connection::Connection;
use crate::consume::{FETCH_VERSION, fetch_request};

const CREATE_VERSION: i16 = 5;
const TOPIC_ALREADY_EXISTS: i16 = 36;
/// Topics in one request, so that no request takes long.
const AT_ONCE: usize = 500;

/// The names of `count` topics: `topic` itself if there is one, otherwise with a number appended.
pub(crate) fn names(topic: &str, count: usize) -> Vec<String> {
    if count == 1 {
        return vec![topic.to_owned()];
    }
    (0..count).map(|i| format!("{topic}-{i}")).collect()
}

pub(crate) fn create(bootstrap: &str, names: &[String], partitions: i32) -> Result<()> {
    let mut connection = Connection::open(bootstrap)?;
    for some in names.chunks(AT_ONCE) {
        let topics = some.iter().map(|name| CreatableTopic {
            name: name.as_str().into(),
            num_partitions: partitions,
            replication_factor: 1,
            ..Default::default()
        });
        let request = CreateTopicsRequest {
            topics: topics.collect(),
            timeout_ms: 60_000,
            validate_only: false,
        };
        for created in connection.call(CREATE_VERSION, &request)?.topics {
            let code = created.error_code;
            ensure!(code == 0 || code == TOPIC_ALREADY_EXISTS, "{:?}: error {code}", created.name);
        }
        wait_for_leaders(&mut connection, some, partitions)?;
    }
    Ok(())
}

/// Uses fetches, because Metadata may name a leader before it serves requests.
fn wait_for_leaders(connection: &mut Connection, names: &[String], partitions: i32) -> Result<()> {
    let from: Vec<_> = (0..partitions).map(|partition| (partition, 0)).collect();
    let topics = names.iter().flat_map(|name| fetch_request(name, &from, 1, 0).topics);
    let request = FetchRequest { topics: topics.collect(), ..fetch_request("", &[], 1, 0) };
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = connection.call(FETCH_VERSION, &request)?;
        let mut served = answer.responses.iter().flat_map(|topic| &topic.partitions);
        if answer.responses.len() == names.len() && served.all(|p| p.error_code == 0) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "no leaders after 60 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}
