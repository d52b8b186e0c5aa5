//! How often the bytes of a batch are summed between the socket and a segment.
//!
//! The test counts in its own process, so it is the only one in this file. Validation sums every
//! byte; the records of the write-ahead log and the blocks of a segment combine their checksums
//! from that.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ropewalk_batch::Builder;
use ropewalk_broker::boot::{Broker, Start};
use ropewalk_broker::settings::Settings;
use ropewalk_codec::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use ropewalk_codec::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use ropewalk_codec::{Records, Request, decode_response, encode_request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PARTITIONS: i32 = 12;
const BATCH_BYTES: usize = 64 << 10;
/// More than fill a tail of a mebibyte.
const ROUNDS: usize = 20;
/// One pass over the bytes of batches (validation), and a twentieth for all else that is summed,
/// such as headers.
const PASSES_MAX: f64 = 1.05;

async fn ask<R: Request>(stream: &mut TcpStream, version: i16, request: &R) -> R::Response {
    let frame = encode_request(1, Some("test"), version, request).expect("it encodes");
    stream.write_all(&frame.into_bytes()).await.expect("sent");
    let mut answer = vec![0; stream.read_u32().await.expect("an answer") as usize];
    stream.read_exact(&mut answer).await.expect("the whole answer");
    decode_response::<R>(answer.into(), version).expect("it decodes").1
}

fn batch() -> Bytes {
    Builder::new().record(1_700_000_000_000, None, Some(&vec![b'v'; BATCH_BYTES - 100])).build()
}

/// Sends batches for the first partitions of the topic. Returns their bytes.
async fn produce(stream: &mut TcpStream, batch: &Bytes, partitions: i32) -> usize {
    for _ in 0..ROUNDS {
        let data = |index| PartitionProduceData { index, records: Records::from(batch.clone()) };
        let topic = TopicProduceData {
            name: "queue".into(),
            partition_data: (0..partitions).map(data).collect(),
            ..Default::default()
        };
        let request = ProduceRequest {
            acks: -1,
            timeout_ms: 10_000,
            topic_data: vec![topic],
            ..Default::default()
        };
        let answer = ask(stream, 9, &request).await;
        for part in &answer.responses[0].partition_responses {
            assert_eq!(part.error_code, 0);
        }
    }
    ROUNDS * batch.len() * usize::try_from(partitions).expect("positive")
}

/// Bytes of batches in segment files.
fn segment_bytes(dir: &Path) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("readable"))
    {
        if entry.file_type().expect("a type").is_dir() {
            bytes += segment_bytes(&entry.path());
        } else if entry.path().extension().is_some_and(|extension| extension == "log") {
            bytes += entry.metadata().map_or(0, |file| file.len());
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_a_batch_are_summed_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let pairs =
        [("listeners", "PLAINTEXT://127.0.0.1:0"), ("ropewalk.admin.listener", "127.0.0.1:0")];
    let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let start = Start {
        settings: Settings::new(pairs).expect("valid"),
        dir: dir.path().to_owned(),
        format: Some("cluster".to_owned()),
        on_fatal: Arc::new(|reason| panic!("{reason}")),
    };
    let broker = Broker::start(start).await.expect("it starts");
    let mut stream = TcpStream::connect(broker.kafka()[0]).await.expect("it listens");
    let topic = CreatableTopic {
        name: "queue".into(),
        num_partitions: PARTITIONS,
        replication_factor: 1,
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], ..Default::default() };
    assert_eq!(ask(&mut stream, 5, &request).await.topics[0].error_code, 0);

    // Of every partition a tail is flushed; the first has the bytes of two.
    let mut flushed_bytes = 0;
    let batch = batch();
    for partitions in [1, PARTITIONS] {
        let before = ropewalk_crc::summed_bytes();
        let sent_bytes = produce(&mut stream, &batch, partitions).await;
        flushed_bytes += u64::try_from(partitions).expect("positive") << 20;
        while segment_bytes(dir.path()) < flushed_bytes {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let passes = (ropewalk_crc::summed_bytes() - before) as f64 / sent_bytes as f64;
        println!("{passes:.3} passes with {partitions} partitions");
        assert!(passes >= 1.0, "{passes} passes: validation sums the bytes");
        assert!(passes <= PASSES_MAX, "{passes} passes with {partitions} partitions");
    }
    broker.stop().await;
}
