//! Many connections to the admin server: probes are answered however many there are.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::time::timeout;

use super::changes::TestBroker;
use super::*;

const SOON: Duration = Duration::from_secs(5);

async fn connect_from(host: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from(([127, 0, 0, host], 0))).expect("a loopback address");
    socket.connect(to).await.expect("the server listens")
}

/// The status line of the response, on a connection that stays open; `None` when it was closed.
async fn ask_on(stream: &mut TcpStream, request: &str) -> Option<String> {
    let request = format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = vec![0; 64 * 1024];
    let read = timeout(SOON, stream.read(&mut answer)).await.expect("an answer or an end in time");
    let text = String::from_utf8_lossy(&answer[..read.ok()?]).into_owned();
    text.lines().next().map(str::to_owned)
}

const OK: Option<&str> = Some("HTTP/1.1 200 OK");

#[tokio::test(flavor = "multi_thread")]
async fn r1_idle_connections_do_not_keep_probes_out() {
    let served = TestBroker::start(&[]).await;
    let admin = served.broker.admin();
    let mut idle = Vec::new();
    // From five addresses: together more than may be open at once.
    for host in 2..7 {
        for _ in 0..limits::ADMIN_CONNECTIONS_PER_ADDRESS_MAX {
            idle.push(connect_from(host, admin).await);
        }
    }
    assert!(idle.len() > limits::ADMIN_CONNECTIONS_MAX);
    for probe in ["GET /live", "GET /ready"] {
        let mut stream = connect_from(1, admin).await;
        let answer = timeout(SOON, ask_on(&mut stream, probe)).await.expect("in time");
        assert_eq!(answer.as_deref(), OK, "{probe}");
    }
    served.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_one_address_closes_only_its_own_connections() {
    let served = TestBroker::start(&[]).await;
    let admin = served.broker.admin();
    let mut other = connect_from(1, admin).await;
    let mut first = connect_from(2, admin).await;
    let mut many = Vec::new();
    for _ in 0..limits::ADMIN_CONNECTIONS_MAX {
        many.push(connect_from(2, admin).await);
    }
    assert_eq!(ask_on(&mut other, "GET /live").await.as_deref(), OK);
    let mut last = many.pop().expect("there are many");
    assert_eq!(ask_on(&mut last, "GET /live").await.as_deref(), OK);
    assert_eq!(ask_on(&mut first, "GET /live").await, None, "it was silent for longest");
    served.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_a_connection_that_showed_the_token_outlives_those_that_did_not() {
    let served = TestBroker::start(&[]).await;
    let admin = served.broker.admin();
    // If no token is set, the broker's own machine is trusted as if it had sent one.
    let mut trusted = connect_from(2, admin).await;
    assert_eq!(ask_on(&mut trusted, "GET /v1/owners/uid").await.as_deref(), OK);
    let mut many = Vec::new();
    for _ in 0..limits::ADMIN_CONNECTIONS_MAX {
        many.push(connect_from(2, admin).await);
    }
    assert_eq!(ask_on(&mut trusted, "GET /v1/owners/uid").await.as_deref(), OK);
    served.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_a_silent_connection_without_a_token_is_closed_soon() {
    let served = TestBroker::start(&[]).await;
    let mut silent = connect_from(1, served.broker.admin()).await;
    let patience = limits::ADMIN_UNTRUSTED_IDLE_MAX + SOON;
    let read = timeout(patience, silent.read(&mut [0; 1])).await.expect("it is closed in time");
    assert_eq!(read.unwrap_or(0), 0);
    served.broker.stop().await;
}
