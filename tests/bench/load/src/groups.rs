//! Offsets of consumer groups, committed without a membership as `assign` of Kafka's consumer does.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ropewalk_codec::find_coordinator_request::FindCoordinatorRequest;
use ropewalk_codec::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};

use crate::connection::Connection;

const FIND_VERSION: i16 = 2;
const COMMIT_VERSION: i16 = 5;

/// A connection to the group's coordinator, once it accepts a commit of offset 0 of partition 0;
/// waits up to 60 s for that.
pub(crate) fn coordinator(bootstrap: &str, group: &str, topic: &str) -> Result<Connection> {
    let mut connection = Connection::open(bootstrap)?;
    let request = FindCoordinatorRequest { key: group.into(), ..Default::default() };
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = connection.call(FIND_VERSION, &request)?;
        let mut code = found.error_code;
        if code == 0 {
            let mut coordinator = Connection::open(&format!("{}:{}", found.host, found.port))?;
            code = commit_code(&mut coordinator, group, topic, &[(0, 0)])?;
            if code == 0 {
                return Ok(coordinator);
            }
        }
        ensure!(Instant::now() < deadline, "group {group}: error {code} after 60 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Commits the next offset of each partition.
pub(crate) fn commit(
    connection: &mut Connection,
    group: &str,
    topic: &str,
    next: &[(i32, i64)],
) -> Result<()> {
    let code = commit_code(connection, group, topic, next)?;
    ensure!(code == 0, "group {group}: commit refused with error {code}");
    Ok(())
}

fn commit_code(
    connection: &mut Connection,
    group: &str,
    topic: &str,
    next: &[(i32, i64)],
) -> Result<i16> {
    let partitions = next.iter().map(|(partition, offset)| OffsetCommitRequestPartition {
        partition_index: *partition,
        committed_offset: *offset,
        ..Default::default()
    });
    let topic = OffsetCommitRequestTopic {
        name: topic.into(),
        partitions: partitions.collect(),
        ..Default::default()
    };
    let request =
        OffsetCommitRequest { group_id: group.into(), topics: vec![topic], ..Default::default() };
    let answer = connection.call(COMMIT_VERSION, &request)?;
    let mut codes = answer.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.error_code);
    Ok(codes.find(|code| *code != 0).unwrap_or(0))
}
