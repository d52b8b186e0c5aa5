//! Who owns a bucket's prefix: one cluster, so that two clusters never write to the same one.
//!
//! ```text
//! ropewalk.claims/0000000001.json    {"format":1,"cluster":"CLUSTER","epoch":1}
//! ropewalk.claims/0000000002.json    the next owner
//! ```
//!
//! The claim with the highest epoch counts. A claim is never changed: the next owner, usually a
//! cluster that was restored from the bucket, puts a claim with the next epoch. So a claim needs
//! conditional puts of new objects only, which every store that passes the probe has, and no
//! conditional replacement.
//!
//! A claim is no lock. An earlier owner that still runs notices the next claim when it calls
//! [`claim`] again, as it does before it begins to upload and then at intervals; until then it
//! writes below its own cluster id, where nothing is replaced.

use bytes::Bytes;
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::bucket::Bucket;
use crate::content::Content;
use crate::error::{Operation, TierError};
use crate::format::FormatError;
use crate::limits;
use crate::names::ClusterId;

/// Not the name of a cluster, because of the dot.
const FOLDER: &str = "ropewalk.claims";
const FORMAT: u32 = 1;
const WHAT: &str = "claim";

/// The owner of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The cluster that owns it.
    pub cluster: ClusterId,
    /// Counts the owners, from 1.
    pub epoch: u32,
}

#[derive(Serialize, Deserialize)]
struct ClaimFile {
    format: u32,
    cluster: String,
    epoch: u32,
}

impl Claim {
    fn name(&self) -> String {
        format!("{FOLDER}/{:010}.json", self.epoch)
    }

    fn content(&self) -> Content {
        let (cluster, epoch) = (self.cluster.to_string(), self.epoch);
        let file = ClaimFile { format: FORMAT, cluster, epoch };
        let text = serde_json::to_vec(&file).expect("a claim is representable as JSON");
        Content::from(Bytes::from(text))
    }

    fn read(name: &str, bytes: &[u8]) -> Result<Self, FormatError> {
        let invalid = |why: String| FormatError::invalid(WHAT, why);
        let file: ClaimFile =
            serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
        if file.format != FORMAT {
            let (found, newest) = (file.format, FORMAT);
            return Err(FormatError::Version { what: WHAT, found, newest });
        }
        let cluster = ClusterId::new(&file.cluster).map_err(|error| invalid(error.to_string()))?;
        let claim = Self { cluster, epoch: file.epoch };
        if claim.name() != name {
            return Err(invalid(format!("it has epoch {}", claim.epoch)));
        }
        Ok(claim)
    }
}

/// Who owns the prefix; `None` while no cluster does.
///
/// # Errors
/// When the bucket cannot be read, or the claim is damaged or of a newer version.
pub async fn current(bucket: &Bucket) -> Result<Option<Claim>, TierError> {
    let mut names = bucket.list(FOLDER);
    let mut newest: Option<String> = None;
    while let Some(listed) = names.try_next().await? {
        newest = newest.max(Some(listed.name));
    }
    let Some(name) = newest else { return Ok(None) };
    let bytes = bucket.get(&name, limits::CLAIM_BYTES_MAX).await?;
    let damaged = |error| bucket.context(Operation::Get, &name).damaged(error);
    Claim::read(&name, &bytes).map(Some).map_err(damaged)
}

/// Claims the prefix for a cluster, or confirms that it owns the prefix already. Several brokers of
/// the cluster may do so at the same time.
///
/// # Errors
/// [`TierError::OtherCluster`] when another cluster owns it.
#[tracing::instrument(skip_all, fields(bucket = bucket.url(), %cluster))]
pub async fn claim(bucket: &Bucket, cluster: &ClusterId) -> Result<Claim, TierError> {
    if let Some(found) = current(bucket).await? {
        return own(bucket, cluster, found);
    }
    put(bucket, Claim { cluster: cluster.clone(), epoch: 1 }).await
}

/// Makes a cluster the owner after `from`, for a restore. The caller has made sure that the earlier
/// cluster is gone, or stops writing.
///
/// # Errors
/// [`TierError::OtherCluster`] when `from` is no longer the newest claim.
#[tracing::instrument(skip_all, fields(bucket = bucket.url(), %cluster, from = from.epoch))]
pub async fn take_over(
    bucket: &Bucket,
    cluster: &ClusterId,
    from: &Claim,
) -> Result<Claim, TierError> {
    match current(bucket).await? {
        Some(found) if found == *from => {
            put(bucket, Claim { cluster: cluster.clone(), epoch: from.epoch + 1 }).await
        }
        Some(found) => own(bucket, cluster, found),
        None => Err(bucket.context(Operation::Get, &from.name()).missing()),
    }
}

