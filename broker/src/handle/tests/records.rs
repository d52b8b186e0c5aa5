//! Records over the protocol: what is stored where, what is fetched, and where epochs end.

use ropewalk_batch::Builder;
use ropewalk_codec::Records;
use ropewalk_codec::delete_records_request::*;
use ropewalk_codec::fetch_request::*;
use ropewalk_codec::fetch_response::{FetchResponse, PartitionData};
use ropewalk_codec::list_offsets_request::*;
use ropewalk_codec::offset_for_leader_epoch_request::*;
use ropewalk_codec::produce_request::*;
use tokio::time::Instant;
use uuid::Uuid;

use super::versions::{Client, create};
use super::*;

/// A version without topic ids, so that tests can name their topics.
pub(super) const FETCH: i16 = 12;

pub(super) fn batch(values: &[&str]) -> Bytes {
    let mut builder = Builder::new();
    for value in values {
        builder = builder.record(crate::clock::now_ms(), Some(b"k"), Some(value.as_bytes()));
    }
    builder.build()
}

pub(super) fn produce(topic: &str, acks: i16, parts: Vec<(i32, Bytes)>) -> ProduceRequest {
    let data = |(index, batch)| PartitionProduceData { index, records: Records::from(batch) };
    let partition_data = parts.into_iter().map(data).collect();
    let topic = TopicProduceData { name: topic.into(), partition_data, ..Default::default() };
    ProduceRequest { acks, timeout_ms: 10_000, topic_data: vec![topic], ..Default::default() }
}

pub(super) fn fetch(topic: &str, asked: FetchPartition) -> FetchRequest {
    let topic = FetchTopic { topic: topic.into(), partitions: vec![asked], ..Default::default() };
    FetchRequest { max_wait_ms: 0, min_bytes: 1, topics: vec![topic], ..Default::default() }
}

pub(super) fn from(fetch_offset: i64) -> FetchPartition {
    FetchPartition { fetch_offset, partition_max_bytes: 1 << 20, ..Default::default() }
}

fn only(answer: &FetchResponse) -> &PartitionData {
    &answer.responses[0].partitions[0]
}

impl Client {
    /// A topic beside `t` whose partitions are spread over the shards.
    pub(super) async fn make(&mut self, name: &str, partitions: i32) {
        let mut request = create(name);
        request.topics[0].num_partitions = partitions;
        let made = self.ask(5, &request).await;
        assert_eq!(made.topics[0].error_code, 0, "{name}");
    }

    pub(super) async fn store(&mut self, topic: &str, values: &[&str]) {
        let answer = self.ask(9, &produce(topic, -1, vec![(0, batch(values))])).await;
        assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
    }

    /// The result of ListOffsets for partition 0: code, offset, epoch.
    pub(super) async fn list(&mut self, topic: &str, timestamp: i64) -> (i16, i64, i32) {
        let asked = ListOffsetsPartition { timestamp, ..Default::default() };
        let topic = ListOffsetsTopic { name: topic.into(), partitions: vec![asked] };
        let request =
            ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
        let answer = self.ask(7, &request).await;
        let part = &answer.topics[0].partitions[0];
        (part.error_code, part.offset, part.leader_epoch)
    }

    /// Error code and low watermark of a deletion in partition 0.
    pub(super) async fn delete(&mut self, topic: &str, offset: i64) -> (i16, i64) {
        let asked = DeleteRecordsPartition { partition_index: 0, offset };
        let topic = DeleteRecordsTopic { name: topic.into(), partitions: vec![asked] };
        let request = DeleteRecordsRequest { topics: vec![topic], timeout_ms: 10_000 };
        let answer = self.ask(2, &request).await;
        let part = &answer.topics[0].partitions[0];
        (part.error_code, part.low_watermark)
    }

    /// The end offsets of epochs of partition 0, in every version.
    async fn epoch_ends(&mut self, topic: &str, leader_epoch: i32) -> (i16, i32, i64) {
        let answers = self
            .ask_all(|_, _| {
                let asked = OffsetForLeaderPartition { leader_epoch, ..Default::default() };
                let topic = OffsetForLeaderTopic { topic: topic.into(), partitions: vec![asked] };
                OffsetForLeaderEpochRequest { topics: vec![topic], ..Default::default() }
            })
            .await;
        let ends = answers.iter().map(|(_, answer)| {
            let part = &answer.topics[0].partitions[0];
            (part.error_code, part.leader_epoch, part.end_offset)
        });
        let ends: Vec<_> = ends.collect();
        assert!(ends.iter().all(|end| *end == ends[0]), "the same in every version: {ends:?}");
        ends[0]
    }
}

