//! `probe`: sends one message and receives it as any client would, to verify that a broker works
//! end to end.
//!
//! `helm test` runs it in a pod, because the image contains no other program and a cluster without
//! a registry can pull none.
//!
//! Success means that the same message was read back at the acknowledged offset, at the address
//! that the broker advertises to clients. Every wait ends at the deadline, and the last error is
//! reported. The message stays in the queue.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use ropewalk_batch::{Builder, Header, records};
use ropewalk_codec::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use ropewalk_codec::metadata_request::{MetadataRequest, MetadataRequestTopic};
use ropewalk_codec::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use ropewalk_codec::{Records, Request, decode_response, encode_request};

const METADATA_VERSION: i16 = 9;
const PRODUCE_VERSION: i16 = 9;
const FETCH_VERSION: i16 = 12;

/// Most bytes of a response. An answer is the message and little else; a larger one is an error.
const ANSWER_BYTES_MAX: usize = 2 << 20;
/// Longest wait of one attempt for a response.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE_BETWEEN_ATTEMPTS: Duration = Duration::from_millis(500);

/// Repeats attempts until a message went through or the time is over. Returns where it was stored.
pub(crate) fn probe(bootstrap: &str, topic: &str, timeout: Duration) -> Result<String> {
    let deadline = Instant::now() + timeout;
    loop {
        match attempt(bootstrap, topic) {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("no message went through within {timeout:?}")));
            }
            Err(_) => thread::sleep(PAUSE_BETWEEN_ATTEMPTS),
        }
    }
}

fn attempt(bootstrap: &str, topic: &str) -> Result<String> {
    let leader = leader(bootstrap, topic)?;
    let mut connection = Connection::open(&leader)?;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    let text = format!("probe {} at {now_ms}", std::process::id());
    let batch = Builder::new().record(now_ms as i64, None, Some(text.as_bytes())).build();
    let offset = send(&mut connection, topic, batch)?;
    let values = receive(&mut connection, topic, offset)?;
    ensure!(
        values.first().is_some_and(|value| value == text.as_bytes()),
        "partition 0 of {topic} returned another record at offset {offset}"
    );
    Ok(format!("sent to {topic} at {leader} and received at offset {offset}: {text}"))
}

/// The advertised address of the leader of partition 0.
fn leader(bootstrap: &str, topic: &str) -> Result<String> {
    let named = MetadataRequestTopic { name: Some(topic.into()), ..Default::default() };
    let request = MetadataRequest {
        topics: Some(vec![named]),
        allow_auto_topic_creation: false,
        ..Default::default()
    };
    let answer = Connection::open(bootstrap)?.call(METADATA_VERSION, &request)?;
    let described =
        answer.topics.first().context("the Metadata response does not contain the topic")?;
    ensure!(described.error_code == 0, "{topic}: error {} of Metadata", described.error_code);
    let partition = described.partitions.iter().find(|p| p.partition_index == 0);
    let leader_id = partition.context("the topic has no partition 0")?.leader_id;
    let broker = answer.brokers.iter().find(|broker| broker.node_id == leader_id);
    let broker = broker.with_context(|| format!("partition 0 of {topic} has no leader"))?;
    Ok(format!("{}:{}", broker.host, broker.port))
}

/// Sends a batch. Returns the offset at which it was acknowledged, which means that it is durable.
fn send(connection: &mut Connection, topic: &str, batch: Bytes) -> Result<i64> {
    let partition = PartitionProduceData { index: 0, records: Records::from_chunks(vec![batch]) };
    let data = TopicProduceData {
        name: topic.into(),
        partition_data: vec![partition],
        ..Default::default()
    };
    let request = ProduceRequest {
        acks: -1,
        timeout_ms: 10_000,
        topic_data: vec![data],
        ..Default::default()
    };
    let answer = connection.call(PRODUCE_VERSION, &request)?;
    let acked = answer.responses.first().and_then(|topic| topic.partition_responses.first());
    let acked = acked.context("an empty answer to Produce")?;
    ensure!(acked.error_code == 0, "{topic}: error {} of Produce", acked.error_code);
    Ok(acked.base_offset)
}

