//! Consumers that read a follower in their rack (KIP-392).

use ropewalk_codec::fetch_request::{FetchPartition, FetchRequest};
use ropewalk_codec::fetch_response::FetchResponse;
use ropewalk_shard::BrokerId;
use ropewalk_shard::command::{CatalogCommand, Command, FORMAT_MAX, TierChange};
use ropewalk_tier::Bucket;

use super::elsewhere::{part, soon, waiting};
use super::records::{fetch, from};
use super::tiered::{change_tier, reader, upload};
use super::trio::{INTERNAL, SHARD, Trio};
use super::*;

const RACK_AWARE: (&str, &str) =
    ("replica.selector.class", "org.apache.kafka.common.replica.RackAwareReplicaSelector");

const NOT_LEADER: i16 = ErrorCode::NotLeaderOrFollower.code();
const NOT_AVAILABLE: i16 = ErrorCode::OffsetNotAvailable.code();

/// The request of a consumer in the rack of a broker.
fn in_rack(broker: usize, request: FetchRequest) -> FetchRequest {
    FetchRequest { rack_id: format!("zone-{broker}").into(), ..request }
}

/// A fetch that does not wait.
fn now(partition: FetchPartition) -> FetchRequest {
    fetch("t", partition)
}

/// Error code, size of the records, high watermark and preferred replica.
fn summary(answer: &FetchResponse) -> (i16, bool, i64, i32) {
    let part = part(answer);
    let has_records = !part.records.is_empty();
    (part.error_code, has_records, part.high_watermark, part.preferred_read_replica)
}

impl Trio {
    /// Waits until a broker has applied this many records of the partition.
    async fn has(&self, at: usize, records: i64) {
        let id = self.brokers[at].view.by_name("t").expect("known").partition(0).expect("one").0;
        let log = || self.brokers[at].node.shard(SHARD)?.log(&id);
        let has = || log().filter(|log| log.high_watermark() >= records).map(drop);
        self.within("it has the records", has).await;
    }

