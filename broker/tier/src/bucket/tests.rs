//! Puts, reads, lists and deletions in memory and in a directory, and with every fault of a store.

use std::path::Path as FilePath;

use futures_util::TryStreamExt;

use super::*;
use crate::error::Remedy;
use crate::faulty::{Fault, FaultyStore};

const NAME: &str = "cluster/topic/object.rwo";

fn content(text: &'static str) -> Content {
    Content::from(Bytes::from_static(text.as_bytes()))
}

fn in_directory(path: &FilePath) -> Bucket {
    Bucket::open(&BucketSettings::new(BucketUrl::Directory(path.to_owned()))).unwrap()
}

fn faulty() -> (Arc<FaultyStore>, Bucket) {
    let store = Arc::new(FaultyStore::default());
    (store.clone(), Bucket::over(store))
}

async fn names(bucket: &Bucket, folder: &str) -> Vec<String> {
    let listed: Vec<Listed> = bucket.list(folder).try_collect().await.unwrap();
    let mut names: Vec<String> = listed.into_iter().map(|listed| listed.name).collect();
    names.sort();
    names
}

/// What every bucket does, whatever it is made of.
async fn conforms(bucket: &Bucket) {
    assert_eq!(bucket.size_bytes(NAME).await.unwrap(), None);
    let pieces = vec![Bytes::from_static(b"some "), Bytes::from_static(b"content")];
    let ours = Content::new(pieces);
    assert_eq!(bucket.put_if_absent(NAME, &ours).await.unwrap(), PutOutcome::Created);
    let again = bucket.put_if_absent(NAME, &content("some content")).await.unwrap();
    assert_eq!(again, PutOutcome::AlreadyThere);
    for other in ["same length!", "another length"] {
        let refused = bucket.put_if_absent(NAME, &content(other)).await.unwrap_err();
        assert!(matches!(refused, TierError::OtherContent { .. }), "{refused}");
        assert_eq!(refused.remedy(), Remedy::Object);
    }
    assert_eq!(bucket.size_bytes(NAME).await.unwrap(), Some(12));
    assert_eq!(bucket.get(NAME, 12).await.unwrap(), "some content");
    assert_eq!(bucket.get_range(NAME, 5..9).await.unwrap(), "cont");
    let refused = bucket.get(NAME, 11).await.unwrap_err().to_string();
    assert!(refused.ends_with("the size is 12, over the limit of 11"), "{refused}");
    for behind in [8..13, 12..14, 99..100] {
        let refused = bucket.get_range(NAME, behind).await.unwrap_err();
        assert!(matches!(refused, TierError::Damaged { .. }), "{refused}");
    }
    assert_eq!(bucket.put_if_absent("cluster/other", &ours).await.unwrap(), PutOutcome::Created);
    assert_eq!(bucket.put_if_absent("clusters", &ours).await.unwrap(), PutOutcome::Created);
    assert_eq!(names(bucket, "cluster").await, ["cluster/other", NAME]);
    assert_eq!(names(bucket, "").await, ["cluster/other", NAME, "clusters"]);
    assert_eq!(names(bucket, "nothing").await, [""; 0]);
    bucket.delete(NAME).await.unwrap();
    bucket.delete(NAME).await.unwrap();
    let missing = bucket.get(NAME, 99).await.unwrap_err();
    assert!(matches!(missing, TierError::Missing { .. }), "{missing}");
    assert_eq!(names(bucket, "").await, ["cluster/other", "clusters"]);
}

#[tokio::test]
async fn a_bucket_in_memory_conforms() {
    conforms(&Bucket::memory()).await;
}

#[tokio::test]
async fn a_directory_conforms() {
    let dir = tempfile::tempdir().unwrap();
    conforms(&in_directory(&dir.path().join("not/there/yet"))).await;
}

#[tokio::test]
async fn a_store_without_metadata_conforms() {
    conforms(&Bucket::over(Arc::new(FaultyStore::dropping_metadata()))).await;
}

#[tokio::test]
async fn a_prefix_is_part_of_no_name() {
    let store = Arc::new(object_store::memory::InMemory::new());
    let prefixed = Bucket::new(store.clone(), Path::from("a/b"), "s3://x/a/b".to_owned(), None);
    conforms(&prefixed).await;
    assert_eq!(names(&Bucket::over(store), "").await, ["a/b/cluster/other", "a/b/clusters"]);
}

