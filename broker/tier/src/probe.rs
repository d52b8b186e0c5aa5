//! Examines at start what a store can do, so that one that would lose data is refused.
//!
//! Some stores accept conditional puts and ignore the condition: with two leaders one would replace
//! the objects of the other. The probe puts a small object, puts another one under the same name,
//! reads it back whole and in part, finds it in a list, and deletes it. A process that ends
//! meanwhile leaves the object in the folder `ropewalk.probe`, where it may be deleted.

use std::ops::Range;

use bytes::Bytes;
use futures_util::TryStreamExt;
use uuid::Uuid;

use crate::bucket::{Bucket, PutOutcome};
use crate::content::Content;
use crate::error::TierError;

/// Not the name of a cluster, because of the dot.
const FOLDER: &str = "ropewalk.probe";
const PART: Range<u64> = 5..25;

/// What a store can do, of what not every store can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeReport {
    /// Whether objects keep their metadata. Without it the bucket reads an object whose name is
    /// taken to compare its content, which costs more but is as safe.
    pub has_metadata: bool,
}

/// Checks conditional puts, reads, ranged reads, lists and deletion. Takes some ten requests.
///
/// # Errors
/// [`TierError::Unsuitable`] when the store cannot be used, with what to do; other errors as they
/// occur, for example when the credentials permit too little.
#[tracing::instrument(skip_all, fields(bucket = bucket.url()))]
pub async fn probe(bucket: &Bucket) -> Result<ProbeReport, TierError> {
    let id = Uuid::new_v4();
    let name = format!("{FOLDER}/{id}");
    let outcome = examine(bucket, &name, id).await;
    let deleted = bucket.delete(&name).await;
    let report = outcome?; // The first cause is reported, not a failed deletion after it.
    deleted?;
    if bucket.size_bytes(&name).await?.is_some() {
        return refuse(bucket, "it still has an object that it reported as deleted".to_owned());
    }
    tracing::info!(bucket = bucket.url(), ?report, "bucket probed");
    Ok(report)
}

async fn examine(bucket: &Bucket, name: &str, id: Uuid) -> Result<ProbeReport, TierError> {
    let ours = Content::from(Bytes::from(format!("A probe of ropewalk, {id}. It may be deleted.")));
    let other = Content::from(Bytes::from(format!("Another probe, {id}, which must not be kept.")));
    if bucket.put_if_absent(name, &ours).await? != PutOutcome::Created {
        return refuse(bucket, "it already had an object with a random name".to_owned());
    }
    if bucket.create(name, &other).await? {
        let reason = "it ignores the header `If-None-Match: *` of conditional puts, so that two \
                      brokers could replace each other's objects. Use a store that supports \
                      conditional puts, such as Amazon S3, MinIO, Ceph or versitygw, or a later \
                      version of this one";
        return refuse(bucket, reason.to_owned());
    }
    let whole = bucket.get(name, 2 * ours.size_bytes()).await?;
    if whole != ours.to_bytes() {
        return refuse(bucket, "an object is not read as it was put".to_owned());
    }
    let part = bucket.get_range(name, PART).await?;
    if part != whole.slice(PART.start as usize..PART.end as usize) {
        let reason = "it answers a request for a range of bytes with other bytes";
        return refuse(bucket, reason.to_owned());
    }
    let listed: Vec<_> = bucket.list(FOLDER).try_collect().await?;
    if !listed.iter().any(|listed| listed.name == name && listed.size_bytes == ours.size_bytes()) {
        return refuse(bucket, "a new object is missing in a list, or has another size".to_owned());
    }
    let head = bucket.head(name).await?;
    Ok(ProbeReport { has_metadata: head.is_some_and(|(_, digest)| digest.is_some()) })
}

fn refuse<T>(bucket: &Bucket, reason: String) -> Result<T, TierError> {
    Err(TierError::Unsuitable { bucket: bucket.url().to_owned(), reason })
}
