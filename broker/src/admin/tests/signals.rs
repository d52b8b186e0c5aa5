//! The signal stream of a whole broker, over a real socket.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::time::timeout;

use super::changes::{ME, TestBroker};
use super::*;

const SOON: Duration = Duration::from_secs(10);

struct Listening(Lines<BufReader<TcpStream>>);

impl Listening {
    async fn to(served: &TestBroker) -> Self {
        let mut stream = TcpStream::connect(served.broker.admin()).await.expect("it listens");
        stream.write_all(b"GET /v1/signals HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("taken");
        Self(BufReader::new(stream).lines())
    }

    /// The next JSON line; the HTTP chunk headers between are skipped.
    async fn line(&mut self) -> Option<Value> {
        loop {
            let line = timeout(SOON, self.0.next_line()).await.expect("in time").ok()??;
            if line.starts_with('{') {
                return Some(serde_json::from_str(&line).expect("JSON"));
            }
        }
    }

    /// The next line of a kind, and how many ticks came before it.
    async fn next(&mut self, kind: &str) -> (Value, usize) {
        let mut ticks = 0;
        loop {
            let line = self.line().await.expect("the stream continues");
            if line["kind"] == kind {
                return (line, ticks);
            }
            ticks += usize::from(line["kind"] == "tick");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_reports_bound_groups_and_wakes_and_ends() {
    let served = TestBroker::start(&[]).await;
    served.declare(ME, 2, json!({})).await;
    let mut stream = Listening::to(&served).await;
    let hello = stream.line().await.expect("it begins");
    assert_eq!((&hello["kind"], &hello["clusterId"]), (&json!("hello"), &json!("cluster")));
    assert_eq!(stream.line().await.expect("a tick")["kind"], "tick", "no group is bound");

    served.bind("Earliest").await;
    let (state, _) = stream.next("state").await;
    assert_eq!((&state["topic"], &state["group"]), (&json!("orders"), &json!("workers")));
    assert_eq!((&state["length"], &state["groupState"]), (&json!(0), &json!("Empty")));
    assert_eq!(state["partitions"].as_array().expect("all").len(), 2);
    stream.next("tick").await;

    // Edge-triggered: between two ticks, long before the next.
    served.fill(3).await;
    let (wake, ticks) = stream.next("wake").await;
    assert_eq!((&wake["length"], ticks), (&json!(3), 0));
    // Level-triggered: again with every tick, after the state.
    let (state, _) = stream.next("state").await;
    assert_eq!((&state["length"], &state["partitions"][0]["length"]), (&json!(3), &json!(3)));
    for _ in 0..2 {
        assert_eq!(stream.next("wake").await.0["length"], 3);
        stream.next("tick").await;
    }
    let delete = "DELETE /v1/queues/orders?owner=uid-me&data=delete";
    assert_eq!(served.change(0, delete, Value::Null).await.1, json!({ "deleted": true }));
    assert_eq!(stream.next("gone").await.0["group"], "workers");
    served.broker.stop().await;
    while let Some(line) = stream.line().await {
        assert_eq!(line["kind"], "tick");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_sees_all_there_is_at_once() {
    let served = TestBroker::start(&[]).await;
    served.declare(ME, 1, json!({})).await;
    served.bind("Earliest").await;
    served.fill(2).await;
    let mut stream = Listening::to(&served).await;
    for (kind, length) in [("hello", Value::Null), ("state", json!(2)), ("wake", json!(2))] {
        let line = stream.line().await.expect("it continues");
        assert_eq!((&line["kind"], &line["length"]), (&json!(kind), &length));
    }
    served.broker.stop().await;
}
