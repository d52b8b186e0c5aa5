//! Produce requests that are built before the clock starts.
//!
//! Invariant: the values of all frames of a run come from one ring of random bytes, so that the
//! client's caches do not hold them and nothing can compress them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use ropewalk_batch::{Builder, HEADER_LEN};
use ropewalk_codec::Records;
use ropewalk_codec::decode_response;
use ropewalk_codec::init_producer_id_request::InitProducerIdRequest;
use ropewalk_codec::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};

use crate::connection::{Connection, frame};
use crate::payload::Ring;

const PRODUCE_VERSION: i16 = 9;
const INIT_PRODUCER_VERSION: i16 = 2;
const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
/// Errors after which Kafka's own producer asks for the leader and sends again:
/// LEADER_NOT_AVAILABLE, NOT_LEADER_OR_FOLLOWER, REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS and
/// NOT_ENOUGH_REPLICAS_AFTER_APPEND.
const SENT_AGAIN: [i16; 5] = [5, 6, 7, 19, 20];
/// Positions in a record batch, as Kafka's protocol defines it.
const CRC_AT: usize = 17;
const CRC_BEGIN: usize = 21;
const PRODUCER_AT: usize = 43;

/// How many records a batch holds, and of what size.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Shape {
    #[arg(long, default_value_t = 1024)]
    pub(crate) record_bytes: usize,
    #[arg(long, default_value_t = 64)]
    pub(crate) records_per_batch: usize,
}

impl Shape {
    /// Bytes of payload in one batch.
    pub(crate) fn batch_bytes(&self) -> usize {
        self.record_bytes * self.records_per_batch
    }

    fn batch(&self, ring: &mut Ring, now_ms: i64) -> Bytes {
        let mut batch = Builder::new();
        for _ in 0..self.records_per_batch {
            batch = batch.record(now_ms, None, Some(ring.next(self.record_bytes)));
        }
        batch.build()
    }
}

/// One produce request for one partition.
pub(crate) struct Frame {
    bytes: Vec<u8>,
    batch_at: usize,
    batch_length: usize,
    /// Index of the partition among the targets of its sender.
    pub(crate) target: usize,
}

impl Frame {
    /// A request with a batch of fresh values for one partition.
    pub(crate) fn new(
        (topic, partition): (&str, i32),
        target: usize,
        shape: Shape,
        ring: &mut Ring,
    ) -> Result<Self> {
        let batch = shape.batch(ring, unix_ms());
        let batch_length = batch.len();
        let first = batch.slice(..HEADER_LEN);
        let bytes = produce_frame(topic, partition, batch)?;
        let batch_at = bytes
            .windows(HEADER_LEN)
            .position(|window| window == first)
            .context("a produce request without its batch")?;
        Ok(Self { bytes, batch_at, batch_length, target })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Names the producer and the sequence number in the batch, and computes its checksum again.
    fn stamp(&mut self, (id, epoch): (i64, i16), sequence: i32) {
        let batch = &mut self.bytes[self.batch_at..self.batch_at + self.batch_length];
        batch[PRODUCER_AT..PRODUCER_AT + 8].copy_from_slice(&id.to_be_bytes());
        batch[PRODUCER_AT + 8..PRODUCER_AT + 10].copy_from_slice(&epoch.to_be_bytes());
        batch[PRODUCER_AT + 10..PRODUCER_AT + 14].copy_from_slice(&sequence.to_be_bytes());
        let crc = crc32c::crc32c(&batch[CRC_BEGIN..]);
        batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
    }
}

/// The idempotent producer of one connection: its id, and the next sequence number per partition.
pub(crate) struct Producer {
    id: (i64, i16),
    next: Vec<i32>,
    records_per_batch: i32,
}

impl Producer {
    /// Asks the broker for a producer id. A Kafka broker answers the first requests with an error
    /// while it fetches a block of ids from its controller.
    pub(crate) fn open(connection: &mut Connection, targets: usize, shape: Shape) -> Result<Self> {
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: 60_000,
            ..Default::default()
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        let answer = loop {
            let answer = connection.call(INIT_PRODUCER_VERSION, &request)?;
            match answer.error_code {
                0 => break answer,
                COORDINATOR_LOAD_IN_PROGRESS if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                code => bail!("a producer id is refused with error {code}"),
            }
        };
        let records_per_batch = i32::try_from(shape.records_per_batch)?;
        let id = (answer.producer_id, answer.producer_epoch);
        Ok(Self { id, next: vec![0; targets], records_per_batch })
    }

    /// Makes a frame the next one of its partition.
    pub(crate) fn stamp(&mut self, frame: &mut Frame) {
        let next = &mut self.next[frame.target];
        frame.stamp(self.id, *next);
        *next = ropewalk_batch::sequence_after(*next, self.records_per_batch);
    }
}

/// What became of a produce request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ack {
    Taken,
    /// The leader has moved, or does not say what became of the request: it is sent again.
    Again,
}

/// Fails unless the broker accepted the produce request.
pub(crate) fn check_ack(answer: Bytes) -> Result<()> {
    let ack = ack(answer)?;
    ensure!(ack == Ack::Taken, "produce refused: the partition has another leader");
    Ok(())
}

/// What a broker answered to a produce request. Errors that no other leader can help are errors.
pub(crate) fn ack(answer: Bytes) -> Result<Ack> {
    let (_, answer) = decode_response::<ProduceRequest>(answer, PRODUCE_VERSION)?;
    let partition = answer.responses.first().and_then(|topic| topic.partition_responses.first());
    let partition = partition.context("an empty answer")?;
    match partition.error_code {
        0 => Ok(Ack::Taken),
        code if SENT_AGAIN.contains(&code) => Ok(Ack::Again),
        code => bail!("produce refused with error {code}"),
    }
}

/// A produce request with `acks=all` for one batch.
pub(crate) fn produce_frame(topic: &str, partition: i32, batch: Bytes) -> Result<Vec<u8>> {
    let partition =
        PartitionProduceData { index: partition, records: Records::from_chunks(vec![batch]) };
    let topic = TopicProduceData {
        name: topic.into(),
        partition_data: vec![partition],
        ..Default::default()
    };
    let request = ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![topic],
        ..Default::default()
    };
    frame(PRODUCE_VERSION, &request)
}

/// Milliseconds since 1970, for the timestamps of records.
pub(crate) fn unix_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use ropewalk_batch::Header;

    use super::*;

    #[test]
    fn a_stamped_batch_has_its_producer_and_a_valid_checksum() {
        let mut ring = Ring::random(1 << 16).unwrap();
        let shape = Shape { record_bytes: 100, records_per_batch: 7 };
        let mut frame = Frame::new(("t", 3), 0, shape, &mut ring).unwrap();
        let mut producer = Producer { id: (42, 5), next: vec![0], records_per_batch: 7 };
        producer.stamp(&mut frame);
        producer.stamp(&mut frame);
        let batch = &frame.bytes[frame.batch_at..frame.batch_at + frame.batch_length];
        let header = Header::verify(batch).unwrap();
        assert_eq!((header.producer_id, header.producer_epoch), (42, 5));
        assert_eq!((header.base_sequence, header.count), (7, 7));
    }
}