async fn put(bucket: &Bucket, claim: Claim) -> Result<Claim, TierError> {
    match bucket.put_if_absent(&claim.name(), &claim.content()).await {
        Ok(_) => {
            tracing::info!(bucket = bucket.url(), ?claim, "bucket claimed");
            Ok(claim)
        }
        // Another cluster was faster.
        Err(TierError::OtherContent { .. }) => match current(bucket).await? {
            Some(found) => own(bucket, &claim.cluster, found),
            None => Err(bucket.context(Operation::Get, &claim.name()).missing()),
        },
        Err(error) => Err(error),
    }
}

/// The claim that was found, if it is the cluster's own.
fn own(bucket: &Bucket, cluster: &ClusterId, found: Claim) -> Result<Claim, TierError> {
    if found.cluster == *cluster {
        return Ok(found);
    }
    Err(TierError::OtherCluster {
        bucket: bucket.url().to_owned(),
        owner: found.cluster.to_string(),
        epoch: found.epoch,
        own: cluster.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(id: &str) -> ClusterId {
        ClusterId::new(id).unwrap()
    }

    #[tokio::test]
    async fn a_prefix_belongs_to_one_cluster() {
        let bucket = Bucket::memory();
        assert_eq!(current(&bucket).await.unwrap(), None);
        let first = claim(&bucket, &cluster("one")).await.unwrap();
        assert_eq!(first, Claim { cluster: cluster("one"), epoch: 1 });
        assert_eq!(claim(&bucket, &cluster("one")).await.unwrap(), first);
        let refused = claim(&bucket, &cluster("two")).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "memory: belongs to cluster one (claim 1), and this is cluster two. Use another \
             bucket or prefix for each cluster; to continue that cluster from its bucket, \
             restore it"
        );
    }

    #[tokio::test]
    async fn a_restored_cluster_takes_over_and_the_earlier_one_notices() {
        let bucket = Bucket::memory();
        let first = claim(&bucket, &cluster("one")).await.unwrap();
        let second = take_over(&bucket, &cluster("two"), &first).await.unwrap();
        assert_eq!(second, Claim { cluster: cluster("two"), epoch: 2 });
        assert!(claim(&bucket, &cluster("one")).await.is_err());
        assert_eq!(take_over(&bucket, &cluster("two"), &first).await.unwrap(), second, "again");
        let late = take_over(&bucket, &cluster("three"), &first).await.unwrap_err();
        assert!(matches!(late, TierError::OtherCluster { epoch: 2, .. }), "{late}");
    }

    #[tokio::test]
    async fn of_two_clusters_at_the_same_time_one_gets_the_prefix() {
        let bucket = Bucket::memory();
        let ours = Claim { cluster: cluster("one"), epoch: 1 };
        claim(&bucket, &cluster("two")).await.unwrap();
        // As if both had found no claim.
        let refused = put(&bucket, ours).await.unwrap_err();
        assert!(matches!(refused, TierError::OtherCluster { .. }), "{refused}");
    }

    #[tokio::test]
    async fn a_damaged_or_newer_claim_is_no_missing_claim() {
        for (text, expected) in [
            ("{}", "memory:: ropewalk.claims/0000000001.json: the claim is invalid: missing field"),
            (
                r#"{"format":2,"cluster":"one","epoch":1}"#,
                "memory:: ropewalk.claims/0000000001.json: the claim has version 2",
            ),
            (
                r#"{"format":1,"cluster":"one","epoch":7}"#,
                "memory:: ropewalk.claims/0000000001.json: the claim is invalid: it has epoch 7",
            ),
        ] {
            let bucket = Bucket::memory();
            let content = Content::from(Bytes::from(text));
            bucket.put_if_absent("ropewalk.claims/0000000001.json", &content).await.unwrap();
            let refused = claim(&bucket, &cluster("one")).await.unwrap_err().to_string();
            assert!(refused.starts_with(expected), "{refused}");
        }
    }
}
