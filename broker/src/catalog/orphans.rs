//! The marker file in a data directory that keeps partitions without a topic (orphans).
//!
//! `repair --accept-loss` of a damaged catalog restores an older one, which does not list the
//! topics created since. Their partitions are undamaged in other shards. While the marker exists
//! the reconciler does not close them; `repair --drop-orphans` removes it. The marker is read when
//! a broker starts.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

const MARK: &str = "orphans.kept";

fn mark(dir: &Path) -> PathBuf {
    dir.join(MARK)
}

/// Creates the marker; it is durable when this returns.
///
/// # Errors
/// When the disk refuses.
pub fn keep(dir: &Path) -> io::Result<()> {
    let mut file = File::create(mark(dir))?;
    file.write_all(
        b"Partitions that the catalog does not list are kept: see ropewalk-broker repair.\n",
    )?;
    file.sync_all()?;
    File::open(dir)?.sync_all()
}

/// Removes the marker. Returns whether it existed.
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

/// Whether the marker exists. If that cannot be read it counts as existing: keeping partitions
/// costs space, closing them costs records.
#[must_use]
pub fn are_kept(dir: &Path) -> bool {
    mark(dir).try_exists().unwrap_or(true)
}
