//! Reads that begin in the bucket: what a request handler does with a [`RemoteLog`].

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::remote::{RemoteError, RemoteFuture, RemoteLog, RemoteRecords};

/// A bucket that has every batch of the model, ten in an object.
#[derive(Debug)]
struct Bucket {
    objects: Vec<Vec<StampedBatch>>,
}

impl Bucket {
    fn object(&self, offset: i64) -> Option<&Vec<StampedBatch>> {
        self.objects.iter().find(|batches| {
            let (first, last) = (batches.first().unwrap(), batches.last().unwrap());
            (first.base_offset..last.next_offset()).contains(&offset)
        })
    }
}

impl RemoteLog for Bucket {
    fn read(
        &self,
        _: PartitionId,
        range: RemoteRange,
        bytes_max: usize,
    ) -> RemoteFuture<'_, RemoteRecords> {
        let Some(batches) = self.object(range.from) else {
            return Box::pin(async move { Err(RemoteError::NoObject(range.from)) });
        };
        let at = batches.iter().position(|batch| batch.last_offset() >= range.from).unwrap();
        let mut end = at + 1;
        while end < batches.len() && whole(&batches[at..=end]).len() <= bytes_max {
            end += 1;
        }
        let bytes = Bytes::from(whole(&batches[at..end]));
        let (size_bytes, next_offset) = (bytes.len(), batches[end - 1].next_offset());
        let pieces = vec![bytes];
        let records = RemoteRecords { pieces, size_bytes, pinned_bytes: size_bytes, next_offset };
        Box::pin(async move { Ok(records) })
    }

    fn offset_for_timestamp(
        &self,
        _: PartitionId,
        _: RemoteRange,
        _: i64,
    ) -> RemoteFuture<'_, Option<(i64, i64)>> {
        Box::pin(async { Ok(None) })
    }

    fn max_timestamp(
        &self,
        _: PartitionId,
        _: RemoteRange,
    ) -> RemoteFuture<'_, Option<(i64, i64)>> {
        Box::pin(async { Ok(None) })
    }
}

/// The result of a future that never waits.
fn ready<T>(future: RemoteFuture<'_, T>) -> Result<T, RemoteError> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("it waits"),
    }
}

impl Fixture {
    /// Everything from `from` on, as a handler sends it: first from the bucket, then from the log.
    pub(super) fn with_bucket(&self, from: i64) -> Vec<u8> {
        let bucket = Bucket { objects: self.model.chunks(10).map(<[_]>::to_vec).collect() };
        let (mut sent, mut at) = (Vec::new(), from);
        loop {
            match self.log.read(at, 300, true) {
                Ok(chunk) if chunk.next_offset == at => return sent,
                Ok(chunk) => {
                    assert!(at >= self.local_start, "{at} is in the bucket only");
                    sent.extend_from_slice(&joined(&chunk));
                    at = chunk.next_offset;
                }
                Err(ReadError::Remote(range)) => {
                    assert_eq!(range, RemoteRange { from: at, until: self.local_start });
                    let records = ready(bucket.read(partition(), range, 200)).unwrap();
                    sent.extend(records.pieces.iter().flatten());
                    at = records.next_offset;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn t1_what_is_below_the_local_start_is_read_from_the_bucket_and_nowhere_else() {
    let mut fixture = Fixture::new();
    for _ in 0..20 {
        fixture.append(3);
    }
    fixture.flush();
    let size_bytes = fixture.log.size_bytes();
    fixture.log.set_local_start(31);
    fixture.local_start = 31;
    assert!(!fixture.log.trim().is_empty(), "files can be removed");
    assert!(fixture.log.size_bytes() < size_bytes);
    assert_eq!(fixture.log.log_start(), 0, "the log starts where it did");
    let remote = RemoteRange { from: 30, until: 31 };
    let limits = Limits { bytes: 100, at_least_one: true, stretches: 1 };
    assert_eq!(fixture.log.read(30, 1, true).unwrap_err(), ReadError::Remote(remote));
    assert_eq!(fixture.log.plan(30, limits).unwrap_err(), ReadError::Remote(remote));
    let from_memory = fixture.log.read_from_memory(30, 1, true);
    assert_eq!(from_memory.unwrap_err(), ReadError::Remote(remote));
    assert!(fixture.log.read(31, 1, true).is_ok());
    let infos = fixture.log.segment_infos();
    assert!(infos[0].next_offset > 31, "{infos:?}");
    fixture.check();
    // Retention continues, below and above the local start.
    fixture.act(&Act::LogStart(90));
    assert_eq!(fixture.log.local_start(), 31);
    fixture.act(&Act::LogStart(200));
    assert_eq!(fixture.log.local_start(), fixture.log.log_start());
    fixture.check();
}

/// The local start may be raised to the end of the log, before the first segment exists.
#[test]
fn t1_a_log_that_is_in_the_bucket_as_a_whole_takes_records() {
    let mut fixture = Fixture::new();
    fixture.append(4);
    fixture.append(4);
    fixture.act(&Act::LocalStart(255));
    assert_eq!((fixture.log.size_bytes(), fixture.log.local_start()), (0, 8));
    assert_eq!(fixture.partition_logs.store().budget().pinned_bytes(), 0);
    fixture.check();
    fixture.act(&Act::Checkpoint);
    fixture.append(2);
    fixture.act(&Act::Reopen);
    fixture.check();
    fixture.flush();
    fixture.check();
    assert_eq!(fixture.log.segment_infos()[0].base_offset, 8);
}
