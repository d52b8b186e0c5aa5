//! The marker files in a data directory that say what happens to partitions without a topic
//! (orphans).
//!
//! A partition is closed only with the catalog's proof that its topic was deleted. An orphan has
//! none: `repair --accept-loss` of a damaged catalog restores an older one, which does not list the
//! topics created since, while their partitions are undamaged in other shards.
//!
//! - [`keep`] marks that the catalog was repaired. The marker is read when a broker starts.
//! - [`abandon`] is the order of a person to give up the records of orphans. The next start has the
//!   catalog record that their topics are deleted, closes them and removes the marker.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

const KEPT: &str = "orphans.kept";
const ABANDONED: &str = "orphans.abandoned";

/// Marks that the catalog was repaired; the marker is durable when this returns.
///
/// # Errors
/// When the disk refuses.
pub fn keep(dir: &Path) -> io::Result<()> {
    remove(dir, ABANDONED)?;
    create(
        dir,
        KEPT,
        b"Partitions that the catalog does not list are kept: see ropewalk-broker repair.\n",
    )
}

/// Orders that the next start gives up the records of orphans; the order is durable when this
/// returns.
///
/// # Errors
/// When the disk refuses.
pub fn abandon(dir: &Path) -> io::Result<()> {
    create(dir, ABANDONED, b"The next start removes partitions that the catalog does not list.\n")?;
    remove(dir, KEPT)
}

/// Whether the catalog was repaired and no person has given up the orphans since. If that cannot be
/// read it counts as repaired.
#[must_use]
pub fn are_kept(dir: &Path) -> bool {
    dir.join(KEPT).try_exists().unwrap_or(true)
}

/// Whether a person has given up the orphans. If that cannot be read they are kept: that costs
/// space, and closing them costs records.
#[must_use]
pub fn are_abandoned(dir: &Path) -> bool {
    !are_kept(dir) && dir.join(ABANDONED).try_exists().unwrap_or(false)
}

/// Removes the order of [`abandon`], which is carried out.
///
/// # Errors
/// When the disk refuses.
pub fn abandoned(dir: &Path) -> io::Result<()> {
    remove(dir, ABANDONED)
}

fn create(dir: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let mut file = File::create(dir.join(name))?;
    file.write_all(text)?;
    file.sync_all()?;
    File::open(dir)?.sync_all()
}

fn remove(dir: &Path, name: &str) -> io::Result<()> {
    match std::fs::remove_file(dir.join(name)) {
        Ok(()) => File::open(dir)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
