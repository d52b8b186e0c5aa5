//! Metrics of a whole broker, as `/metrics` exports them.

use super::records::{batch, produce};
use super::versions::Client;
use super::*;

impl Client {
    /// The value of the sample with this name and these labels; `None` without such a sample.
    pub(super) async fn metric(&self, sample: &str) -> Option<f64> {
        let mut stream = TcpStream::connect(self.broker.admin()).await.expect("it listens");
        let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.expect("sent");
        let mut answer = String::new();
        timeout(SOON, stream.read_to_string(&mut answer)).await.expect("in time").expect("read");
        let values = answer.lines().filter_map(|line| line.strip_prefix(sample));
        values.filter_map(|value| value.strip_prefix(' ')).find_map(|value| value.parse().ok())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_round_of_the_log_is_in_the_histograms() {
    let mut client = Client::new().await;
    client.store("t", &["v"]).await;
    // The rounds of the catalog continue, so that the counts are compared with a lower bound.
    let before = client.metric("ropewalk_wal_rounds_total").await.expect("counted");
    for name in ["round_duration_seconds", "round_size_bytes", "round_file_wait_seconds"] {
        let count = client.metric(&format!("ropewalk_wal_{name}_count")).await;
        assert!(
            count.is_some_and(|count| count > 0.0 && count + 1.0 >= before),
            "{name}: {count:?}"
        );
    }
    let bytes = client.metric("ropewalk_wal_round_size_bytes_sum").await;
    assert!(bytes.is_some_and(|bytes| bytes >= 4096.0), "{bytes:?}");
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_produce_that_waits_for_memory_is_counted_also_if_it_gets_none() {
    const COUNT: &str = "ropewalk_produce_memory_wait_seconds_count";
    let mut client = Client::new().await;
    client.store("t", &["v"]).await;
    assert_eq!(client.metric(COUNT).await, Some(0.0), "there was memory");
    let budget = Arc::clone(client.broker.context().node.tail_budget());
    let _ = budget.take(1 << 40);
    let mut request = produce("t", -1, vec![(0, batch(&["v"]))]);
    request.timeout_ms = 20;
    let answer = client.ask(9, &request).await;
    let code = answer.responses[0].partition_responses[0].error_code;
    assert_eq!(code, ErrorCode::RequestTimedOut.code());
    assert_eq!(client.metric(COUNT).await, Some(1.0));
    budget.give_back(1 << 40);
    client.broker.stop().await;
}
