//! What is in the folders of a cluster: the names of its objects and pages by partition.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;

use crate::bucket::Bucket;
use crate::error::TierError;
use crate::names::{CheckpointName, ClusterId, Kind, Name, PartitionKey};

/// An object or page in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What the name says.
    pub name: Name,
    /// Size of the object or page.
    pub size_bytes: u64,
    /// When the store received it, Unix milliseconds by the store's clock.
    pub modified_ms: i64,
}

/// What is in the folder of a partition, in no order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folder {
    /// Objects with records.
    pub objects: Vec<Found>,
    /// Pages of manifests.
    pub pages: Vec<Found>,
}

/// What is in the folders of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folders {
    /// The folder of each partition that has one.
    pub partitions: BTreeMap<PartitionKey, Folder>,
    /// Number of checkpoints.
    pub checkpoints: u64,
    /// Names that this broker does not write.
    pub unknown: Vec<String>,
}

/// Lists what a cluster has in a bucket. All names are held in memory, some 250 bytes for each.
///
/// # Errors
/// When the bucket cannot be listed.
pub async fn list_folders(bucket: &Bucket, cluster: &ClusterId) -> Result<Folders, TierError> {
    let mut folders = Folders::default();
    let mut listed = bucket.list(cluster.as_str());
    while let Some(listed) = listed.try_next().await? {
        let Ok(name) = Name::parse(&listed.name) else {
            match CheckpointName::parse(&listed.name) {
                Ok(_) => folders.checkpoints += 1,
                Err(_) => folders.unknown.push(listed.name),
            }
            continue;
        };
        let folder = folders.partitions.entry(name.partition.clone()).or_default();
        let kind = name.kind;
        let found = Found { name, size_bytes: listed.size_bytes, modified_ms: listed.modified_ms };
        match kind {
            Kind::Object => folder.objects.push(found),
            Kind::Page(_) => folder.pages.push(found),
        }
    }
    Ok(folders)
}
