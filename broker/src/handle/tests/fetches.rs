//! Responses whose records are read from segments while they are sent.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use ropewalk_codec::Request as _;
use ropewalk_codec::fetch_request::*;
use ropewalk_codec::fetch_response::PartitionData;
use ropewalk_store::PartitionLog;

use super::records::{FETCH, batch, fetch, from, produce};
use super::versions::Client;
use super::*;

/// Size of each batch without its header, bytes: one is a block of the index.
const VALUE_BYTES: usize = 60_000;

/// A broker with topic `t`, whose batches are in segments except for the last few.
struct Fixture {
    client: Client,
    log: Arc<PartitionLog>,
    batches: i64,
    dir: TempDir,
}

fn value(number: i64) -> String {
    format!("{number:08}{}", "x".repeat(VALUE_BYTES - 8))
}

impl Fixture {
    async fn new(batches: i64) -> Self {
        let dir = TempDir::new().expect("a directory");
        let mut client = Client::on(broker_in(dir.path()).await.expect("it starts")).await;
        client.make("t", 1).await;
        for number in 0..batches {
            client.store("t", &[&value(number)]).await;
        }
        let context = Arc::clone(client.broker.context());
        let view = context.view.by_name("t").expect("it was made");
        let log = context.partition(&view, 0).expect("it is led here").log;
        // The rest of the tail is smaller than what is flushed at once.
        let flushed = batches - (1 << 20) / VALUE_BYTES as i64 - 1;
        eventually(|| !log.is_in_memory(flushed - 1)).await;
        Self { client, log, batches, dir }
    }

    fn context(&self) -> &Arc<Context> {
        self.client.broker.context()
    }

    /// Bytes of the response budget that are in use.
    fn used_bytes(&self) -> usize {
        limits::ANSWER_BYTES_MAX - self.context().answers.free_bytes()
    }

    /// Flips a bit of the log that holds this offset, behind the header of its batch.
    fn damage(&self, number: usize) {
        let logs = logs(self.dir.path());
        let [path] = &logs[..] else { panic!("one segment: {logs:?}") };
        let file = fs::File::options().read(true).write(true).open(path).expect("it is there");
        let at = (number * file_batch_bytes(&file) + 1_000) as u64;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("readable");
        file.write_all_at(&[byte[0] ^ 1], at).expect("writable");
    }

    /// A connection that asks for everything and reads only the length of the response.
    async fn stalled(&self) -> (TcpStream, usize) {
        let mut stream = connect(&self.client.broker).await;
        send(&mut stream, &fetch("t", all(0))).await;
        let length = timeout(SOON, stream.read_u32()).await.expect("in time").expect("a length");
        (stream, length as usize)
    }
}

/// Size of the first batch, which all have.
fn file_batch_bytes(file: &fs::File) -> usize {
    let mut header = [0; ropewalk_batch::HEADER_LEN];
    file.read_exact_at(&mut header, 0).expect("readable");
    ropewalk_batch::Header::parse(&header).expect("a batch").size_bytes()
}

/// The logs of all segments with batches as large as these.
fn logs(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("readable")) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(logs(&path));
        } else if path.extension().is_some_and(|extension| extension == "log")
            && entry.metadata().expect("readable").len() > VALUE_BYTES as u64
            && path.to_string_lossy().contains("partitions")
        {
            found.push(path);
        }
    }
    found
}

fn all(offset: i64) -> FetchPartition {
    FetchPartition { partition_max_bytes: i32::MAX, ..from(offset) }
}

async fn send(stream: &mut TcpStream, request: &FetchRequest) {
    let frame = encode_request(9, Some("t"), FETCH, request).expect("it encodes");
    stream.write_all(&frame.into_bytes()).await.expect("sent");
}

/// Reads the rest of a response of this length.
async fn rest(stream: &mut TcpStream, length: usize) -> PartitionData {
    let mut body = vec![0; length];
    timeout(SOON, stream.read_exact(&mut body)).await.expect("in time").expect("all of it");
    let (_, mut answer) = decode_response::<FetchRequest>(body.into(), FETCH).expect("it decodes");
    answer.responses.remove(0).partitions.remove(0)
}

/// Checks that the records are the batches from `first` on, and returns the number of batches.
fn check(part: &PartitionData, first: i64) -> i64 {
    assert_eq!(part.error_code, 0);
    let mut bytes = part.records.to_bytes().expect("not null");
    let mut number = first;
    while !bytes.is_empty() {
        let size_bytes = ropewalk_batch::Header::parse(&bytes).expect("a header").size_bytes();
        let batch = bytes.split_to(size_bytes);
        let header = ropewalk_batch::Header::verify(&batch).expect("a whole batch");
        assert_eq!(header.base_offset, number);
        let records = ropewalk_batch::records(&header, batch, 1 << 20).expect("readable");
        let values: Vec<_> =
            records.map(|record| record.expect("readable").value.expect("not null")).collect();
        assert_eq!(values.len(), 1);
        assert!(values[0] == value(number).as_bytes());
        number += 1;
    }
    number - first
}