/// The values of the first batch from an offset on.
fn receive(connection: &mut Connection, topic: &str, offset: i64) -> Result<Vec<Bytes>> {
    let partition = FetchPartition {
        partition: 0,
        fetch_offset: offset,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    };
    let topic =
        FetchTopic { topic: topic.into(), partitions: vec![partition], ..Default::default() };
    let request = FetchRequest {
        max_wait_ms: 5_000,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    };
    let answer = connection.call(FETCH_VERSION, &request)?;
    let fetched = answer.responses.first().and_then(|topic| topic.partitions.first());
    let fetched = fetched.context("an empty answer to Fetch")?;
    ensure!(fetched.error_code == 0, "error {} of Fetch", fetched.error_code);
    let bytes = fetched.records.to_bytes().unwrap_or_default();
    let header = Header::verify(&bytes)?;
    let batch = bytes.slice(..header.size_bytes());
    let opened = records(&header, batch, ANSWER_BYTES_MAX)?.collect::<Result<Vec<_>, _>>()?;
    Ok(opened.into_iter().filter_map(|record| record.value).collect())
}

/// A blocking connection that sends one request at a time and reads its response.
struct Connection {
    stream: TcpStream,
}

impl Connection {
    fn open(address: &str) -> Result<Self> {
        let mut last = None;
        let resolved = address.to_socket_addrs().with_context(|| format!("resolving {address}"))?;
        for candidate in resolved {
            match TcpStream::connect_timeout(&candidate, ANSWER_TIMEOUT) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
                    return Ok(Self { stream });
                }
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) => Err(error).with_context(|| format!("connecting {address}")),
            None => bail!("{address} has no address"),
        }
    }

    fn call<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response> {
        let frame: Bytes =
            encode_request(1, Some("ropewalk-probe"), version, request)?.into_bytes();
        self.stream.write_all(&frame)?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length))?;
        ensure!(length <= ANSWER_BYTES_MAX, "an answer of {length} bytes");
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        Ok(decode_response::<R>(answer.into(), version)?.1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ropewalk_broker::boot::{Broker, Start};
    use ropewalk_broker::settings::Settings;

    use super::*;

    async fn broker(dir: &tempfile::TempDir) -> Broker {
        let pairs = [
            ("listeners", "PLAINTEXT://127.0.0.1:0"),
            ("ropewalk.admin.listener", "127.0.0.1:0"),
            ("auto.create.topics.enable", "true"),
        ];
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let start = Start {
            settings: Settings::new(pairs).expect("they are valid"),
            dir: dir.path().to_owned(),
            format: Some("probe".to_owned()),
            on_fatal: Arc::new(|reason| panic!("{reason}")),
        };
        Broker::start(start).await.expect("it starts")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_message_goes_through_once_the_queue_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let broker = broker(&dir).await;
        let bootstrap = broker.kafka().first().expect("it listens").to_string();
        let blocking = tokio::task::spawn_blocking(move || {
            let missing = probe(&bootstrap, "orders", Duration::ZERO).expect_err("no such queue");
            assert!(format!("{missing:#}").contains("error 3 of Metadata"), "{missing:#}");

            let made = MetadataRequest {
                topics: Some(vec![MetadataRequestTopic {
                    name: Some("orders".into()),
                    ..Default::default()
                }]),
                ..Default::default()
            };
            let mut connection = Connection::open(&bootstrap).expect("it listens");
            connection.call(METADATA_VERSION, &made).expect("it is made");
            for offset in 0..2 {
                let said = probe(&bootstrap, "orders", Duration::from_secs(30));
                let said = said.expect("the probe succeeds");
                assert!(said.contains(&format!("at offset {offset}")), "{said}");
            }
        });
        blocking.await.expect("it did not panic");
        broker.stop().await;
    }

    #[test]
    fn an_unreachable_broker_is_reported_at_the_deadline() {
        let error = probe("127.0.0.1:1", "orders", Duration::ZERO).expect_err("refused");
        let error = format!("{error:#}");
        assert!(error.contains("no message went through within 0ns"), "{error}");
        assert!(error.contains("connecting 127.0.0.1:1"), "{error}");
    }
}
