//! Who owns a bucket's prefix: one cluster, so that two clusters never write to the same one.
//!
//! ```text
//! ropewalk.claims/0000000001.json    {"format":1,"cluster":"CLUSTER","epoch":1,"holder":"HOLDER"}
//! ropewalk.claims/0000000002.json    the next owner
//! ```
//!
//! The claim with the highest epoch counts. A claim is never changed: the next owner, which is the
//! same cluster after a restore, puts a claim with the next epoch. So a claim needs conditional
//! puts of new objects only, which every store that passes the probe has, and no conditional
//! replacement.
//!
//! HOLDER is a random number, 16 hexadecimal digits, because a restored cluster has the id of the
//! lost one. A cluster stores its claim before it puts it here. So it may repeat the put after a
//! crash, and owns nothing that it did not store: two restores at the same time, or an empty
//! cluster with the id of a lost one, do not take the claim of the other for their own.
//!
//! A claim is no lock. An earlier owner that still runs notices the next claim when it calls
//! [`hold`] again, as it does before it begins to upload and then at intervals; until then it
//! writes below its own histories and terms, where nothing is replaced.

use std::fmt;

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
    /// The random number of the owner.
    pub holder: u64,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, epoch, holder } = self;
        write!(f, "claim {epoch} of cluster {cluster}, held by {holder:016x}")
    }
}

#[derive(Serialize, Deserialize)]
struct ClaimFile {
    format: u32,
    cluster: String,
    epoch: u32,
    holder: String,
}

impl Claim {
    fn name(&self) -> String {
        format!("{FOLDER}/{:010}.json", self.epoch)
    }

