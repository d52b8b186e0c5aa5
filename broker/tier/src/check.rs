//! Checks what a cluster has in a bucket: names, manifests and data against each other.
//!
//! ```text
//! checkpoints ─▶ list ─▶ folders of partitions ─▶ pages ─▶ verdict (pure) ─▶ data of each object
//! ```
//!
//! Manifests are those of the newest checkpoints. The list is taken once, after them. A cluster
//! that runs meanwhile adds objects and deletes others, so what was put or deleted after the list
//! is neither expected nor missed.
//!
//! # What is a problem
//!
//! - *missing*: a manifest names an object or page that the bucket does not have.
//! - *damaged*: a checksum is wrong, also of a checkpoint, or an object is not what its name or the
//!   manifest says.
//! - *gap*: offsets between two objects, or between a manifest and the next object, are in none.
//! - *overlap*: an object that no manifest names begins before the end of the others, and ends
//!   after it.
//! - *orphan*: an object or page that no manifest names, and that has been there for longer than
//!   the grace period.
//! - *unknown*: a name that this broker does not write.
//!
//! Objects that continue a manifest are no problem: the leader adds them next. Neither are objects
//! that no manifest names while they are younger than the grace period: a leader that lost its
//! office leaves them, and they are deleted later.
//!
//! Without a manifest, the chain of objects with the most offsets is taken for the partition.
//! `DeleteRecords` leaves a gap before it, which is then a problem.
//!
//! # Limits
//!
//! The names of all objects of the cluster are held in memory, some 250 bytes for each, and the
//! pages of one partition. Of the data one object is in memory for each processor, at most
//! [`limits::CHECKS_AT_ONCE`].

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;

use bytes::Bytes;
use futures_util::TryStreamExt;
use serde::Serialize;
use uuid::Uuid;

use crate::bucket::Bucket;
use crate::error::TierError;
use crate::folders::{Folder, Folders, list_folders};
use crate::limits;
use crate::manifest::{Manifest, ReadPages, read_pages};
use crate::names::{ClusterId, Name, PartitionKey};
use crate::newest::{NewestCheckpoints, newest_checkpoints};
use crate::object::{Footer, verify};
use crate::reader::fetch_footer;

mod verdict;

use verdict::{Contents, Expected, Verdict, judge};

/// How a bucket is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckOptions {
    /// Whether only the footers of objects are read, and not their records.
    pub quick: bool,
    /// How long an object that no manifest names may be in the bucket, milliseconds.
    pub grace_ms: i64,
    /// The time now, Unix milliseconds.
    pub now_ms: i64,
}

/// What the newest checkpoints of a cluster say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Manifests {
    /// The manifest of each partition that has one.
    partitions: BTreeMap<PartitionKey, Manifest>,
    /// The topics that exist, if that is known.
    topics: Option<BTreeSet<Uuid>>,
    /// Checkpoints that are damaged.
    damaged: Vec<Problem>,
}

impl Manifests {
    async fn read(bucket: &Bucket, cluster: &ClusterId) -> Result<Self, TierError> {
        let NewestCheckpoints { catalog, shards, damaged } =
            newest_checkpoints(bucket, cluster).await?;
        let topics = catalog.map(|(catalog, _)| catalog.topics);
        let mut manifests = Self {
            topics: topics.map(|topics| topics.into_iter().map(|topic| topic.id).collect()),
            ..Self::default()
        };
        for partition in shards.into_iter().flat_map(|(shard, _)| shard.partitions) {
            if let Some(manifest) = partition.manifest() {
                let (topic, index) = (partition.topic, partition.index);
                let key = PartitionKey { cluster: cluster.clone(), topic, index };
                manifests.partitions.insert(key, manifest);
            }
        }
        manifests.damaged = damaged
            .into_iter()
            .map(|(name, why)| {
                let (kind, name) = (ProblemKind::Damaged, name.to_string());
                Problem { kind, name, why }
            })
            .collect();
        Ok(manifests)
    }
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Partitions that have anything in the bucket.
    pub partitions: u64,
    /// Objects with records.
    pub objects: u64,
    /// Size of these objects together.
    pub objects_bytes: u64,
    /// Number of manifest pages.
    pub pages: u64,
    /// Checkpoints of the catalog and of shards.
    pub checkpoints: u64,
    /// Objects and pages that no manifest names, and that are younger than the grace period.
    pub young_orphans: u64,
    /// Bytes that were read from the bucket and verified.
    pub verified_bytes: u64,
    /// Number of problems by kind.
    pub counts: BTreeMap<ProblemKind, u64>,
    /// The problems, at most [`limits::PROBLEMS_MAX`] of them.
    pub problems: Vec<Problem>,
}

/// What kind of problem there is; see the head of this module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// Named by a manifest, and not there.
    Missing,
    /// There, and not what it should be.
    Damaged,
    /// Offsets that are in no object.
    Gap,
    /// An object that begins before the end of the others, and ends after it.
    Overlap,
    /// Named by no manifest for longer than the grace period.
    Orphan,
    /// A name that this broker does not write.
    Unknown,
}

impl ProblemKind {
    /// All kinds, in the order of reports.
    pub const ALL: [Self; 6] =
        [Self::Missing, Self::Damaged, Self::Gap, Self::Overlap, Self::Orphan, Self::Unknown];
}

impl std::fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Damaged => "damaged",
            Self::Gap => "gap",
            Self::Overlap => "overlap",
            Self::Orphan => "orphan",
            Self::Unknown => "unknown",
        })
    }
}

/// One problem of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What kind of problem it is.
    pub kind: ProblemKind,
    /// The name of the object or page, or the folder of the partition.
    pub name: String,
    /// What is wrong.
    pub why: String,
}

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckProgress {
    /// Objects that were read.
    pub objects: u64,
    /// Objects in the list.
    pub objects_all: u64,
}