async fn eventually(mut is: impl FnMut() -> bool) {
    let due = Instant::now() + SOON;
    while !is() {
        assert!(Instant::now() < due, "it never came to be");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn part(client: &mut Client<impl Sized>, request: &FetchRequest) -> PartitionData {
    client.ask(FETCH, request).await.responses.remove(0).partitions.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn o4_what_is_read_in_pieces_follows_on_into_the_tail() {
    let mut fixture = Fixture::new(60).await;
    for limit in [1, VALUE_BYTES * 2, 1 << 20, i32::MAX as usize] {
        let mut next = 0;
        while next < fixture.batches {
            let partition_max_bytes = i32::try_from(limit).expect("small");
            let request = fetch("t", FetchPartition { partition_max_bytes, ..from(next) });
            let part = part(&mut fixture.client, &request).await;
            assert!(part.records.len() <= limit.max(VALUE_BYTES + 100));
            let read = check(&part, next);
            assert!(read > 0, "at least one");
            next += read;
        }
        assert_eq!(next, fixture.batches);
    }
    eventually(|| fixture.used_bytes() == 0).await;
    fixture.client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d3_damage_in_the_first_piece_is_an_error_code() {
    let mut fixture = Fixture::new(40).await;
    fixture.damage(2);
    let damaged = part(&mut fixture.client, &fetch("t", all(0))).await;
    assert_eq!(damaged.error_code, ErrorCode::KafkaStorageError.code());
    assert!(damaged.records.is_empty());
    assert_eq!(check(&part(&mut fixture.client, &fetch("t", all(3))).await, 3), 37);
    fixture.client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d3_damage_behind_the_first_piece_ends_the_connection_and_then_is_an_error_code() {
    let mut fixture = Fixture::new(40).await;
    fixture.damage(6);
    let (mut stream, length) = fixture.stalled().await;
    let mut received = Vec::new();
    // A reset counts as the end.
    let _ = timeout(SOON, stream.read_to_end(&mut received)).await.expect("it ends");
    assert!(received.len() < length);
    // The header, and the four batches of the first piece.
    assert!((4 * VALUE_BYTES..4 * VALUE_BYTES + 1_000).contains(&received.len()));

    let damaged = part(&mut fixture.client, &fetch("t", all(0))).await;
    assert_eq!(damaged.error_code, ErrorCode::KafkaStorageError.code());
    let before = FetchPartition { partition_max_bytes: 5 * VALUE_BYTES as i32, ..from(0) };
    assert_eq!(check(&part(&mut fixture.client, &fetch("t", before)).await, 0), 4);
    assert_eq!(check(&part(&mut fixture.client, &fetch("t", all(7))).await, 7), 33);
    eventually(|| fixture.used_bytes() == 0).await;
    fixture.client.broker.stop().await;
}

/// More than the kernel buffers for clients that do not read.
#[tokio::test(flavor = "multi_thread")]
async fn r1_slow_readers_hold_their_pieces_and_nobody_up_and_get_what_was_promised() {
    const STALLED: usize = 4;
    let mut fixture = Fixture::new(400).await;
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        stalled.push(fixture.stalled().await);
    }
    let tail_bytes = 1 << 20;
    assert!(stalled.iter().all(|(_, length)| *length > 390 * VALUE_BYTES), "all of it");
    // Two pieces, and what is in the tail.
    let each = 2 * limits::ANSWER_PIECE_BYTES + tail_bytes + VALUE_BYTES;
    assert!(fixture.used_bytes() <= STALLED * each, "{} bytes", fixture.used_bytes());
    assert!(fixture.used_bytes() >= STALLED * 2 * limits::ANSWER_PIECE_BYTES);

    // Others get their share, although each of these asked for more than the whole budget.
    let whole = part(&mut fixture.client, &fetch("t", all(0))).await;
    assert_eq!(check(&whole, 0), 400);

    // Retention and the end of the topic take away the files, not what was promised.
    assert_eq!(fixture.client.delete("t", 300).await, (0, 300));
    let (mut stream, length) = stalled.pop().expect("one of them");
    assert_eq!(check(&rest(&mut stream, length).await, 0), 400);
    let topics = ropewalk_codec::delete_topics_request::DeleteTopicsRequest {
        topic_names: vec!["t".into()],
        timeout_ms: 10_000,
        ..Default::default()
    };
    assert_eq!(fixture.client.ask(5, &topics).await.responses[0].error_code, 0);
    eventually(|| fixture.log.is_closed()).await;
    let (mut stream, length) = stalled.pop().expect("one of them");
    assert_eq!(check(&rest(&mut stream, length).await, 0), 400);

    // A client that disconnects leaves nothing behind.
    drop(stalled);
    eventually(|| fixture.used_bytes() == 0).await;
    fixture.client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_without_room_are_first_in_the_next_fetch() {
    let mut client = Client::new().await;
    client.make("three", 3).await;
    let parts = (0..3).map(|index| (index, batch(&[&value(0)]))).collect();
    client.ask(9, &produce("three", -1, parts)).await;
    let asked = |partition| FetchPartition { partition, ..from(0) };
    let partitions = (0..3).map(asked).collect();
    let topic = FetchTopic { topic: "three".into(), partitions, ..Default::default() };
    let max_bytes = 2 * VALUE_BYTES as i32 + 1_000;
    let request =
        FetchRequest { max_bytes, min_bytes: 1, topics: vec![topic], ..Default::default() };
    let mut served = Vec::new();
    for _ in 0..3 {
        let answer = client.ask(FETCH, &request).await;
        let parts = &answer.responses[0].partitions;
        assert_eq!(parts.iter().map(|part| part.partition_index).collect::<Vec<_>>(), [0, 1, 2]);
        served.push(parts.iter().map(|part| !part.records.is_empty()).collect::<Vec<_>>());
    }
    assert_eq!(served, [[true, true, false], [true, false, true], [false, true, true]]);
    client.broker.stop().await;
}

#[test]
fn fetch_is_alone_on_its_connection() {
    let route = ROUTES.iter().find(|route| route.key == FetchRequest::API_KEY).expect("served");
    assert_eq!(route.turn, Turn::Parked, "the rest of its response leaves before the next one");
}
