//! Fetch sessions over the protocol (KIP-227).

use ropewalk_codec::delete_topics_request::DeleteTopicsRequest;
use ropewalk_codec::fetch_request::*;
use ropewalk_codec::fetch_response::{FetchResponse, PartitionData};

use super::records::{FETCH, batch, from, produce};
use super::versions::Client;
use super::*;

const NONE: [i32; 0] = [];

/// A request of a session that names partitions of `wide` with offsets.
fn fetch(id: i32, epoch: i32, asked: &[(i32, i64)]) -> FetchRequest {
    let asked =
        asked.iter().map(|(partition, at)| FetchPartition { partition: *partition, ..from(*at) });
    let topic =
        FetchTopic { topic: "wide".into(), partitions: asked.collect(), ..Default::default() };
    let topics = if topic.partitions.is_empty() { vec![] } else { vec![topic] };
    FetchRequest {
        session_id: id,
        session_epoch: epoch,
        min_bytes: 1,
        topics,
        ..Default::default()
    }
}

fn parts(answer: &FetchResponse) -> Vec<&PartitionData> {
    assert_eq!(answer.error_code, 0);
    answer.responses.iter().flat_map(|topic| &topic.partitions).collect()
}

fn indexes(answer: &FetchResponse) -> Vec<i32> {
    parts(answer).iter().map(|part| part.partition_index).collect()
}

impl Client {
    /// A client with topic `wide` of four empty partitions, and the id of a session that reads
    /// them.
    async fn with_session() -> (Self, i32) {
        let mut client = Self::new().await;
        client.make("wide", 4).await;
        let all = [(0, 0), (1, 0), (2, 0), (3, 0)];
        let answer = client.ask(FETCH, &fetch(0, 0, &all)).await;
        assert_eq!(indexes(&answer), [0, 1, 2, 3], "the first response is full");
        assert!(answer.session_id > 0);
        (client, answer.session_id)
    }

    /// The numbers of sessions and of partitions in them.
    async fn sessions(&self) -> (Option<f64>, Option<f64>) {
        let sessions = self.metric("ropewalk_fetch_sessions").await;
        (sessions, self.metric("ropewalk_fetch_session_partitions").await)
    }

