//! The bucket against real S3 servers, which `tests/tier/run` starts.
//!
//! `ROPEWALK_TIER_URL` is a bucket with a prefix, `ROPEWALK_TIER_ENDPOINT` the server,
//! `ROPEWALK_TIER_KEYS` a directory with the files `access` and `secret`. `ROPEWALK_TIER_CA` is a
//! file with an authority, and `ROPEWALK_TIER_STYLE` is `virtual-host` if the bucket is in the host
//! name. Tests called `s3_…` are for a server that has to be accepted, `unconditional_…` for one
//! that ignores the condition of a conditional put.

use std::env;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::future::{join_all, try_join_all};
use ropewalk_batch::{Builder, StampedBatch};
use ropewalk_tier::{
    AddressStyle, Bucket, BucketSettings, BucketUrl, Claim, ClusterId, Content, Credentials,
    Encoder, Listed, Origin, PartitionKey, Push, PutOutcome, ReaderLimits, Remedy, TierError,
    TierReader, current_claim, hold_claim, probe, verify,
};
use uuid::Uuid;

/// Settings for a prefix that only this test uses.
fn settings(test: &str) -> BucketSettings {
    let var = |name: &str| env::var(name).ok();
    let url = var("ROPEWALK_TIER_URL").expect("tests/tier/run sets ROPEWALK_TIER_URL");
    let keys = var("ROPEWALK_TIER_KEYS").expect("tests/tier/run sets ROPEWALK_TIER_KEYS");
    let keys = PathBuf::from(keys);
    let url: BucketUrl = format!("{url}/{test}").parse().expect("a URL of a bucket");
    BucketSettings {
        endpoint: var("ROPEWALK_TIER_ENDPOINT"),
        region: Some("us-east-1".to_owned()),
        style: if var("ROPEWALK_TIER_STYLE").is_some_and(|style| style == "virtual-host") {
            AddressStyle::VirtualHost
        } else {
            AddressStyle::Path
        },
        credentials: Credentials::Files {
            access_key: keys.join("access"),
            secret_key: keys.join("secret"),
            session_token: None,
        },
        ca_file: var("ROPEWALK_TIER_CA").map(PathBuf::from),
        ..BucketSettings::new(url)
    }
}

fn bucket(test: &str) -> Bucket {
    Bucket::open(&settings(test)).expect("settings that can be used")
}

fn content(text: &str) -> Content {
    Content::from(Bytes::from(text.to_owned()))
}

async fn list(bucket: &Bucket, folder: &str) -> Vec<Listed> {
    bucket.list(folder).try_collect().await.expect("a list")
}

#[tokio::test]
#[ignore = "tests/tier/run starts the server"]
async fn s3_the_store_is_probed_and_accepted() {
    let bucket = bucket("probe");
    let report = probe(&bucket).await.expect("the store can be used");
    assert!(report.has_metadata);
    assert_eq!(list(&bucket, "").await, [], "the probe leaves nothing");
}

#[tokio::test]
#[ignore = "tests/tier/run starts the server"]
async fn s3_objects_are_put_once_read_listed_and_deleted() {
    let bucket = bucket("objects");
    let ours = content("some content");
    assert_eq!(bucket.put_if_absent("a/b", &ours).await.unwrap(), PutOutcome::Created);
    assert_eq!(bucket.put_if_absent("a/b", &ours).await.unwrap(), PutOutcome::AlreadyThere);
    for other in ["same length!", "another length"] {
        let refused = bucket.put_if_absent("a/b", &content(other)).await.unwrap_err();
        assert!(matches!(refused, TierError::OtherContent { .. }), "{refused}");
    }
    assert_eq!(bucket.put_if_absent("ab", &ours).await.unwrap(), PutOutcome::Created);
    assert_eq!(bucket.get("a/b", 12).await.unwrap(), "some content");
    assert_eq!(bucket.get_range("a/b", 5..9).await.unwrap(), "cont");
    for behind in [8..13, 12..14] {
        let refused = bucket.get_range("a/b", behind).await.unwrap_err();
        assert!(matches!(refused, TierError::Damaged { .. }), "{refused}");
    }
    let listed = list(&bucket, "a").await;
    let [Listed { name, size_bytes: 12, modified_ms }] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!(name, "a/b");
    assert!(*modified_ms > 1_700_000_000_000, "{modified_ms}");
    bucket.delete("a/b").await.unwrap();
    bucket.delete("a/b").await.unwrap();
    assert_eq!(bucket.size_bytes("a/b").await.unwrap(), None);
    let missing = bucket.get("a/b", 99).await.unwrap_err();
    assert!(matches!(missing, TierError::Missing { .. }), "{missing}");
    assert_eq!(list(&bucket, "").await.len(), 1);
}

