//! The mark in a data directory that partitions without a topic are to be kept.
//!
//! `repair --accept-loss` of a damaged catalog goes back to an older one, which does not know the topics that
//! were made since. Their partitions lie undamaged in other shards. While the mark is there the reconciler
//! does not close them; `repair --drop-orphans` removes it.
//!
//! Place in the walk: written and removed by `repair`, read when a broker starts.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

const MARK: &str = "orphans.kept";

fn mark(dir: &Path) -> PathBuf {
    dir.join(MARK)
}

/// Marks a data directory; durable when this returns.
///
/// # Errors
/// When the disk refuses.
pub fn keep(dir: &Path) -> io::Result<()> {
    let mut file = File::create(mark(dir))?;
    file.write_all(
        b"Partitions that the catalog does not know are kept: see ropewalk-broker repair.\n",
    )?;
    file.sync_all()?;
    File::open(dir)?.sync_all()
}

/// Removes the mark; whether there was one.
///
/// # Errors
/// When the disk refuses.
pub fn drop_all(dir: &Path) -> io::Result<bool> {
    match std::fs::remove_file(mark(dir)) {
        Ok(()) => File::open(dir)?.sync_all().map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a data directory is marked. One that cannot be read counts as marked: keeping costs space,
/// closing costs records.
#[must_use]
pub fn are_kept(dir: &Path) -> bool {
    mark(dir).try_exists().unwrap_or(true)
}