/// The answers are equal to Kafka 4.3.1's: a client that treats (-1, -1) as a truncation skips
/// records.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_epoch_ends_where_the_oldest_one_that_is_left_begins() {
    let dir = TempDir::new().expect("a directory");
    let mut client = Client::on(broker_in(dir.path()).await.expect("it starts")).await;
    client.make("t", 1).await;
    client.make("empty", 1).await;
    client.store("t", &["m1", "m2", "m3"]).await;
    let (_, _, old) = client.list("t", -1).await;
    client.broker.stop().await;

    let mut client = Client::on(broker_in(dir.path()).await.expect("it starts")).await;
    let (_, _, current) = client.list("t", -1).await;
    assert!(current > old, "a restart begins an epoch");
    assert_eq!(client.epoch_ends("t", old).await, (0, old, 3), "no record in the new one yet");
    assert_eq!(client.epoch_ends("t", current).await, (0, current, 3));
    client.store("t", &["m4", "m5", "m6"]).await;
    assert_eq!(client.epoch_ends("t", old).await, (0, old, 3));
    assert_eq!(client.delete("t", 3).await, (0, 3));
    for epoch in [0, old - 1, old] {
        let ends = client.epoch_ends("t", epoch).await;
        assert_eq!(ends, (0, epoch, 3), "its records are deleted: go on at the log start");
    }
    assert_eq!(client.epoch_ends("t", current).await, (0, current, 6));
    assert_eq!(client.epoch_ends("t", current + 1).await, (0, -1, -1));

    let (_, _, of_empty) = client.list("empty", -1).await;
    assert_eq!(client.epoch_ends("empty", of_empty - 1).await, (0, of_empty - 1, 0));
    assert_eq!(client.epoch_ends("empty", of_empty).await, (0, of_empty, 0));
    assert_eq!(client.epoch_ends("empty", of_empty + 1).await, (0, -1, -1));
    diverging(&mut client, old, current).await;
    client.broker.stop().await;
}