#[tokio::test]
#[ignore = "tests/tier/run starts the server"]
async fn s3_t1_of_puts_at_the_same_time_one_creates_the_object() {
    let bucket = bucket("race");
    for round in 0..5 {
        let name = format!("race-{round}");
        let contents: Vec<Content> =
            (0..8).map(|n| content(&format!("writer {}", n / 2))).collect();
        let puts = contents.iter().map(|content| bucket.put_if_absent(&name, content));
        let outcomes = join_all(puts).await;
        let kept = bucket.get(&name, 99).await.expect("one of them");
        let mut created = 0;
        for (content, outcome) in contents.iter().zip(outcomes) {
            match outcome {
                Ok(outcome) => {
                    assert_eq!(content.to_bytes(), kept);
                    created += u32::from(outcome == PutOutcome::Created);
                }
                Err(TierError::OtherContent { .. }) => assert_ne!(content.to_bytes(), kept),
                Err(other) => panic!("{other}"),
            }
        }
        // None, if its answer was 409 because of the others, and its second attempt found it.
        assert!(created <= 1, "{created} puts created one object");
    }
}

#[tokio::test]
#[ignore = "tests/tier/run starts the server"]
async fn s3_a_prefix_has_one_owner() {
    let bucket = bucket("claim");
    let cluster = ClusterId::new("one").unwrap();
    let first = Claim { cluster: cluster.clone(), epoch: 1, holder: 5 };
    hold_claim(&bucket, &first).await.unwrap();
    hold_claim(&bucket, &first).await.unwrap();
    let other = Claim { cluster: ClusterId::new("two").unwrap(), ..first.clone() };
    let refused = hold_claim(&bucket, &other).await.unwrap_err();
    assert!(matches!(refused, TierError::OtherCluster { .. }), "{refused}");
    let restored = Claim { epoch: 2, holder: 6, ..first.clone() };
    hold_claim(&bucket, &restored).await.unwrap();
    let fenced = hold_claim(&bucket, &first).await.unwrap_err();
    assert!(matches!(fenced, TierError::Fenced { .. }), "{fenced}");
    let slower = Claim { holder: 7, ..restored.clone() };
    assert!(hold_claim(&bucket, &slower).await.is_err());
    assert_eq!(current_claim(&bucket).await.unwrap(), Some(restored));
}

/// 24 MiB: more than one read, more than one chunk, and a body of several pieces.
#[tokio::test]
#[ignore = "tests/tier/run starts the server"]
async fn s3_o4_a_large_object_is_read_as_it_was_written() {
    let bucket = bucket("large");
    let cluster = ClusterId::new("large").unwrap();
    let partition = PartitionKey { cluster, topic: Uuid::from_u128(1), index: 0 };
    let mut encoder = Encoder::new(partition.clone(), Origin { history: 1, term: 1 }, 0);
    let mut expected = Vec::new();
    for offset in 0..384 {
        let value: Vec<u8> = (0..64 << 10).map(|at| (at as i64 * offset) as u8).collect();
        let bytes = Builder::new().record(offset, None, Some(&value)).build();
        let batch = StampedBatch::new(bytes, offset, 1).unwrap();
        assert_eq!(encoder.push(&batch), Ok(Push::Added));
        expected.extend([&batch.prefix()[..], &batch.body()].concat());
    }
    let object = encoder.finish(384).unwrap();
    let begun = Instant::now();
    bucket.put_if_absent(&object.name.to_string(), &object.content).await.unwrap();
    let put = begun.elapsed();

    let reader = TierReader::new(bucket.clone(), ReaderLimits::default());
    let (mut offset, mut read) = (0, Vec::new());
    let begun = Instant::now();
    while offset < 384 {
        let stretch = reader.read(&partition, &object.reference, offset, 1 << 20).await.unwrap();
        offset = stretch.next_offset;
        read.extend(stretch.pieces.concat());
    }
    println!("24 MiB put in {put:?}, read in {:?}: {:?}", begun.elapsed(), bucket.counts());
    assert!(read == expected, "the records differ");
    let found = reader.offset_at(&partition, &object.reference, 0, 300).await.unwrap();
    assert_eq!(found.map(|found| found.offset), Some(300));
    let whole = bucket.get(&object.name.to_string(), object.reference.size_bytes).await.unwrap();
    verify(&whole, &object.name).expect("a valid object");
}