    async fn store_in(&mut self, partition: i32) {
        let parts = vec![(partition, batch(&["v"]))];
        let answer = self.ask(9, &produce("wide", -1, parts)).await;
        assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_returns_what_changed_and_remembers_what_was_asked() {
    let (mut client, id) = Client::with_session().await;
    let answer = client.ask(FETCH, &fetch(id, 1, &[])).await;
    assert_eq!((indexes(&answer), answer.session_id), (vec![], id), "nothing changed");

    client.store_in(2).await;
    let answer = client.ask(FETCH, &fetch(id, 2, &[])).await;
    assert_eq!(indexes(&answer), [2]);
    assert!(!parts(&answer)[0].records.is_empty());
    let answer = client.ask(FETCH, &fetch(id, 3, &[])).await;
    assert_eq!(indexes(&answer), [2], "its offset is the same, so its records come again");
    let answer = client.ask(FETCH, &fetch(id, 4, &[(2, 1)])).await;
    assert_eq!(indexes(&answer), NONE, "its offset is the end now");

    let mut request = fetch(id, 5, &[]);
    request.forgotten_topics_data =
        vec![ForgottenTopic { topic: "wide".into(), partitions: vec![1], ..Default::default() }];
    client.store_in(1).await;
    assert_eq!(indexes(&client.ask(FETCH, &request).await), NONE, "it is no longer wanted");
    let answer = client.ask(FETCH, &fetch(id, 6, &[(1, 0)])).await;
    assert_eq!(indexes(&answer), [1], "it is wanted again");
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_reports_a_moved_log_start_and_a_deleted_topic() {
    let (mut client, id) = Client::with_session().await;
    client.store_in(0).await;
    let answer = client.ask(FETCH, &fetch(id, 1, &[(0, 1)])).await;
    assert_eq!(indexes(&answer), [0], "its high watermark is new");
    assert_eq!((parts(&answer)[0].high_watermark, parts(&answer)[0].log_start_offset), (1, 0));
    assert_eq!(client.delete("wide", 1).await, (0, 1));
    let answer = client.ask(FETCH, &fetch(id, 2, &[])).await;
    assert_eq!(parts(&answer)[0].log_start_offset, 1);

    let mut other = Client::beside(&client.broker).await;
    let waiting = FetchRequest { max_wait_ms: 20_000, ..fetch(id, 3, &[]) };
    let waiting = tokio::spawn(async move { other.ask(FETCH, &waiting).await });
    let deletion = DeleteTopicsRequest {
        topic_names: vec!["wide".into()],
        timeout_ms: 10_000,
        ..Default::default()
    };
    assert_eq!(client.ask(5, &deletion).await.responses[0].error_code, 0);
    let answer = timeout(SOON / 2, waiting).await.expect("it is woken").expect("answered");
    let unknown = ErrorCode::UnknownTopicOrPartition.code();
    assert!(parts(&answer).iter().any(|part| part.error_code == unknown), "{answer:?}");
    let mut epochs = 4..;
    let all_closed = async {
        loop {
            let epoch = epochs.next().expect("another");
            if parts(&client.ask(FETCH, &fetch(id, epoch, &[])).await).len() == 4 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, all_closed).await.expect("all partitions are closed");
    let epoch = epochs.next().expect("another");
    let answer = client.ask(FETCH, &fetch(id, epoch, &[])).await;
    let codes: Vec<i16> = parts(&answer).iter().map(|part| part.error_code).collect();
    assert_eq!(codes, [unknown; 4], "an error is repeated");
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_session_is_woken_by_a_partition_that_it_did_not_name() {
    let (mut client, id) = Client::with_session().await;
    assert_eq!(indexes(&client.ask(FETCH, &fetch(id, 1, &[])).await), NONE);
    let mut other = Client::beside(&client.broker).await;
    let waiting = FetchRequest { max_wait_ms: 20_000, ..fetch(id, 2, &[]) };
    let waiting = tokio::spawn(async move { other.ask(FETCH, &waiting).await });
    client.store_in(3).await;
    let answer = timeout(SOON / 2, waiting).await.expect("it is woken").expect("answered");
    assert_eq!(indexes(&answer), [3]);
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_with_records_take_turns() {
    let (mut client, id) = Client::with_session().await;
    for partition in 0..4 {
        client.store_in(partition).await;
    }
    let mut served = Vec::new();
    for epoch in 1..=8 {
        let request = FetchRequest { max_bytes: 1, ..fetch(id, epoch, &[]) };
        let answer = client.ask(FETCH, &request).await;
        let with_records = parts(&answer).into_iter().filter(|part| !part.records.is_empty());
        served.extend(with_records.map(|part| part.partition_index));
    }
    assert_eq!(served, [0, 1, 2, 3, 0, 1, 2, 3]);
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_id_epoch_or_form_of_names_is_refused_and_changes_nothing() {
    let (mut client, id) = Client::with_session().await;
    for (version, id, epoch, code) in [
        (FETCH, id ^ 1, 1, ErrorCode::FetchSessionIdNotFound),
        (FETCH, 0, 1, ErrorCode::FetchSessionIdNotFound),
        (FETCH, id, 2, ErrorCode::InvalidFetchSessionEpoch),
        (FETCH, id, -7, ErrorCode::InvalidFetchSessionEpoch),
        (13, id, 1, ErrorCode::FetchSessionTopicIdError),
    ] {
        let answer = client.ask(version, &fetch(id, epoch, &[])).await;
        assert_eq!(answer.error_code, code.code(), "version {version}, {id}, epoch {epoch}");
        assert_eq!((answer.session_id, answer.responses), (0, vec![]));
    }
    assert_eq!(client.ask(FETCH, &fetch(id, 1, &[])).await.session_id, id);
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_survives_its_connection_and_ends_by_request() {
    const REQUESTS: &str = "ropewalk_fetch_session_requests_total";
    let (mut client, id) = Client::with_session().await;
    assert_eq!(client.sessions().await, (Some(1.0), Some(4.0)));
    // The connection ends while the request waits.
    let mut gone = Client::beside(&client.broker).await;
    let waiting = FetchRequest { max_wait_ms: 20_000, ..fetch(id, 1, &[]) };
    let waiting = tokio::spawn(async move { gone.ask(FETCH, &waiting).await });
    let received = async {
        while client.metric(REQUESTS).await != Some(1.0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, received).await.expect("received");
    waiting.abort();
    let in_use = ErrorCode::InvalidFetchSessionEpoch.code();
    let answer = timeout(SOON, async {
        loop {
            let answer = client.ask(FETCH, &fetch(id, 2, &[])).await;
            if answer.error_code != in_use {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert_eq!(answer.await.expect("it is put back").session_id, id);
    assert_eq!(client.metric(REQUESTS).await, Some(2.0));

    // A full fetch replaces the session, and epoch -1 closes it.
    let answer = client.ask(FETCH, &fetch(id, 0, &[(0, 0)])).await;
    assert_ne!(answer.session_id, id);
    assert_eq!(client.sessions().await, (Some(1.0), Some(1.0)));
    let answer = client.ask(FETCH, &fetch(answer.session_id, -1, &[(0, 0)])).await;
    assert_eq!((answer.session_id, indexes(&answer)), (0, vec![0]));
    assert_eq!(client.sessions().await, (Some(0.0), Some(0.0)));
    client.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_without_partitions_ends_and_a_request_for_nothing_does_not_wait() {
    let (mut client, id) = Client::with_session().await;
    let mut request = FetchRequest { max_wait_ms: 60_000, ..fetch(id, 1, &[]) };
    let partitions = vec![0, 1, 2, 3];
    request.forgotten_topics_data =
        vec![ForgottenTopic { topic: "wide".into(), partitions, ..Default::default() }];
    let answer = timeout(SOON, client.ask(FETCH, &request)).await.expect("at once");
    assert_eq!((answer.session_id, indexes(&answer)), (0, vec![]));
    assert_eq!(client.metric("ropewalk_fetch_sessions").await, Some(0.0));
    let answer = client.ask(FETCH, &fetch(0, 0, &[])).await;
    assert_eq!(answer.session_id, 0, "there is nothing to remember");
    client.broker.stop().await;
}
