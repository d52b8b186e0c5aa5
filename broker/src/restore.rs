//! Restores a lost cluster from its bucket.
//!
//! ```text
//! bucket:    claim, checkpoints, folders, footers ─▶ Plan ─▶ report
//! directory: claim recorded ─▶ claim put ─▶ topics ─▶ partitions ─▶ group offsets ─▶ finished
//! ```
//!
//! A restored cluster keeps the cluster id, below which its objects are, and the ids of its topics.
//! Its shards have new histories, so that it never writes a name that the lost cluster wrote. It
//! owns the bucket by the next claim: if the lost cluster still runs, that one uploads and deletes
//! nothing any more.
//!
//! Everything is a command of the shards, not a file. A partition is restored as empty with all its
//! records in the bucket ([`TierChange::Restore`]); it is read from there.
//!
//! # Invariants
//!
//! - **T2** every record that is in an object which follows the manifest is read after a restore,
//!   under its offset.
//! - What is lost is reported, and accepted explicitly if the bucket should have it.
//! - Nothing is changed by a plan. A restore changes no object; it adds a claim, and pages for
//!   partitions with many objects that no manifest lists.
//! - Group offsets are at most the restored end. Leader epochs and producer ids continue above
//!   those of the lost cluster.
//!
//! # After a crash
//!
//! The claim in the catalog of the directory says that the restore is unfinished, and a broker does
//! not start there. The same restore again continues: each of its commands changes nothing when it
//! is repeated.
//!
//! [`TierChange::Restore`]: ropewalk_shard::command::TierChange::Restore

use std::io;
use std::path::PathBuf;

use ropewalk_shard::ProposeError;
use ropewalk_tier::TierError;

mod carry_out;
mod plan;
mod report;
mod source;

pub(crate) use carry_out::{Directory, Recorded, carry_out};
pub use plan::{
    CappedOffset, Plan, PlanOptions, PlannedGroup, PlannedPartition, PlannedTopic, plan,
};
pub use report::{RestoreReport, Stage};

/// Why a restore failed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The bucket cannot be read or written.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// No cluster has used the bucket.
    #[error(
        "{0}: no cluster has used this bucket and prefix: there is no claim in ropewalk.claims"
    )]
    NoClaim(String),
    /// Without the catalog it is unknown which topics there were.
    #[error(
        "{bucket} has no checkpoint of the catalog that can be read{why}. --without-catalog restores the records of \
         each topic under the name restored-ID, without the configuration and the names"
    )]
    NoCatalog {
        /// URL of the bucket.
        bucket: String,
        /// The checkpoints that are damaged.
        why: String,
    },
    /// Objects or pages are missing or damaged that a manifest names.
    #[error(
        "{} parts of the manifests are missing or damaged, the first one: {}. A partition has no gaps: \
         --accept-loss restores what is behind the last missing part of each partition",
        .0.len(),
        .0.first().map_or("", String::as_str)
    )]
    Losses(Vec<String>),
    /// The data directory is empty, and the settings do not permit to fill it.
    #[error("{} is empty, and format.cluster.id is not set: it may be a lost disk", .0.display())]
    Empty(PathBuf),
    /// The data directory is not what the restore continues or begins.
    #[error("{}: {why}", dir.display())]
    Directory {
        /// The data directory.
        dir: PathBuf,
        /// What it holds, and what to do.
        why: String,
    },
    /// A shard did not take a command.
    #[error("a shard of the restored cluster did not take a command: {0}")]
    Proposed(#[from] ProposeError),
    /// A shard refused a command, which the plan does not allow.
    #[error("the restored cluster refused {what}: {why}")]
    Refused {
        /// What was refused.
        what: String,
        /// Why it was.
        why: String,
    },
    /// A partition has more objects than a restore can list.
    #[error("partition {partition} has {pages} manifest pages, over the limit of {limit}")]
    TooManyPages {
        /// Topic and partition.
        partition: String,
        /// Pages of the manifest, with those that a restore would add.
        pages: usize,
        /// Most pages of a partition.
        limit: usize,
    },
    /// A basic call to the operating system failed.
    #[error("{0}")]
    System(#[from] io::Error),
}
