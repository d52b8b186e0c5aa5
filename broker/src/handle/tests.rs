//! Raw requests to a whole broker: the handshake, byte for byte, and what closes a connection.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ropewalk_codec::api_versions_response::ApiVersionsResponse;
use ropewalk_codec::{decode_response, encode_request};
use ropewalk_shard::proposal::SendOrder;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::boot::{Broker, Start, StartError};

mod versions;
mod groups;
mod damage;
mod records;
mod fetches;
mod answers;
mod bounds;
mod admin;
mod metrics;
mod fetch_sessions;
mod tiered;
mod trio;
mod elsewhere;
mod followers;
mod moves;
mod group_moves;

const SOON: Duration = Duration::from_secs(20);

impl Call {
    /// A call without a connection.
    pub(super) fn of_test(api: ApiKey, share: Share) -> Self {
        let peer = Peer {
            address: ([127, 0, 0, 1], 1).into(),
            listener: "TEST".into(),
            order: SendOrder::default(),
            fetch_turn: Default::default(),
        };
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        Self {
            api,
            version: 9,
            client_id: None,
            peer: Arc::new(peer),
            size_bytes: 0,
            correlation_id: 1,
            begun: Instant::now(),
            share,
            held: Mutex::default(),
            later: Mutex::default(),
            metrics: metrics.of(api),
        }
    }
}

/// A broker with its own ports and directory.
async fn broker() -> (Broker, TempDir) {
    let dir = TempDir::new().expect("a directory");
    (broker_in(dir.path()).await.expect("it starts"), dir)
}

async fn broker_in(dir: &Path) -> Result<Broker, StartError> {
    let pairs = [
        ("listeners", "PLAINTEXT://127.0.0.1:0"),
        ("ropewalk.admin.listener", "127.0.0.1:0"),
        ("group.initial.rebalance.delay.ms", "0"),
    ];
    let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let start = Start {
        settings: Settings::new(pairs).expect("valid"),
        dir: dir.to_owned(),
        format: Some("cluster".to_owned()),
        on_fatal: Arc::new(|reason| panic!("{reason}")),
    };
    Broker::start(start).await
}

async fn connect(broker: &Broker) -> TcpStream {
    TcpStream::connect(broker.kafka()[0]).await.expect("it listens")
}

/// Sends a frame and returns the response's frame; `None` if the broker closes the connection.
async fn exchange(stream: &mut TcpStream, frame: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(frame.len()).expect("small").to_be_bytes();
    stream.write_all(&[&length, frame].concat()).await.expect("sent");
    let answer = async {
        let length = stream.read_u32().await.ok()?;
        let mut body = vec![0; length as usize];
        stream.read_exact(&mut body).await.ok()?;
        Some(body)
    };
    timeout(SOON, answer).await.expect("in time")
}

fn config(name: &str, value: &str) -> ropewalk_codec::create_topics_request::CreatableTopicConfig {
    ropewalk_codec::create_topics_request::CreatableTopicConfig {
        name: name.into(),
        value: Some(value.into()),
    }
}

/// An ApiVersions request of this version: header v1 or v2, correlation id 7, client id "t".
fn api_versions(version: i16) -> Vec<u8> {
    let mut frame = vec![0, 18];
    frame.extend_from_slice(&version.to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0, 7, 0, 1, b't']);
    if version >= 3 {
        frame.push(0);
        frame.extend_from_slice(b"\x05test\x041.0\x00");
    }
    frame
}