#[tokio::test]
async fn objects_of_a_directory_outlive_the_bucket() {
    let dir = tempfile::tempdir().unwrap();
    in_directory(dir.path()).put_if_absent(NAME, &content("kept")).await.unwrap();
    let again = in_directory(dir.path()).put_if_absent(NAME, &content("kept")).await.unwrap();
    assert_eq!(again, PutOutcome::AlreadyThere);
    assert_eq!(std::fs::read(dir.path().join(NAME)).unwrap(), b"kept");
}

#[tokio::test(start_paused = true)]
async fn t1_a_put_whose_answer_is_lost_succeeds_if_the_content_is_there() {
    let (store, bucket) = faulty();
    store.next_puts([Fault::LosesAnswer]);
    let outcome = bucket.put_if_absent(NAME, &content("ours")).await.unwrap();
    assert_eq!(outcome, PutOutcome::AlreadyThere);
    assert_eq!(bucket.get(NAME, 9).await.unwrap(), "ours");
    assert_eq!((bucket.counts().puts, bucket.counts().retries), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn t1_a_lost_answer_and_other_content_is_an_error_that_names_both() {
    let (store, bucket) = faulty();
    assert_eq!(bucket.put_if_absent(NAME, &content("theirs")).await.unwrap(), PutOutcome::Created);
    store.next_puts([Fault::Fails]);
    let refused = bucket.put_if_absent(NAME, &content("ours..")).await.unwrap_err().to_string();
    for text in ["theirs", "ours.."] {
        let digest = content::hex(&content(text).sha256());
        assert!(refused.contains(&format!("6 bytes, SHA-256 {digest}")), "{refused}");
    }
    assert_eq!(bucket.get(NAME, 9).await.unwrap(), "theirs");
}

/// S3 answers 409 to each of two puts of one name at the same time.
#[tokio::test(start_paused = true)]
async fn t1_a_conflict_that_left_no_object_is_tried_again() {
    let (store, bucket) = faulty();
    store.next_puts([Fault::Conflicts, Fault::Conflicts]);
    let outcome = bucket.put_if_absent(NAME, &content("ours")).await.unwrap();
    assert_eq!(outcome, PutOutcome::Created);
}

#[tokio::test(start_paused = true)]
async fn a_temporary_failure_is_tried_again_and_a_lasting_one_ends() {
    let (store, bucket) = faulty();
    let most = limits::ATTEMPTS_MAX as usize;
    store.next_puts(vec![Fault::Fails; most - 1]);
    bucket.put_if_absent(NAME, &content("ours")).await.unwrap();

    let before = bucket.counts();
    store.next_puts(vec![Fault::Hangs; most]);
    let failed = bucket.put_if_absent("other", &content("ours")).await.unwrap_err();
    assert_eq!(failed.to_string(), "memory: did not put other: no answer in 20 s");
    assert_eq!(failed.remedy(), Remedy::RetryLater);
    assert_eq!(bucket.counts().puts - before.puts, u64::from(limits::ATTEMPTS_MAX));
    assert_eq!(bucket.counts().failures - before.failures, u64::from(limits::ATTEMPTS_MAX));

    store.next_gets(vec![Fault::Fails; most]);
    let failed = bucket.get(NAME, 9).await.unwrap_err().to_string();
    assert!(failed.starts_with("memory: did not get cluster/topic/object.rwo: "), "{failed}");
    assert!(failed.contains("503 SlowDown"), "{failed}");
    assert_eq!(bucket.get(NAME, 9).await.unwrap(), "ours", "it works again");
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_not_tried_again() {
    let (store, bucket) = faulty();
    store.next_puts([Fault::Denies]);
    let denied = bucket.put_if_absent(NAME, &content("ours")).await.unwrap_err();
    assert_eq!(denied.remedy(), Remedy::Report);
    let text = denied.to_string();
    assert!(text.contains("AccessDenied") && text.contains("Check the credentials"), "{text}");
    assert_eq!((bucket.counts().puts, bucket.counts().retries), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_truncated_answer_is_read_again() {
    let (store, bucket) = faulty();
    bucket.put_if_absent(NAME, &content("content")).await.unwrap();
    store.next_gets([Fault::Truncates, Fault::Truncates]);
    assert_eq!(bucket.get_range(NAME, 1..6).await.unwrap(), "onten");
    assert_eq!(bucket.counts().retries, 2);
    store.next_gets([Fault::Truncates; limits::ATTEMPTS_MAX as usize]);
    let failed = bucket.get(NAME, 9).await.unwrap_err().to_string();
    assert!(failed.ends_with("6 of 7 bytes arrived"), "{failed}");
}

#[tokio::test(start_paused = true)]
async fn a_put_that_cannot_be_verified_is_no_success() {
    let (store, bucket) = faulty();
    store.next_gets([Fault::Fails; limits::ATTEMPTS_MAX as usize]);
    let failed = bucket.put_if_absent(NAME, &content("ours")).await.unwrap_err();
    assert!(matches!(failed, TierError::Unavailable { operation: Operation::Head, .. }));
    let again = bucket.put_if_absent(NAME, &content("ours")).await.unwrap();
    assert_eq!(again, PutOutcome::AlreadyThere);
}

#[test]
fn what_s3_says_only_as_text_is_an_error_of_its_own() {
    let (_, bucket) = faulty();
    let said = |text: &str| {
        let source = text.to_owned().into();
        let error = StoreError::Generic { store: "S3", source };
        bucket.context(Operation::Put, NAME).failed(&error)
    };
    let unready = said("404: <Code>NoSuchBucket</Code>").to_string();
    let text = "memory: cannot be used: the store has no bucket with this name. Create it first";
    assert_eq!(unready, text);
    assert!(matches!(said("400: <Code>ExpiredToken</Code>"), TierError::Denied { .. }));
    assert!(matches!(said("403: RequestTimeTooSkewed"), TierError::Unready { .. }));
    assert!(matches!(said("501: <Code>NotImplemented</Code>"), TierError::Unsuitable { .. }));
    let long = said(&"x".repeat(9_999)).to_string();
    assert!(long.len() < 900 && long.ends_with('…'), "{long}");
}

#[derive(Debug, thiserror::Error)]
#[error("error sending request")]
struct Failed(#[source] std::io::Error);

#[test]
fn an_error_names_the_cause_of_a_failed_connection() {
    let (_, bucket) = faulty();
    let said = |cause: &str| {
        let source = Box::new(Failed(std::io::Error::other(cause.to_owned())));
        let error = StoreError::Generic { store: "S3", source };
        bucket.context(Operation::Put, NAME).failed(&error)
    };
    let refused = said("connection refused").to_string();
    assert!(refused.ends_with("error sending request: connection refused"), "{refused}");
    let unknown = said("invalid peer certificate: UnknownIssuer");
    assert_eq!(unknown.remedy(), Remedy::Report);
    assert!(unknown.to_string().contains("its certificate is not accepted"), "{unknown}");
}

#[tokio::test]
async fn the_probe_accepts_memory_and_a_directory() {
    let report = crate::probe(&Bucket::memory()).await.unwrap();
    assert!(report.has_metadata);
    let dir = tempfile::tempdir().unwrap();
    let bucket = in_directory(dir.path());
    assert!(!crate::probe(&bucket).await.unwrap().has_metadata);
    assert_eq!(names(&bucket, "").await, [""; 0], "it leaves nothing");
}

#[tokio::test]
async fn the_probe_refuses_a_store_that_ignores_conditions() {
    let bucket = Bucket::over(Arc::new(FaultyStore::ignoring_conditions()));
    let refused = crate::probe(&bucket).await.unwrap_err();
    assert_eq!(refused.remedy(), Remedy::Report);
    assert_eq!(
        refused.to_string(),
        "memory: cannot be used: it ignores the header `If-None-Match: *` of conditional puts, so \
         that two brokers could replace each other's objects. Use a store that supports \
         conditional puts, such as Amazon S3, MinIO, Ceph or versitygw, or a later version of \
         this one"
    );
    assert_eq!(names(&bucket, "").await, [""; 0], "it leaves nothing");
}

#[tokio::test(start_paused = true)]
async fn the_probe_refuses_a_store_that_ignores_ranges_or_keeps_what_was_deleted() {
    let bucket = Bucket::over(Arc::new(FaultyStore::ignoring_ranges()));
    let refused = crate::probe(&bucket).await.unwrap_err().to_string();
    assert!(refused.contains("bytes of the 20 that were asked for"), "{refused}");
    let bucket = Bucket::over(Arc::new(FaultyStore::keeping_deleted()));
    let refused = crate::probe(&bucket).await.unwrap_err().to_string();
    assert!(refused.ends_with("it still has an object that it reported as deleted"), "{refused}");
}

#[tokio::test]
async fn the_probe_reports_what_the_credentials_do_not_permit() {
    let (store, bucket) = faulty();
    store.next_puts([Fault::Denies]);
    let denied = crate::probe(&bucket).await.unwrap_err();
    assert!(matches!(denied, TierError::Denied { operation: Operation::Put, .. }), "{denied}");
}