    fn content(&self) -> Content {
        let (cluster, epoch) = (self.cluster.to_string(), self.epoch);
        let holder = format!("{:016x}", self.holder);
        let file = ClaimFile { format: FORMAT, cluster, epoch, holder };
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
        let holder = u64::from_str_radix(&file.holder, 16);
        let holder = holder.map_err(|error| invalid(format!("its holder: {error}")))?;
        let claim = Self { cluster, epoch: file.epoch, holder };
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

/// Confirms that this claim, which the caller has stored, is the one that counts. Puts it if there
/// is none, or only an earlier one of the same cluster. Several brokers of the cluster may do so at
/// the same time.
///
/// # Errors
/// [`TierError::OtherCluster`] when another cluster owns the prefix, [`TierError::Fenced`] when a
/// restore of this cluster does.
#[tracing::instrument(skip_all, fields(bucket = bucket.url(), %claim))]
pub async fn hold(bucket: &Bucket, claim: &Claim) -> Result<(), TierError> {
    if is_held(bucket, claim, current(bucket).await?.as_ref())? {
        return Ok(());
    }
    match bucket.put_if_absent(&claim.name(), &claim.content()).await {
        Ok(_) => {
            tracing::info!(bucket = bucket.url(), %claim, "bucket claimed");
            Ok(())
        }
        // Another one was faster.
        Err(error @ TierError::OtherContent { .. }) => {
            is_held(bucket, claim, current(bucket).await?.as_ref())?;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// Makes sure that no other cluster owns the prefix. Puts nothing there.
///
/// # Errors
/// [`TierError::OtherCluster`] when another cluster does.
pub async fn check_owner(bucket: &Bucket, cluster: &ClusterId) -> Result<(), TierError> {
    let found = current(bucket).await?;
    found.map_or(Ok(()), |found| same_cluster(bucket, cluster, &found))
}

fn same_cluster(bucket: &Bucket, own: &ClusterId, found: &Claim) -> Result<(), TierError> {
    if found.cluster == *own {
        return Ok(());
    }
    Err(TierError::OtherCluster {
        bucket: bucket.url().to_owned(),
        owner: found.cluster.to_string(),
        epoch: found.epoch,
        own: own.to_string(),
    })
}

/// Whether the bucket has this claim already. An error if the one that was found comes before it.
fn is_held(bucket: &Bucket, own: &Claim, found: Option<&Claim>) -> Result<bool, TierError> {
    let Some(found) = found else { return Ok(false) };
    same_cluster(bucket, &own.cluster, found)?;
    if found.epoch > own.epoch || (found.epoch == own.epoch && found.holder != own.holder) {
        let (claim, own) = (found.to_string(), own.to_string());
        return Err(TierError::Fenced { bucket: bucket.url().to_owned(), claim, own });
    }
    Ok(found.epoch == own.epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(id: &str, epoch: u32, holder: u64) -> Claim {
        Claim { cluster: ClusterId::new(id).unwrap(), epoch, holder }
    }

    async fn refused(bucket: &Bucket, claim: &Claim) -> String {
        hold(bucket, claim).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_prefix_belongs_to_one_cluster() {
        let bucket = Bucket::memory();
        assert_eq!(current(&bucket).await.unwrap(), None);
        let first = claim("one", 1, 5);
        hold(&bucket, &first).await.unwrap();
        assert_eq!(current(&bucket).await.unwrap(), Some(first.clone()));
        hold(&bucket, &first).await.unwrap();
        assert_eq!(
            refused(&bucket, &claim("two", 1, 5)).await,
            "memory: belongs to cluster one (claim 1), and this is cluster two. Use another \
             bucket or prefix for each cluster; to continue that cluster from its bucket, \
             restore it"
        );
        let two = ClusterId::new("two").unwrap();
        assert!(check_owner(&bucket, &two).await.is_err());
        check_owner(&bucket, &first.cluster).await.unwrap();
        let later = refused(&bucket, &claim("two", 9, 5)).await;
        assert!(later.contains("belongs to cluster one"), "{later}");
    }

    #[tokio::test]
    async fn t2_a_restored_cluster_takes_over_and_the_earlier_one_notices() {
        let bucket = Bucket::memory();
        let (lost, restored) = (claim("one", 1, 5), claim("one", 2, 6));
        hold(&bucket, &lost).await.unwrap();
        hold(&bucket, &restored).await.unwrap();
        assert_eq!(
            refused(&bucket, &lost).await,
            "memory: was taken over by claim 2 of cluster one, held by 0000000000000006, and \
             this broker has claim 1 of cluster one, held by 0000000000000005: the cluster was \
             restored elsewhere. This one uploads and deletes nothing any more. Stop it, or \
             restore it again from the bucket if it is to be used"
        );
        hold(&bucket, &restored).await.unwrap();
        assert_eq!(current(&bucket).await.unwrap(), Some(restored));
    }

    #[tokio::test]
    async fn t2_of_two_restores_or_new_clusters_with_the_same_id_one_gets_the_prefix() {
        let bucket = Bucket::memory();
        hold(&bucket, &claim("one", 1, 5)).await.unwrap();
        // A new cluster, formatted with the id of the lost one.
        let empty = refused(&bucket, &claim("one", 1, 8)).await;
        assert!(empty.contains("was taken over"), "{empty}");
        hold(&bucket, &claim("one", 2, 6)).await.unwrap();
        assert!(refused(&bucket, &claim("one", 2, 7)).await.contains("held by 0000000000000006"));
    }

    #[tokio::test]
    async fn a_claim_that_another_one_was_faster_to_put_is_not_held() {
        let bucket = Bucket::memory();
        hold(&bucket, &claim("one", 2, 6)).await.unwrap();
        // As if both had found no claim 2.
        let slower = claim("one", 2, 7);
        let put = bucket.put_if_absent(&slower.name(), &slower.content()).await.unwrap_err();
        assert!(matches!(put, TierError::OtherContent { .. }), "{put}");
        assert!(refused(&bucket, &slower).await.contains("held by 0000000000000006"));
    }

    /// The cluster uses another bucket, or the bucket lost its claims.
    #[tokio::test]
    async fn a_bucket_without_the_claim_of_a_restored_cluster_gets_it() {
        let bucket = Bucket::memory();
        let restored = claim("one", 4, 6);
        hold(&bucket, &restored).await.unwrap();
        assert_eq!(current(&bucket).await.unwrap(), Some(restored));
    }

    #[tokio::test]
    async fn a_damaged_or_newer_claim_is_no_missing_claim() {
        for (text, expected) in [
            ("{}", "memory:: ropewalk.claims/0000000001.json: the claim is invalid: missing field"),
            (
                r#"{"format":2,"cluster":"one","epoch":1,"holder":"5"}"#,
                "memory:: ropewalk.claims/0000000001.json: the claim has version 2",
            ),
            (
                r#"{"format":1,"cluster":"one","epoch":7,"holder":"5"}"#,
                "memory:: ropewalk.claims/0000000001.json: the claim is invalid: it has epoch 7",
            ),
            (
                r#"{"format":1,"cluster":"one","epoch":1,"holder":"x"}"#,
                "memory:: ropewalk.claims/0000000001.json: the claim is invalid: its holder",
            ),
        ] {
            let bucket = Bucket::memory();
            let content = Content::from(Bytes::from(text));
            bucket.put_if_absent("ropewalk.claims/0000000001.json", &content).await.unwrap();
            let refused = refused(&bucket, &claim("one", 1, 5)).await;
            assert!(refused.starts_with(expected), "{refused}");
        }
    }
}