/// The expected response to a known version, derived from the table alone.
fn expected(version: i16) -> Vec<u8> {
    let flexible = version >= 3;
    let mut bytes = vec![0, 0, 0, 7, 0, 0];
    if flexible {
        bytes.push(u8::try_from(ROUTES.len() + 1).expect("fewer than 127 APIs"));
    } else {
        bytes.extend_from_slice(&u32::try_from(ROUTES.len()).expect("few").to_be_bytes());
    }
    for route in ROUTES {
        bytes.extend_from_slice(&route.key.as_i16().to_be_bytes());
        bytes.extend_from_slice(&route.advertised.start().to_be_bytes());
        bytes.extend_from_slice(&route.advertised.end().to_be_bytes());
        bytes.extend(flexible.then_some(0));
    }
    if version >= 1 {
        bytes.extend_from_slice(&[0, 0, 0, 0]);
    }
    bytes.extend(flexible.then_some(0));
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn api_versions_is_answered_byte_for_byte_in_every_version() {
    let (broker, _dir) = broker().await;
    let mut stream = connect(&broker).await;
    for version in 0..=4 {
        let answer = exchange(&mut stream, &api_versions(version)).await.expect("answered");
        assert_eq!(answer, expected(version), "version {version}; the header has no tags in any");
    }
    // An unknown version: version 0, error 35, the range of ApiVersions only, and the connection
    // stays open.
    for version in [5, 99, i16::MAX, -1] {
        let answer = exchange(&mut stream, &api_versions(version)).await.expect("answered");
        let expected = [0, 0, 0, 7, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4];
        assert_eq!(answer, expected, "version {version}");
    }
    assert!(exchange(&mut stream, &api_versions(0)).await.is_some());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_client_software_name_is_refused() {
    let (broker, _dir) = broker().await;
    let mut stream = connect(&broker).await;
    for (name, code) in [("librdkafka", 0), ("a-b.c", 0), ("", 42), ("-a", 42), ("a b", 42)] {
        let request = ropewalk_codec::api_versions_request::ApiVersionsRequest {
            client_software_name: name.into(),
            client_software_version: "1.0".into(),
        };
        let frame = encode_request(1, Some("t"), 4, &request).expect("it encodes").into_bytes();
        let answer = exchange(&mut stream, &frame[4..]).await.expect("answered");
        let (_, answer): (_, ApiVersionsResponse) = decode_response::<
            ropewalk_codec::api_versions_request::ApiVersionsRequest,
        >(answer.into(), 4)
        .expect("it decodes");
        assert_eq!(answer.error_code, code, "{name:?}");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_served_or_not_a_request_closes_the_connection() {
    let (broker, _dir) = broker().await;
    let header = |key: i16, version: i16| {
        [&key.to_be_bytes()[..], &version.to_be_bytes(), &[0, 0, 0, 1, 0, 1, b't']].concat()
    };
    let frames: BTreeMap<&str, Vec<u8>> = BTreeMap::from([
        ("an API that is long gone", header(4, 0)),
        ("an API that does not exist", header(1000, 0)),
        ("a produce that is advertised only", header(0, 2)),
        ("a fetch from before Kafka 4", header(1, 3)),
        ("a fetch from the future", header(1, 99)),
        ("a header that is cut", vec![0, 18, 0]),
        ("a body that is cut", header(3, 13)),
    ]);
    for (what, frame) in frames {
        let mut stream = connect(&broker).await;
        assert_eq!(exchange(&mut stream, &frame).await, None, "{what}");
    }
    let mut stream = connect(&broker).await;
    assert!(exchange(&mut stream, &api_versions(0)).await.is_some(), "others are served on");
    broker.stop().await;
}

/// A Metadata request for all topics as librdkafka 2.15 encodes it: it reserves a count of four
/// bytes, of which a null array uses one, and keeps the other three.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_behind_a_request_are_ignored() {
    let (broker, _dir) = broker().await;
    let mut stream = connect(&broker).await;
    let metadata = [0, 3, 0, 12, 0, 0, 0, 9, 0, 1, b't', 0, 0, 0, 0, 0, 0, 0, 0];
    let answer = exchange(&mut stream, &metadata).await.expect("an answer, not the end");
    assert_eq!(answer[..4], [0, 0, 0, 9]);
    broker.stop().await;
}

#[test]
fn the_table_is_in_order_and_within_what_can_be_decoded() {
    for pair in ROUTES.windows(2) {
        assert!(pair[0].key < pair[1].key, "{:?} is repeated or out of order", pair[1].key);
    }
    for route in ROUTES {
        let known = route.key.versions().expect("it can be decoded");
        assert!(known.contains(route.served.start()), "{:?}", route.key);
        // Equal except for versions that are not stable in Kafka 4.3.
        assert!(known.end() >= route.served.end(), "{:?}", route.key);
        assert!(
            route.advertised == route.served || route.key == ApiKey::Produce,
            "{:?} advertises what it does not serve",
            route.key
        );
    }
}