/// S3 lists a thousand names in one answer.
#[tokio::test]
#[ignore = "tests/tier/run starts the server"]
async fn s3_a_list_has_several_answers() {
    let bucket = bucket("list");
    let names: Vec<String> = (0..1_100).map(|number| format!("many/{number:04}")).collect();
    let content = content("");
    for some in names.chunks(50) {
        let puts = some.iter().map(|name| bucket.put_if_absent(name, &content));
        try_join_all(puts).await.expect("they are put");
    }
    let listed: Vec<String> = list(&bucket, "many").await.into_iter().map(|l| l.name).collect();
    assert_eq!(listed, names);
}

#[tokio::test]
#[ignore = "tests/tier/run starts the server"]
async fn s3_keys_are_replaced_while_the_bucket_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let good = settings("keys");
    let Credentials::Files { access_key, secret_key, .. } = &good.credentials else {
        unreachable!("the settings of this test");
    };
    let ours = Credentials::Files {
        access_key: access_key.clone(),
        secret_key: dir.path().join("secret"),
        session_token: None,
    };
    std::fs::write(dir.path().join("secret"), "not-the-secret-key").unwrap();
    let bucket = Bucket::open(&BucketSettings { credentials: ours, ..good.clone() }).unwrap();
    let denied = probe(&bucket).await.unwrap_err();
    assert!(matches!(denied, TierError::Denied { .. }), "{denied}");
    assert_eq!(denied.remedy(), Remedy::Report);
    assert!(!denied.to_string().contains("not-the-secret-key"), "{denied}");
    std::fs::copy(secret_key, dir.path().join("secret")).unwrap();
    let deadline = Instant::now() + 3 * ropewalk_tier::limits::KEYS_READ_AGAIN;
    while let Err(error) = probe(&bucket).await {
        assert!(Instant::now() < deadline, "the new key is not used: {error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
#[ignore = "tests/tier/run starts the server"]
async fn s3_a_missing_bucket_and_a_missing_server_are_named() {
    let mut settings = settings("missing");
    settings.url = "s3://no-such-bucket-here/x".parse().unwrap();
    let missing = probe(&Bucket::open(&settings).unwrap()).await.unwrap_err();
    let text = "s3://no-such-bucket-here/x cannot be used: the store has no bucket with this \
                name. Create it first";
    assert_eq!(missing.to_string(), text);
    settings.endpoint = Some("http://127.0.0.1:9".to_owned());
    let failed = probe(&Bucket::open(&settings).unwrap()).await.unwrap_err();
    assert_eq!(failed.remedy(), Remedy::RetryLater);
}

#[tokio::test]
#[ignore = "tests/tier/run starts the server"]
async fn s3_a_certificate_of_an_unknown_authority_is_refused() {
    let mut settings = settings("authority");
    if settings.ca_file.take().is_none() {
        return; // This server has no TLS; the other one has.
    }
    let failed = probe(&Bucket::open(&settings).unwrap()).await.unwrap_err();
    let text = failed.to_string();
    assert_eq!(failed.remedy(), Remedy::Report);
    assert!(text.contains("its certificate is not accepted"), "{text}");
}

/// The keys of the first exchange are about to expire after a second: the library then asks for
/// new ones, which `tests/tier/run` counts.
#[tokio::test]
#[ignore = "tests/tier/run starts the server"]
async fn web_identity_is_exchanged_for_keys_again_and_again() {
    let mut settings = settings("web-identity");
    let Credentials::Files { access_key, .. } = settings.credentials else {
        unreachable!("the settings of this test");
    };
    let sts = env::var("ROPEWALK_TIER_STS").expect("tests/tier/run sets ROPEWALK_TIER_STS");
    let identity = |role: &str| Credentials::WebIdentity {
        token_file: access_key.with_file_name("token"),
        role_arn: role.to_owned(),
        sts_endpoint: Some(sts.clone()),
    };
    settings.credentials = identity("arn:aws:iam::123456789012:role/another-role");
    let other = Bucket::open(&settings).unwrap();
    let denied = other.size_bytes("nothing").await.unwrap_err();
    assert!(matches!(denied, TierError::Denied { .. }), "{denied}");

    settings.credentials = identity("arn:aws:iam::123456789012:role/ropewalk-tests");
    let bucket = Bucket::open(&settings).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert_eq!(bucket.size_bytes("nothing").await.unwrap(), None);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
#[ignore = "tests/tier/run starts the server"]
async fn unconditional_puts_are_refused() {
    let bucket = bucket("unconditional");
    let refused = probe(&bucket).await.unwrap_err();
    assert!(matches!(refused, TierError::Unsuitable { .. }), "{refused}");
    let text = refused.to_string();
    assert!(text.contains("ignores the header `If-None-Match: *`"), "{text}");
    assert_eq!(list(&bucket, "").await, [], "the probe leaves nothing");
}
