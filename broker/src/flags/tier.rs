//! The flags of the commands on a bucket.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};

use super::pair;

/// Commands about a bucket with older records.
#[derive(Debug, Subcommand)]
pub(crate) enum Tier {
    /// Check everything that a cluster has in its bucket: manifests, objects and records against
    /// each other. Nothing is changed, and the cluster may run.
    #[command(
        after_help = "Exit codes: 0 nothing is wrong, 1 there are problems, 2 the bucket could not be read, or \
                      the flags are wrong."
    )]
    Check(TierCheck),
}

/// Which bucket a command uses.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("bucket").required(true).multiple(true).args(["from", "config"])))]
pub(crate) struct BucketFlags {
    /// The bucket: s3://BUCKET/PREFIX or file:///DIRECTORY. Default: ropewalk.tier.url of the
    /// configuration file.
    #[arg(long, value_name = "URL")]
    pub(crate) from: Option<String>,

    /// A configuration file of a broker; the settings ropewalk.tier.* are read from it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// A setting that overrides the file, such as ropewalk.tier.endpoint=URL or
    /// ropewalk.tier.access.key.id.file=FILE. May be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) set: Vec<(String, String)>,
}

/// Flags of `tier check`.
#[derive(Debug, Args)]
pub(crate) struct TierCheck {
    #[command(flatten)]
    pub(crate) bucket: BucketFlags,

    /// The id of the cluster whose objects are checked. Default: the cluster that owns the bucket.
    #[arg(long, value_name = "ID")]
    pub(crate) cluster: Option<String>,

    /// Read the footers of objects only, and not their records.
    #[arg(long)]
    pub(crate) quick: bool,

    /// Print the report as JSON instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `restore`.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    pub(crate) bucket: BucketFlags,

    /// The data directory of the first broker of the restored cluster, which must be empty or
    /// does not exist. Default: log.dirs of the configuration file.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Print what would be restored and what is lost, and change nothing.
    #[arg(long)]
    pub(crate) plan: bool,

    /// Restore the records although the checkpoint of the catalog is lost: each topic gets the name
    /// restored-ID and no configuration.
    #[arg(long)]
    pub(crate) without_catalog: bool,

    /// Restore partitions also if objects are missing or damaged that a manifest names. Such a
    /// partition begins behind the last missing object.
    #[arg(long)]
    pub(crate) accept_loss: bool,

    /// Fill an empty directory only if the settings have format.cluster.id, whatever its value: an
    /// empty one may be the lost disk of a cluster that was restored before.
    #[arg(long)]
    pub(crate) if_format_allowed: bool,

    /// Print the report as JSON instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}