/// The same with Fetch, for a client that names the epoch it fetched last.
async fn diverging(client: &mut Client, old: i32, current: i32) {
    for (offset, epoch, code, parts_at) in [
        (3, old, 0, None),
        (5, old, 0, Some((old, 3))),
        (6, current, 0, None),
        (3, current + 1, 1, None),
        (2, old, 1, None),
    ] {
        let asked = FetchPartition { last_fetched_epoch: epoch, ..from(offset) };
        let answer = client.ask(FETCH, &fetch("t", asked)).await;
        let part = only(&answer);
        let diverging = &part.diverging_epoch;
        let found = (diverging.epoch >= 0).then_some((diverging.epoch, diverging.end_offset));
        assert_eq!((part.error_code, found), (code, parts_at), "from {offset} after {epoch}");
    }
    for (epoch, code) in
        [(old, ErrorCode::FencedLeaderEpoch), (current + 1, ErrorCode::UnknownLeaderEpoch)]
    {
        let asked = FetchPartition { current_leader_epoch: epoch, ..from(3) };
        let answer = client.ask(FETCH, &fetch("t", asked)).await;
        assert_eq!(only(&answer).error_code, code.code());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_produced_to_many_partitions_goes_to_each_and_is_answered_for_each() {
    let mut client = Client::new().await;
    client.make("wide", 60).await;
    let sizes: Vec<usize> = (0..60).map(|n| 1 + n % 7).collect();
    for round in 0_i64..2 {
        let parts = (0_i32..).zip(&sizes).map(|(index, size)| (index, batch(&vec!["v"; *size])));
        let answer = client.ask(9, &produce("wide", -1, parts.collect())).await;
        let parts = &answer.responses[0].partition_responses;
        for (index, (part, size)) in (0_i32..).zip(parts.iter().zip(&sizes)) {
            let expected = round * i64::try_from(*size).expect("small");
            assert_eq!((part.index, part.error_code, part.base_offset), (index, 0, expected));
        }
    }
    // More than one entry can hold: it becomes several entries, in order.
    let large = "x".repeat(700_000);
    let parts = (0..20).map(|_| (1, batch(&[&large])));
    let answer = client.ask(9, &produce("wide", -1, parts.collect())).await;
    let parts = &answer.responses[0].partition_responses;
    for (at, part) in (4_i64..).zip(parts) {
        assert_eq!((part.error_code, part.base_offset), (0, at));
    }

    // acks=0 is never answered: the next response belongs to the next request.
    let frame = encode_request(1, Some("t"), 9, &produce("t", 0, vec![(0, batch(&["v"]))]));
    let mut stream = connect(&client.broker).await;
    stream.write_all(&frame.expect("it encodes").into_bytes()).await.expect("sent");
    let answer = exchange(&mut stream, &api_versions(0)).await.expect("answered");
    assert_eq!(answer, expected(0));
    assert_eq!(client.list("t", -1).await.1, 1, "it was stored");

    let transactional = Builder::new().producer(7, 0, 0).transactional();
    let transactional = transactional.record(crate::clock::now_ms(), None, Some(b"v")).build();
    let answer = client.ask(9, &produce("t", -1, vec![(0, transactional)])).await;
    let part = &answer.responses[0].partition_responses[0];
    assert_eq!(part.error_code, ErrorCode::InvalidTxnState.code());
    assert!(part.error_message.as_ref().is_some_and(|why| why.contains("transaction")));
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fetch_waits_for_enough_and_never_returns_nothing_of_a_large_batch() {
    let mut client = Client::new().await;
    let value = "x".repeat(1000);
    client.store("t", &[&value, &value]).await;
    client.store("t", &[&value]).await;

    let tiny = FetchPartition { partition_max_bytes: 1, ..from(0) };
    let answer = client.ask(FETCH, &fetch("t", tiny)).await;
    let part = only(&answer);
    assert!((2000..3000).contains(&part.records.len()), "the first batch, whole (KIP-74)");
    assert_eq!(part.high_watermark, 3, "the end, not the end of what was read");
    assert_eq!(part.last_stable_offset, 3);

    // The connection stays open, and the memory of its responses is free again.
    let context = Arc::clone(client.broker.context());
    let due = Instant::now() + SOON;
    while context.answers.free_bytes() < crate::limits::ANSWER_BYTES_MAX {
        assert!(Instant::now() < due, "an answer that was sent holds its share");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    let begun = Instant::now();
    let patient = FetchRequest { min_bytes: 10_000, max_wait_ms: 300, ..fetch("t", from(0)) };
    let answer = client.ask(FETCH, &patient).await;
    assert!(begun.elapsed() >= Duration::from_millis(290), "less than min_bytes: it waits");
    assert!(only(&answer).records.len() > 3000, "and then returns what there is");

    let begun = Instant::now();
    let unknown = FetchPartition { partition: 9, ..from(0) };
    let unknown = FetchRequest { min_bytes: 10_000, max_wait_ms: 20_000, ..fetch("t", unknown) };
    let answer = client.ask(FETCH, &unknown).await;
    assert_eq!(only(&answer).error_code, ErrorCode::UnknownTopicOrPartition.code());
    assert!(begun.elapsed() < Duration::from_secs(10), "an error does not wait");

    let waiting = FetchRequest { max_wait_ms: 20_000, ..fetch("t", from(3)) };
    let mut other = Client::beside(&client.broker).await;
    let fetched = tokio::spawn(async move { other.ask(FETCH, &waiting).await });
    client.store("t", &["late"]).await;
    let answer = timeout(SOON / 2, fetched).await.expect("it is woken").expect("answered");
    assert!(!only(&answer).records.is_empty());
    client.broker.stop().await;
}

/// A Produce of one record of an idempotent producer.
pub(super) fn numbered(epoch: i16, sequence: i32) -> ProduceRequest {
    let builder = Builder::new().producer(77, epoch, sequence);
    let batch = builder.record(crate::clock::now_ms(), None, Some(b"v")).build();
    produce("t", -1, vec![(0, batch)])
}

/// After an out-of-order error, librdkafka begins a new producer epoch and sends again in it all
/// whose outcome it does not know, which is then stored twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_comes_too_early_is_out_of_order_only_if_it_is_so_again() {
    let mut client = Client::new().await;
    let early = (ErrorCode::NotEnoughReplicas, -1);
    let out_of_order = (ErrorCode::OutOfOrderSequenceNumber, -1);
    let stored = |offset| (ErrorCode::None, offset);
    for (epoch, sequence, expected) in [
        (0, 0, stored(0)),
        (0, 2, early),
        (0, 3, early),
        (0, 1, stored(1)),
        (0, 2, stored(2)),
        (0, 3, stored(3)),
        (0, 5, early),
        (0, 5, out_of_order),
        (0, 4, stored(4)),
        (0, 1, stored(1)),
        (1, 1, early),
        (1, 0, stored(5)),
        (1, 1, stored(6)),
    ] {
        let answer = client.ask(9, &numbered(epoch, sequence)).await;
        let part = &answer.responses[0].partition_responses[0];
        let (code, offset) = expected;
        assert_eq!((part.error_code, part.base_offset), (code.code(), offset), "{sequence}");
    }
    client.broker.stop().await;
}

/// A partition accepts any first sequence of an unknown producer.
#[tokio::test(flavor = "multi_thread")]
async fn no_batch_overtakes_one_of_a_new_producer_that_found_no_memory() {
    let client = Client::new().await;
    let numbered = |timeout_ms, sequence| ProduceRequest { timeout_ms, ..numbered(0, sequence) };
    let budget = Arc::clone(client.broker.context().node.tail_budget());
    let all = 1 << 40;
    let _short = budget.take(all);
    let mut stream = connect(&client.broker).await;
    for (id, (timeout_ms, sequence)) in (0..).zip([(50, 0), (60_000, 1)]) {
        let frame = encode_request(id, Some("t"), 9, &numbered(timeout_ms, sequence));
        stream.write_all(&frame.expect("it encodes").into_bytes()).await.expect("sent");
    }
    let refused = async {
        let length = stream.read_u32().await.expect("an answer");
        let mut body = vec![0; length as usize];
        stream.read_exact(&mut body).await.expect("the whole answer");
        body
    };
    let refused = timeout(SOON, refused).await.expect("in time");
    let (id, refused) = decode_response::<ProduceRequest>(refused.into(), 9).expect("it decodes");
    let code = refused.responses[0].partition_responses[0].error_code;
    assert_eq!((id, code), (0, ErrorCode::RequestTimedOut.code()));
    budget.give_back(all);
    let end = timeout(SOON, stream.read_u32()).await.expect("in time");
    assert!(end.is_err(), "the second is not taken, and the client sends both again, in order");

    let mut again = Client::beside(&client.broker).await;
    for sequence in 0..2 {
        let answer = again.ask(9, &numbered(10_000, sequence)).await;
        let part = &answer.responses[0].partition_responses[0];
        assert_eq!((part.error_code, part.base_offset), (0, i64::from(sequence)));
    }
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_deleted_up_to_an_offset_that_the_log_has() {
    let mut client = Client::new().await;
    client.store("t", &["a", "b", "c", "d"]).await;
    let out_of_range = ErrorCode::OffsetOutOfRange.code();
    for (offset, code, start) in
        [(2, 0, 2), (2, 0, 2), (1, 0, 2), (5, out_of_range, 2), (-2, out_of_range, 2), (-1, 0, 4)]
    {
        let low = if code == 0 { start } else { -1 };
        assert_eq!(client.delete("t", offset).await, (code, low), "to {offset}");
        assert_eq!(client.list("t", -2).await.1, start, "earliest after {offset}");
    }

    // Several partitions, of all shards, in one request.
    client.make("wide", 60).await;
    let parts = (0..60).map(|index| (index, batch(&["a", "b"]))).collect();
    client.ask(9, &produce("wide", -1, parts)).await;
    let partition = |partition_index| DeleteRecordsPartition { partition_index, offset: 1 };
    let partitions = (0..61).map(partition).collect();
    let wide = DeleteRecordsTopic { name: "wide".into(), partitions };
    let request = DeleteRecordsRequest { topics: vec![wide], timeout_ms: 10_000 };
    let answer = client.ask(2, &request).await;
    for part in &answer.topics[0].partitions[..60] {
        assert_eq!((part.error_code, part.low_watermark), (0, 1), "{}", part.partition_index);
    }
    let absent = &answer.topics[0].partitions[60];
    assert_eq!(absent.error_code, ErrorCode::UnknownTopicOrPartition.code());

    // As in Kafka, only topics that are compacted and not deleted keep their records.
    for (policy, code) in [("", 0), ("compact", ErrorCode::PolicyViolation.code())] {
        let name = format!("policy-{policy}");
        let mut request = create(&name);
        request.topics[0].configs = vec![config("cleanup.policy", policy)];
        assert_eq!(client.ask(5, &request).await.topics[0].error_code, 0);
        client.store(&name, &["a"]).await;
        assert_eq!(client.delete(&name, 1).await.0, code, "cleanup.policy={policy}");
    }
    client.broker.stop().await;
}

/// C4: the batches of one request stay slices of its frame, so their addresses are close together.
#[tokio::test(flavor = "multi_thread")]
async fn the_batches_of_a_request_are_kept_without_a_copy() {
    let mut client = Client::new().await;
    client.make("many", 12).await;
    let value = "v".repeat(40_000);
    let parts: Vec<(i32, Bytes)> = (0..12).map(|index| (index, batch(&[&value]))).collect();
    let size_bytes = parts[0].1.len();
    let answer = client.ask(9, &produce("many", -1, parts)).await;
    assert!(answer.responses[0].partition_responses.iter().all(|part| part.error_code == 0));
    let ctx = client.broker.context();
    let view = ctx.topic(&"many".into(), Uuid::nil()).expect("it exists");
    let stored: Vec<Bytes> = (0..12)
        .map(|index| {
            let log = ctx.partition(&view, index).expect("it is led here").log;
            let chunk = log.read_from_memory(0, 1, true).expect("in range").expect("in memory");
            chunk.bytes.into_iter().max_by_key(Bytes::len).expect("a prefix and a body")
        })
        .collect();
    for pair in stored.windows(2) {
        let step = pair[1].as_ptr().addr().wrapping_sub(pair[0].as_ptr().addr());
        assert!((size_bytes..size_bytes + 100).contains(&step), "{step} bytes between batches");
    }
    client.broker.stop().await;
}