/// Checks everything that a cluster has in a bucket. `progress` is called after each object.
///
/// # Errors
/// When the bucket cannot be listed or read. What is missing or damaged is a part of the report.
pub async fn check(
    bucket: &Bucket,
    cluster: &ClusterId,
    options: CheckOptions,
    progress: impl Fn(CheckProgress),
) -> Result<CheckReport, TierError> {
    let manifests = Manifests::read(bucket, cluster).await?;
    check_with(bucket, cluster, manifests, options, progress).await
}

async fn check_with(
    bucket: &Bucket,
    cluster: &ClusterId,
    mut manifests: Manifests,
    options: CheckOptions,
    progress: impl Fn(CheckProgress),
) -> Result<CheckReport, TierError> {
    let Folders { partitions: mut folders, checkpoints, unknown } =
        list_folders(bucket, cluster).await?;
    let mut report = CheckReport { checkpoints, ..CheckReport::default() };
    report.add_all(std::mem::take(&mut manifests.damaged));
    report.add_all(unknown.into_iter().map(|name| Problem {
        kind: ProblemKind::Unknown,
        name,
        why: "no broker writes such a name".to_owned(),
    }));
    // A manifest of a partition without objects: each of them is missing.
    for key in manifests.partitions.keys() {
        folders.entry(key.clone()).or_default();
    }
    folders.values().for_each(|folder| report.count(folder));
    let mut at = CheckProgress { objects: 0, objects_all: report.objects };
    for (key, folder) in folders {
        let ReadPages { pages, damaged } = read_pages(bucket, &folder).await?;
        report.add_all(damaged.into_iter().map(|(name, why)| Problem {
            kind: ProblemKind::Damaged,
            name: name.to_string(),
            why,
        }));
        let contents = Contents {
            key: &key,
            objects: &folder.objects,
            page_names: &folder.pages,
            pages: &pages,
        };
        let manifest = manifests.partitions.get(&key);
        let is_deleted =
            manifests.topics.as_ref().is_some_and(|topics| !topics.contains(&key.topic));
        let verdict = judge(contents, manifest.filter(|_| !is_deleted), is_deleted, options);
        let Verdict { expected, problems, young } = verdict;
        report.add_all(problems);
        report.young_orphans += young;
        let names = expected.into_iter().map(Ok::<_, TierError>);
        let mut examined = futures_util::stream::iter(names)
            .map_ok(|object| examine(bucket, object, options.quick))
            .try_buffer_unordered(at_once());
        while let Some(examined) = examined.try_next().await? {
            report.verified_bytes += examined.bytes;
            report.add_all(examined.problem);
            at.objects += 1;
            progress(at);
        }
    }
    Ok(report)
}

/// How many objects are read and verified at the same time.
fn at_once() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    processors.min(limits::CHECKS_AT_ONCE)
}

impl CheckReport {
    fn count(&mut self, folder: &Folder) {
        self.partitions += 1;
        self.objects += folder.objects.len() as u64;
        self.objects_bytes += folder.objects.iter().map(|found| found.size_bytes).sum::<u64>();
        self.pages += folder.pages.len() as u64;
    }

    fn add_all(&mut self, problems: impl IntoIterator<Item = Problem>) {
        for problem in problems {
            *self.counts.entry(problem.kind).or_default() += 1;
            if self.problems.len() < limits::PROBLEMS_MAX {
                self.problems.push(problem);
            }
        }
    }

    /// Number of problems, those included that are not in [`CheckReport::problems`].
    #[must_use]
    pub fn problems_all(&self) -> u64 {
        self.counts.values().sum()
    }
}

/// What reading one object gave.
struct Examined {
    bytes: u64,
    problem: Option<Problem>,
}

/// Reads an object and verifies it, or its footer only.
async fn examine(bucket: &Bucket, object: Expected, is_quick: bool) -> Result<Examined, TierError> {
    let Expected { name, size_bytes, reference, may_vanish } = object;
    let text = name.to_string();
    let read = if is_quick {
        fetch_footer(bucket, &name, size_bytes).await
    } else {
        read_whole(bucket, &name, size_bytes).await
    };
    let problem = |kind, why| Problem { kind, name: text.clone(), why };
    let (bytes, problem) = match read {
        Ok(footer) => {
            let is_other = reference.filter(|wanted| footer.reference(name.digest) != *wanted);
            let why = "the manifest describes it as another object";
            (size_bytes, is_other.map(|_| problem(ProblemKind::Damaged, why.to_owned())))
        }
        // Retention deleted it after the list.
        Err(TierError::Missing { .. }) if may_vanish => (0, None),
        Err(TierError::Missing { .. }) => {
            (0, Some(problem(ProblemKind::Missing, "it was deleted during this check".to_owned())))
        }
        Err(TierError::Damaged { source, .. }) => {
            (size_bytes, Some(problem(ProblemKind::Damaged, source.to_string())))
        }
        Err(error) => return Err(error),
    };
    let bytes = if is_quick { bytes.min(limits::TAIL_BYTES) } else { bytes };
    Ok(Examined { bytes, problem })
}

async fn read_whole(bucket: &Bucket, name: &Name, size_bytes: u64) -> Result<Footer, TierError> {
    let text = name.to_string();
    let bytes: Bytes = bucket.get(&text, size_bytes).await?;
    let (bucket, own) = (bucket.url().to_owned(), name.clone());
    // It takes a tenth of a second for an object of usual size.
    let verified = tokio::task::spawn_blocking(move || verify(&bytes, &own)).await;
    let verified = verified.expect("verifying does not panic");
    verified.map_err(|source| TierError::Damaged { bucket, name: text, source })
}

#[cfg(test)]
mod tests;
