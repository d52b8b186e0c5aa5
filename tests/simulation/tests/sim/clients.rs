//! Clients of the shard: producers with and without idempotence, and readers.

use bytes::Bytes;
use ropewalk_batch::Builder;
use ropewalk_shard::command::Append;
use ropewalk_shard::proposal::{AppendResult, Certainty};
use ropewalk_shard::state::AppendRefusal;
use ropewalk_shard::{PartitionId, TopicId};

use crate::oracle::{Oracle, Value};

/// Partitions of the shard.
pub(crate) const PARTITIONS: i32 = 3;

pub(crate) fn partition(index: i32) -> PartitionId {
    PartitionId { topic: TopicId(uuid::Uuid::from_u128(1)), index }
}

/// A batch of one record whose value the oracle finds again.
pub(crate) fn batch_of(value: Value, producer: Option<(i64, i32)>) -> Bytes {
    let mut builder = Builder::new();
    if let Some((id, sequence)) = producer {
        builder = builder.producer(id, 0, sequence);
    }
    builder.record(0, None, Some(format!("value:{value};").as_bytes())).build()
}

/// A batch of one large record, which the oracle does not follow.
pub(crate) fn filler(bytes: usize) -> Bytes {
    Builder::new().record(0, None, Some(vec![0_u8; bytes].as_slice())).build()
}

/// A client that sends one record at a time.
#[derive(Debug)]
pub(crate) struct Client {
    /// The producer id and the next sequence of each partition, if it is idempotent.
    producer: Option<(i64, [i32; PARTITIONS as usize])>,
    /// The record that is sent until its outcome is known.
    current: Option<Record>,
    /// The replica that gets the next request.
    pub target: u64,
    /// Whether an answer is due.
    pub waits: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    pub value: Value,
    pub partition: i32,
    /// Whether an earlier attempt may have stored it.
    is_unknown: bool,
}

impl Client {
    pub(crate) fn new(producer_id: Option<i64>) -> Self {
        Self {
            producer: producer_id.map(|id| (id, [0; PARTITIONS as usize])),
            current: None,
            target: 1,
            waits: false,
        }
    }

    /// The next request: a new record, or the one whose outcome is not known.
    pub(crate) fn request(&mut self, value: Value, partition_index: i32) -> (Record, Append) {
        let record = *self.current.get_or_insert(Record {
            value,
            partition: partition_index,
            is_unknown: false,
        });
        let producer = self.producer.as_ref().map(|(id, sequences)| {
            let at = usize::try_from(record.partition).expect("an index");
            (*id, sequences[at])
        });
        self.waits = true;
        let batch = batch_of(record.value, producer);
        (record, Append { partition: partition(record.partition), batch })
    }

    /// Whether the client knows of `value` as the one it waits for.
    pub(crate) fn waits_for(&self, value: Value) -> bool {
        self.waits && self.current.is_some_and(|record| record.value == value)
    }

    /// Takes the answer to the request for `record`.
    pub(crate) fn answered(&mut self, record: Record, result: AppendResult, oracle: &mut Oracle) {
        if !self.waits_for(record.value) {
            return;
        }
        self.waits = false;
        let record = self.current.expect("it waits for a record");
        match result {
            Ok(results) => match results[..] {
                [Ok(outcome)] => {
                    oracle.acked(record.value, (record.partition, outcome.base_offset));
                    if let Some((_, sequences)) = &mut self.producer {
                        sequences[usize::try_from(record.partition).expect("an index")] += 1;
                    }
                    self.current = None;
                }
                [Err(AppendRefusal::NoSuchPartition)] => self.not_stored(record, oracle),
                [Err(refusal)] => oracle.violate(format!(
                    "record {} of a client with one request in flight: {refusal}",
                    record.value
                )),
                _ => oracle.violate("an append of one batch has not one result".to_owned()),
            },
            Err(error) => match error.certainty() {
                Certainty::NotTaken => self.not_stored(record, oracle),
                Certainty::Unknown => self.unknown(),
                Certainty::Refused => oracle.violate(format!("a small record: {error}")),
            },
        }
    }

    /// No answer comes any more.
    pub(crate) fn timed_out(&mut self) {
        self.waits = false;
        self.unknown();
    }

    fn unknown(&mut self) {
        // An idempotent producer sends the same batch again; any other gives it up.
        match (&self.producer, &mut self.current) {
            (Some(_), Some(record)) => record.is_unknown = true,
            _ => self.current = None,
        }
    }

    fn not_stored(&mut self, record: Record, oracle: &mut Oracle) {
        if record.is_unknown {
            return; // An earlier attempt may be stored: the same batch is sent again.
        }
        oracle.absent(record.value);
        self.current = None;
    }
}