    /// Waits until the leader considers exactly these followers in sync.
    async fn in_sync(&self, leader: usize, mut followers: Vec<i32>) {
        followers.sort_unstable();
        let ctx = &self.brokers[leader];
        let are = || {
            let found = ctx.cluster.followers_in_sync(ctx.node.shard(SHARD)?);
            let mut found: Vec<_> = found.into_iter().map(|id| id.0).collect();
            found.sort_unstable();
            (found == followers).then_some(())
        };
        self.within("the followers are in sync, or not", are).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_returns_what_is_committed_to_consumers_with_a_rack() {
    let trio = Trio::new().await;
    trio.store().await;
    trio.store().await;
    trio.has(1, 2).await;
    for version in [11, 12, 16] {
        let mut request = in_rack(1, now(from(1)));
        if version > 12 {
            request.topics[0].topic_id = trio.brokers[1].view.by_name("t").expect("known").id.0;
        }
        let answer = trio.fetch(1, version, request).await;
        assert_eq!(summary(&answer), (0, true, 2, -1), "version {version}");
        assert_eq!(part(&answer).log_start_offset, 0);
    }
    let answer = trio.fetch(1, 12, in_rack(1, now(from(2)))).await;
    assert_eq!(summary(&answer), (0, false, 2, -1), "the end");
    let records = part(&trio.fetch(0, 12, now(from(1))).await).records.len();
    let counted = |at: usize| trio.brokers[at].metrics.followers();
    assert_eq!(counted(1), (0, 3 * records as u64), "three fetches had a record");
    assert_eq!(counted(0), (0, 0), "the leader's do not count");
    // Nothing says that a consumer without a rack was sent here: it has to learn who leads.
    assert_eq!(part(&trio.fetch(1, 12, now(from(1))).await).error_code, NOT_LEADER);
    assert_eq!(part(&trio.fetch(1, 10, in_rack(1, now(from(1)))).await).error_code, NOT_LEADER);

    // Below the log start is below it everywhere.
    let below = FetchPartition { fetch_offset: -1, ..from(0) };
    let answer = trio.fetch(1, 12, in_rack(1, now(below))).await;
    assert_eq!(part(&answer).error_code, ErrorCode::OffsetOutOfRange.code());
    trio.stop().await;
}

/// The manifest is part of the shard's state, so any replica reads the bucket.
#[tokio::test(flavor = "multi_thread")]
async fn o4_a_follower_reads_from_the_bucket_what_it_no_longer_has() {
    let trio = Trio::new().await;
    for _ in 0..4 {
        trio.store().await;
    }
    trio.has(1, 4).await;
    for broker in (0..3).map(BrokerId) {
        let report = CatalogCommand::ReportLevel { broker, level: FORMAT_MAX };
        let catalog = trio.brokers[0].node.catalog();
        catalog.propose(Command::Catalog(report)).await.expect("it is applied");
    }
    let bucket = Bucket::memory();
    let shard = trio.brokers[0].node.shard(SHARD).expect("held");
    let id = trio.brokers[0].view.by_name("t").expect("known").partition(0).expect("one").0;
    let log = shard.log(&id).expect("open");
    change_tier(shard, id, TierChange::Enable).await;
    upload(shard, &log, &bucket, 0..3).await;
    change_tier(shard, id, TierChange::SetLocalStart(3)).await;
    let log = || trio.brokers[1].node.shard(SHARD)?.log(&id);
    let moved = || log().filter(|log| log.local_start() == 3).map(drop);
    trio.within("the follower has the local start", moved).await;

    let answer = trio.fetch(1, 12, in_rack(1, waiting(from(0)))).await;
    assert_eq!(part(&answer).error_code, NOT_AVAILABLE, "no bucket is configured");
    let reader = Arc::new(reader(&trio.brokers[1], &bucket));
    trio.brokers[1].remote.set(reader).expect("it is set once");
    let mut next = 0;
    while next < 4 {
        let answer = trio.fetch(1, 12, in_rack(1, waiting(from(next)))).await;
        assert_eq!(summary(&answer), (0, true, 4, -1));
        let mut bytes = part(&answer).records.to_bytes().expect("not null");
        while !bytes.is_empty() {
            let size_bytes = ropewalk_batch::Header::parse(&bytes).expect("a header").size_bytes();
            let batch = bytes.split_to(size_bytes);
            let header = ropewalk_batch::Header::verify(&batch).expect("a whole batch");
            assert_eq!(header.base_offset, next);
            next = header.last_offset() + 1;
        }
    }
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_waits_at_a_follower_gets_the_next_record() {
    let trio = Trio::new().await;
    trio.store().await;
    trio.has(2, 1).await;
    let waits = trio.wait_for(2, in_rack(2, waiting(from(1)))).await;
    // This one asks for what no broker has yet.
    let ahead = trio.wait_for(2, in_rack(2, waiting(from(2)))).await;
    trio.store().await;
    let answer = soon("the next record", waits).await.expect("no panic");
    assert_eq!(summary(&answer), (0, true, 2, -1));
    trio.store().await;
    let answer = soon("the record after it", ahead).await.expect("no panic");
    assert_eq!(summary(&answer), (0, true, 3, -1));
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l17_a_follower_never_says_that_what_it_lacks_is_out_of_range() {
    let trio = Trio::new().await;
    trio.store().await;
    trio.has(1, 1).await;
    let (_, epoch) = trio.placed(1).await;
    let answer = trio.fetch(1, 12, in_rack(1, now(from(2)))).await;
    assert_eq!(part(&answer).error_code, NOT_AVAILABLE);
    // The position is one of a newer epoch, of which this follower has not heard.
    let newer = FetchPartition { last_fetched_epoch: epoch + 1, ..from(1) };
    let answer = trio.fetch(1, 12, in_rack(1, now(newer))).await;
    assert_eq!(part(&answer).error_code, NOT_AVAILABLE);
    // What it has contradicts the client for certain.
    let older = FetchPartition { last_fetched_epoch: epoch - 1, ..from(1) };
    let answer = trio.fetch(1, 12, in_rack(1, now(older))).await;
    let diverging = &part(&answer).diverging_epoch;
    assert_eq!((diverging.epoch, diverging.end_offset), (epoch - 1, 0));
    // The leader knows.
    let answer = trio.fetch(0, 12, in_rack(1, now(from(2)))).await;
    assert_eq!(part(&answer).error_code, ErrorCode::OffsetOutOfRange.code());
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_checks_the_leader_epoch() {
    let trio = Trio::new().await;
    trio.store().await;
    trio.has(1, 1).await;
    let (_, epoch) = trio.placed(1).await;
    let ask = async |current_leader_epoch: i32| {
        let asked = FetchPartition { current_leader_epoch, ..from(0) };
        part(&trio.fetch(1, 12, in_rack(1, now(asked))).await).error_code
    };
    assert_eq!(ask(epoch).await, 0);
    assert_eq!(ask(epoch - 1).await, ErrorCode::FencedLeaderEpoch.code());
    assert_eq!(ask(epoch + 1).await, ErrorCode::UnknownLeaderEpoch.code());

    // The leader moves under consumers that wait at it and at a follower.
    let with_epoch = FetchPartition { current_leader_epoch: epoch, ..from(1) };
    let fenced = trio.wait_for(1, in_rack(1, waiting(with_epoch.clone()))).await;
    let at_the_leader = trio.wait_for(0, in_rack(1, waiting(with_epoch))).await;
    let goes_on = trio.wait_for(1, in_rack(1, waiting(from(1)))).await;
    tokio::task::yield_now().await;
    trio.lead(SHARD, 2).await;
    for waited in [fenced, at_the_leader] {
        let answer = soon("the answer", waited).await.expect("no panic");
        let code = part(&answer).error_code;
        // While no leader was known.
        assert!([ErrorCode::FencedLeaderEpoch.code(), NOT_LEADER].contains(&code), "{code}");
    }
    trio.store().await;
    let answer = soon("the answer", goes_on).await.expect("no panic");
    assert!([0, NOT_LEADER].contains(&part(&answer).error_code));
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_cut_off_sends_its_consumers_away() {
    let trio = Trio::with(&[RACK_AWARE]).await;
    trio.store().await;
    trio.has(1, 1).await;
    trio.in_sync(0, vec![1, 2]).await;
    let waits = trio.wait_for(1, in_rack(1, waiting(from(1)))).await;
    trio.cut(1, true);
    let answer = soon("the answer", waits).await.expect("no panic");
    assert_eq!(part(&answer).error_code, NOT_LEADER);
    // The leader sends no consumer to it any more.
    trio.in_sync(0, vec![2]).await;
    let answer = trio.fetch(0, 12, in_rack(1, now(from(0)))).await;
    assert_eq!(summary(&answer), (0, true, 1, -1));
    trio.cut(1, false);
    trio.in_sync(0, vec![1, 2]).await;
    let answer = trio.fetch(0, 12, in_rack(1, now(from(0)))).await;
    assert_eq!(summary(&answer), (0, false, 1, 1));
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_names_a_follower_in_the_rack_of_the_consumer() {
    let trio = Trio::with(&[RACK_AWARE]).await;
    trio.store().await;
    trio.in_sync(0, vec![1, 2]).await;
    for broker in [1, 2] {
        let answer = trio.fetch(0, 11, in_rack(broker, now(from(0)))).await;
        let id = i32::try_from(broker).expect("few");
        assert_eq!(summary(&answer), (0, false, 1, id), "without records");
        // At once, whatever else it waits for.
        let waits = trio.wait_for(0, in_rack(broker, waiting(from(1)))).await;
        let answer = soon("the answer", waits).await.expect("no panic");
        assert_eq!(summary(&answer), (0, false, 1, id));
        // The one that is named serves it.
        trio.has(broker, 1).await;
        let answer = trio.fetch(broker, 11, in_rack(broker, now(from(0)))).await;
        assert_eq!(summary(&answer), (0, true, 1, -1));
    }
    let own = in_rack(0, now(from(0)));
    let nobodys = in_rack(7, now(from(0)));
    for (version, request) in
        [(12, own), (12, nobodys), (12, now(from(0))), (10, in_rack(1, now(from(0))))]
    {
        let answer = trio.fetch(0, version, request).await;
        assert_eq!(summary(&answer), (0, true, 1, -1), "the leader serves it");
    }
    assert_eq!(trio.brokers[0].metrics.followers(), (4, 0));
    // The leader itself refuses what it does not have.
    let answer = trio.fetch(0, 12, in_rack(1, now(from(2)))).await;
    assert_eq!(summary(&answer), (ErrorCode::OffsetOutOfRange.code(), false, 1, -1));

    // Another leader, and a listener that the follower does not have.
    trio.lead(SHARD, 2).await;
    trio.in_sync(2, vec![0, 1]).await;
    let request = in_rack(0, now(from(0)));
    assert_eq!(summary(&trio.fetch(2, 12, request.clone()).await), (0, false, 1, 0));
    let call = trio.call(ApiKey::Fetch, 12, INTERNAL).await;
    let answer = fetch::handle(&trio.brokers[2], &call, request).await.expect("answered");
    assert_eq!(summary(&answer), (0, true, 1, -1), "the follower has no such listener");
    trio.stop().await;
}

/// As in Kafka, whatever else the rack has.
#[tokio::test(flavor = "multi_thread")]
async fn the_leader_in_the_rack_of_the_consumer_serves_it() {
    let trio = Trio::in_racks([5, 5, 6], &[RACK_AWARE]).await;
    trio.store().await;
    trio.in_sync(0, vec![1, 2]).await;
    let answer = trio.fetch(0, 12, in_rack(5, now(from(0)))).await;
    assert_eq!(summary(&answer), (0, true, 1, -1));
    assert_eq!(summary(&trio.fetch(0, 12, in_rack(6, now(from(0)))).await), (0, false, 1, 2));
    trio.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_selector_the_leader_serves_every_consumer() {
    for settings in
        [&[][..], &[("replica.selector.class", "org.apache.kafka.common.replica.LeaderSelector")]]
    {
        let trio = Trio::with(settings).await;
        trio.store().await;
        trio.in_sync(0, vec![1, 2]).await;
        let answer = trio.fetch(0, 12, in_rack(1, now(from(0)))).await;
        assert_eq!(summary(&answer), (0, true, 1, -1));
        trio.stop().await;
    }
}

/// A consumer with many partitions has a session at each broker that it reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_names_the_follower_and_follows_it() {
    let trio = Trio::with(&[RACK_AWARE]).await;
    trio.store().await;
    trio.has(1, 1).await;
    trio.in_sync(0, vec![1, 2]).await;
    let open = FetchRequest { session_epoch: 0, ..now(from(1)) };
    let next = |opened: &FetchResponse| FetchRequest {
        session_id: opened.session_id,
        session_epoch: 1,
        topics: Vec::new(),
        ..waiting(from(1))
    };
    // Without a rack the partition is settled; with one the leader names the follower.
    let opened = trio.fetch(0, 12, open.clone()).await;
    assert_eq!(summary(&opened), (0, false, 1, -1));
    let again = FetchRequest { topics: open.topics.clone(), max_wait_ms: 0, ..next(&opened) };
    let answer = trio.fetch(0, 12, in_rack(1, again)).await;
    assert_eq!(summary(&answer), (0, false, 1, 1), "although nothing else is new");

    let opened = trio.fetch(1, 12, in_rack(1, open.clone())).await;
    assert_eq!(summary(&opened), (0, false, 1, -1));
    let waits = trio.wait_for(1, in_rack(1, next(&opened))).await;
    trio.store().await;
    let answer = soon("the record", waits).await.expect("no panic");
    assert_eq!(summary(&answer), (0, true, 2, -1));

    // The partition is settled, and the follower loses its leader.
    trio.has(2, 2).await;
    let opened = trio.fetch(2, 12, in_rack(2, FetchRequest { session_epoch: 0, ..now(from(2)) }));
    let opened = opened.await;
    assert_eq!(summary(&opened), (0, false, 2, -1));
    let waits = trio.wait_for(2, in_rack(2, next(&opened))).await;
    trio.cut(2, true);
    let answer = soon("the answer", waits).await.expect("no panic");
    assert_eq!(part(&answer).error_code, NOT_LEADER);
    trio.cut(2, false);
    trio.stop().await;
}
