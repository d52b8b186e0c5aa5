//! The claim of the bucket: a cluster that was restored elsewhere, or is being restored, changes
//! nothing there.

use ropewalk_shard::Outcome;
use ropewalk_shard::command::{CatalogCommand, Command};
use ropewalk_shard::manifest::{BucketClaim, RestoreState};
use ropewalk_shard::state::catalog::Answer;
use ropewalk_tier::{Claim, current_claim, hold_claim};

use super::*;

/// Everything in a bucket, claims and checkpoints included.
async fn all_names(bucket: &Bucket) -> BTreeSet<String> {
    let listed: Vec<_> = bucket.list("").try_collect().await.expect("it lists");
    listed.into_iter().map(|listed| listed.name).collect()
}

async fn record(running: &Running, claim: BucketClaim) {
    let catalog = running.broker.context().node.catalog();
    let command = Command::Catalog(CatalogCommand::RecordClaim(claim));
    let outcome = catalog.propose(command).await.expect("it leads");
    assert!(matches!(outcome, Outcome::Catalog { answer: Answer::Done, .. }), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t2_a_cluster_whose_bucket_was_taken_over_uploads_and_deletes_nothing() {
    let running = Running::start(&[]).await;
    let topic = running.make(&[ENABLED, ("retention.ms", "3600000")]).await;
    let bucket = Bucket::memory();
    let parts = running.parts(&bucket, 1 << 20);
    topic.write(3, b"value").await;
    until("the tier is enabled", || topic.shard.state().partitions[&topic.id].tier.is_some()).await;
    Uploader::new(Arc::clone(&parts)).pass().await;
    assert_eq!(topic.tier().end, 3);
    let own = current_claim(&bucket).await.expect("it reads").expect("it is claimed");
    assert_eq!((own.cluster.as_str(), own.epoch), ("cluster", 1));
    let restored = Claim { epoch: 2, holder: !own.holder, ..own };
    hold_claim(&bucket, &restored).await.expect("a restore takes it over");
    let before = all_names(&bucket).await;

    // A leader that has not compared the claim yet.
    topic.write(2, b"later").await;
    let parts = running.parts(&bucket, 1 << 20);
    Uploader::new(Arc::clone(&parts)).pass().await;
    assert_eq!((topic.tier().end, all_names(&bucket).await), (3, before.clone()));
    let why = parts.health.failure().expect("it says so");
    assert!(why.contains("was taken over by claim 2 of cluster cluster"), "{why}");
    assert!(parts.health.is_fenced());

    // Retention removes records, but no objects.
    alter(&running, &topic, "local.retention.ms", "1").await;
    TierRetention::new(Arc::clone(&parts)).pass().await;
    assert_eq!(topic.tier().local_start, 0, "the objects may be deleted by their owner");
    alter(&running, &topic, "retention.ms", "1000").await;
    let parts = running.parts(&bucket, 1 << 20);
    for _ in 0..3 {
        TierRetention::new(Arc::clone(&parts)).pass().await;
    }
    assert_eq!((topic.log_start(), topic.tier().deleted), (5, 0));
    Checkpoints::new(Arc::clone(&parts), Duration::ZERO).pass(Which::Changed).await;
    Orphans::new(Arc::clone(&parts)).pass().await;
    assert_eq!(all_names(&bucket).await, before);
    running.broker.stop().await;
}

/// An empty cluster was formatted with the id of a lost one.
#[tokio::test(flavor = "multi_thread")]
async fn t2_a_new_cluster_with_the_id_of_a_lost_one_does_not_take_its_bucket() {
    let running = Running::start(&[]).await;
    let topic = running.make(&[ENABLED]).await;
    let bucket = Bucket::memory();
    let cluster = ClusterId::new("cluster").expect("valid");
    hold_claim(&bucket, &Claim { cluster, epoch: 1, holder: 99 }).await.expect("of the lost one");
    let parts = running.parts(&bucket, 1 << 20);
    topic.write(3, b"value").await;
    until("the tier is enabled", || topic.shard.state().partitions[&topic.id].tier.is_some()).await;
    Uploader::new(Arc::clone(&parts)).pass().await;
    assert_eq!((topic.tier().end, names(&bucket).await.len()), (0, 0));
    assert!(parts.health.failure().expect("it says so").contains("restore it again"));
    running.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t2_nothing_is_uploaded_before_a_restore_is_finished() {
    let running = Running::start(&[]).await;
    let topic = running.make(&[ENABLED]).await;
    let bucket = Bucket::memory();
    let parts = running.parts(&bucket, 1 << 20);
    let claim = BucketClaim { epoch: 2, holder: 7, restore: RestoreState::Unfinished };
    record(&running, claim).await;
    topic.write(3, b"value").await;
    until("the tier is enabled", || topic.shard.state().partitions[&topic.id].tier.is_some()).await;
    let mut uploader = Uploader::new(Arc::clone(&parts));
    uploader.pass().await;
    assert_eq!((topic.tier().end, all_names(&bucket).await.len()), (0, 0));
    let why = parts.health.failure().expect("it says so");
    assert!(why.contains("restore of this cluster from the bucket is not finished"), "{why}");

    record(&running, BucketClaim { restore: RestoreState::Finished, ..claim }).await;
    parts.fence.confirm(Duration::ZERO).await.expect("it is finished");
    uploader.pass().await;
    assert_eq!((topic.tier().end, parts.health.failure()), (3, None));
    let held = current_claim(&bucket).await.expect("it reads").expect("it is claimed");
    assert_eq!((held.epoch, held.holder), (2, 7));
    running.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t2_the_claim_is_recorded_before_it_is_put_and_never_drawn_twice() {
    let running = Running::start(&[]).await;
    let store = Arc::new(FaultyStore::default());
    let bucket = Bucket::over(Arc::clone(&store) as _);
    // The claim does not arrive, as if the process ended before.
    store.next_puts([Fault::Fails; 4]);
    let parts = running.parts(&bucket, 1 << 20);
    parts.fence.confirm(Duration::ZERO).await.expect_err("the bucket fails");
    let recorded = || {
        let state = running.broker.context().node.catalog().state();
        state.catalog.as_ref().and_then(|catalog| catalog.claim)
    };
    let first = recorded().expect("it is recorded");
    let parts = running.parts(&bucket, 1 << 20);
    parts.fence.confirm(Duration::ZERO).await.expect("it works again");
    let held = current_claim(&bucket).await.expect("it reads").expect("it is claimed");
    assert_eq!((held.epoch, held.holder), (1, first.holder));
    assert_eq!(recorded(), Some(first));
    running.broker.stop().await;
}
