//! What brokers answer while, and after, the leader of a partition changes.

use ropewalk_codec::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use ropewalk_codec::delete_records_request::*;
use ropewalk_codec::offset_for_leader_epoch_request::*;

use super::elsewhere::soon;
use super::trio::{PUBLIC, SHARD, Trio};
use super::*;

const NOT_LEADER: i16 = ErrorCode::NotLeaderOrFollower.code();

/// Code and log start after the records before `offset` were deleted; -1 is the end.
async fn delete_records(trio: &Trio, at: usize, offset: i64) -> (i16, i64) {
    let partition = DeleteRecordsPartition { partition_index: 0, offset };
    let topic = DeleteRecordsTopic { name: "t".into(), partitions: vec![partition] };
    let request = DeleteRecordsRequest { topics: vec![topic], timeout_ms: 60_000 };
    let call = trio.call(ApiKey::DeleteRecords, 2, PUBLIC).await;
    let answer = delete_records::handle(&trio.brokers[at], &call, request).await.expect("answered");
    let part = &answer.topics[0].partitions[0];
    (part.error_code, part.low_watermark)
}

#[tokio::test(flavor = "multi_thread")]
async fn l17_a_deposed_leader_deletes_nothing_and_refuses_no_offset() {
    let trio = Trio::new().await;
    trio.store().await;
    trio.cut(0, true);
    trio.within("another leads", || trio.leader_of(SHARD)).await;
    trio.store().await;
    for offset in [2, -1, 0] {
        let (code, _) = soon("the answer", delete_records(&trio, 0, offset)).await;
        assert_eq!(code, NOT_LEADER, "{offset}");
    }
    let leader = trio.leader_of(SHARD).expect("it leads");
    assert_eq!(delete_records(&trio, leader, 3).await.0, ErrorCode::OffsetOutOfRange.code());
    assert_eq!(delete_records(&trio, leader, 1).await, (0, 1));
    assert_eq!(delete_records(&trio, leader, -1).await, (0, 2));
    trio.cut(0, false);
    trio.stop().await;
}

/// Consumers check by these answers whether their position is still part of the log (KIP-320).
#[tokio::test(flavor = "multi_thread")]
async fn every_leader_gives_an_epoch_the_same_end() {
    let trio = Trio::new().await;
    // One record, none and two in the terms of three leaders.
    let mut epochs = Vec::new();
    for (leader, records) in [(0, 1), (1, 0), (2, 2), (0, 1)] {
        trio.lead(SHARD, leader).await;
        epochs.push(trio.placed(leader).await.1);
        for _ in 0..records {
            trio.store().await;
        }
    }
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
    let expected = [(epochs[0], 1), (epochs[0], 1), (epochs[2], 3), (epochs[3], 4)];
    let mut current = epochs[3];
    for leader in [0, 1, 2] {
        trio.lead(SHARD, leader).await;
        current = current.max(trio.placed(leader).await.1);
        for (epoch, expected) in epochs.iter().zip(expected) {
            assert_eq!(
                epoch_and_end(&trio, leader, *epoch, -1).await,
                (0, expected),
                "at {leader}"
            );
        }
        // The current epoch, which has no record; one that is not there yet; one before all.
        assert_eq!(epoch_and_end(&trio, leader, current, current).await, (0, (current, 4)));
        assert_eq!(epoch_and_end(&trio, leader, current + 1, -1).await, (0, (-1, -1)));
        assert_eq!(epoch_and_end(&trio, leader, 0, -1).await, (0, (0, 0)));
        let fenced = (ErrorCode::FencedLeaderEpoch.code(), (-1, -1));
        assert_eq!(epoch_and_end(&trio, leader, epochs[0], current - 1).await, fenced);
        let unknown = (ErrorCode::UnknownLeaderEpoch.code(), (-1, -1));
        assert_eq!(epoch_and_end(&trio, leader, epochs[0], current + 1).await, unknown);
    }
    trio.stop().await;
}

/// Error code, epoch and end of the answer for an epoch, with the client's current epoch.
async fn epoch_and_end(trio: &Trio, at: usize, epoch: i32, current: i32) -> (i16, (i32, i64)) {
    let partition = OffsetForLeaderPartition {
        leader_epoch: epoch,
        current_leader_epoch: current,
        ..Default::default()
    };
    let topic = OffsetForLeaderTopic { topic: "t".into(), partitions: vec![partition] };
    let request = OffsetForLeaderEpochRequest { topics: vec![topic], ..Default::default() };
    let call = trio.call(ApiKey::OffsetForLeaderEpoch, 4, PUBLIC).await;
    let answer = offset_for_leader_epoch::handle(&trio.brokers[at], &call, request).await;
    let answer = answer.expect("answered");
    let part = &answer.topics[0].partitions[0];
    (part.error_code, (part.leader_epoch, part.end_offset))
}

/// The topic is listed as soon as the catalog has it. A client that retried by itself would be
/// informed that the topic exists.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_whose_partitions_are_not_open_yet_is_no_topic_to_create_again() {
    let trio = Trio::new().await;
    trio.lead(SHARD, 2).await;
    trio.cut(2, true);
    let topic = CreatableTopic {
        name: "new".into(),
        num_partitions: 1,
        replication_factor: -1,
        ..Default::default()
    };
    let topics = vec![topic];
    let request = CreateTopicsRequest { topics, timeout_ms: 60_000, validate_only: false };
    let call = trio.call(ApiKey::CreateTopics, 7, PUBLIC).await;
    let answer = create_topics::handle(&trio.brokers[0], &call, request).await.expect("answered");
    let code = answer.topics[0].error_code;
    // A new leader may be there already.
    assert!([0, ErrorCode::RequestTimedOut.code()].contains(&code), "{code}");
    assert!(trio.brokers[0].view.by_name("new").is_some());
    trio.cut(2, false);
    trio.stop().await;
}
