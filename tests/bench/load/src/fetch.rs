//! Fetch requests, with and without a session, and the batches in their answers.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use bytes::Bytes;
use ropewalk_batch::Header;
use ropewalk_codec::fetch_request::{FetchPartition, FetchRequest, FetchTopic};

use crate::connection::Connection;

pub(crate) const FETCH_VERSION: i16 = 12;
const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
const INVALID_FETCH_SESSION_EPOCH: i16 = 71;

/// The whole batches at the front of `bytes`; a fetch may cut the last one.
pub(crate) fn batches(bytes: &Bytes) -> Vec<(Header, Bytes)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Ok(header) = Header::parse(&bytes[at..]) {
        let end = at + header.size_bytes();
        if end > bytes.len() {
            break;
        }
        found.push((header, bytes.slice(at..end)));
        at = end;
    }
    found
}

/// A fetch without a session, so that any broker answers it alike.
///
/// `from` holds partitions and offsets; `partition_bytes` bounds the answer of each partition.
pub(crate) fn fetch_request(
    topic: &str,
    from: &[(i32, i64)],
    partition_bytes: i32,
    max_wait_ms: i32,
) -> FetchRequest {
    let partitions = from.iter().map(|(partition, offset)| FetchPartition {
        partition: *partition,
        fetch_offset: *offset,
        partition_max_bytes: partition_bytes,
        ..Default::default()
    });
    let topic =
        FetchTopic { topic: topic.into(), partitions: partitions.collect(), ..Default::default() };
    FetchRequest {
        max_wait_ms,
        min_bytes: 1,
        max_bytes: 50 << 20,
        session_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    }
}

/// A consumer's fetch session (KIP-227), used as Kafka's own clients use it.
///
/// A broker that grants a session gets only the partitions whose offset changed; one that declines
/// gets all partitions in every request.
pub(crate) struct Session {
    topic: String,
    id: i32,
    epoch: i32,
    offsets: BTreeMap<i32, i64>,
    changed: BTreeSet<i32>,
}

impl Session {
    /// A consumer of the first `partitions` partitions, from their beginning.
    pub(crate) fn new(topic: &str, partitions: i32) -> Self {
        let offsets = (0..partitions).map(|partition| (partition, 0)).collect();
        Self { topic: topic.to_owned(), id: 0, epoch: 0, offsets, changed: BTreeSet::new() }
    }

    /// The batches of one fetch, which waits up to half a second for the first of them.
    pub(crate) fn fetch(&mut self, connection: &mut Connection) -> Result<Vec<(Header, Bytes)>> {
        let answer = connection.call(FETCH_VERSION, &self.request())?;
        self.changed.clear();
        let is_lost = [FETCH_SESSION_ID_NOT_FOUND, INVALID_FETCH_SESSION_EPOCH];
        if is_lost.contains(&answer.error_code) {
            (self.id, self.epoch) = (0, 0);
            return Ok(Vec::new());
        }
        ensure!(answer.error_code == 0, "fetch refused with error {}", answer.error_code);
        self.id = answer.session_id;
        self.epoch = if self.id == 0 { 0 } else { self.epoch + 1 };
        let mut found = Vec::new();
        for partition in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
            ensure!(partition.error_code == 0, "fetch refused with error {}", partition.error_code);
            let batches = batches(&partition.records.to_bytes().unwrap_or_default());
            if let Some((header, _)) = batches.last() {
                self.offsets.insert(partition.partition_index, header.last_offset() + 1);
                self.changed.insert(partition.partition_index);
            }
            found.extend(batches);
        }
        Ok(found)
    }

    fn request(&self) -> FetchRequest {
        let is_full = self.epoch == 0;
        let named = self.offsets.iter().filter(|(p, _)| is_full || self.changed.contains(p));
        let from: Vec<(i32, i64)> = named.map(|(p, offset)| (*p, *offset)).collect();
        let mut request = fetch_request(&self.topic, &from, 1 << 20, 500);
        request.topics.retain(|topic| !topic.partitions.is_empty());
        FetchRequest { session_id: self.id, session_epoch: self.epoch, ..request }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_names_only_partitions_that_changed() {
        let mut session = Session::new("t", 3);
        assert_eq!(session.request().topics[0].partitions.len(), 3);
        (session.id, session.epoch) = (9, 1);
        assert!(session.request().topics.is_empty());
        session.changed.insert(2);
        let request = session.request();
        assert_eq!(request.topics[0].partitions[0].partition, 2);
        assert_eq!((request.session_id, request.session_epoch), (9, 1));
    }
}
