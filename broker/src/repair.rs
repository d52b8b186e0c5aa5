//! `repair`: lists the damage of a data directory and the records that accepting the loss would
//! cost, and repairs it with `--accept-loss`.
//!
//! It runs only on a directory that no broker uses. Findings and losses are printed to standard
//! output, so that they can be read before the repair and kept after it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ropewalk_broker::catalog::orphans;
use ropewalk_disk::{Disk, RealDisk};
use ropewalk_shard::ShardId;
use ropewalk_store::recovery::Options;
use ropewalk_store::repair::{Consent, Finding, Place, RepairError};
use ropewalk_store::{DataDir, repair as shard_repair};

use crate::config_file::from_file;
use crate::flags::Repair;
use crate::stop::Stop;

/// Runs the `repair` command.
pub(crate) fn repair(flags: &Repair) -> Result<(), Stop> {
    let dir = place(flags)?;
    if !dir.is_dir() {
        return Err(RepairError::Empty(dir).into());
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(ropewalk_disk::Options::default()));
    let data = DataDir::new(disk, dir.clone());
    let _lock = data.lock().map_err(RepairError::from)?;
    if flags.drop_orphans {
        return drop_orphans(&dir);
    }
    let consent = match (flags.accept_loss, flags.i_am_the_only_survivor) {
        (false, _) => Consent::Nothing,
        (true, false) => Consent::Loss,
        (true, true) => Consent::OnlySurvivor,
    };
    if consent == Consent::Loss {
        shard_repair::check_voters(&data, &Options::default())?;
    }
    if flags.accept_loss && loses_catalog_entries(&data)? {
        // The mark is written before anything is removed: a broker that starts on an older catalog
        // must find it.
        orphans::keep(&dir)?;
    }
    let findings = shard_repair::repair(&data, &Options::default(), consent)?;
    for finding in &findings {
        println!("{finding}");
    }
    report(&dir, &findings, flags.accept_loss)
}

/// Whether accepting the loss restores an older catalog, which may not list all topics.
fn loses_catalog_entries(data: &DataDir) -> Result<bool, RepairError> {
    let listed = shard_repair::repair(data, &Options::default(), Consent::Nothing)?;
    let is_catalog = |finding: &Finding| finding.place == Place::Shard(ShardId::CATALOG);
    Ok(listed.iter().any(|finding| is_catalog(finding) && finding.can_be_repaired))
}

fn drop_orphans(dir: &Path) -> Result<(), Stop> {
    orphans::abandon(dir)?;
    println!(
        "{}: the next start removes the records of queues that the catalog does not list",
        dir.display()
    );
    Ok(())
}

fn place(flags: &Repair) -> Result<PathBuf, Stop> {
    match (&flags.data, &flags.config) {
        (Some(dir), _) => Ok(dir.clone()),
        (None, Some(config)) => Ok(from_file(config, &[])?.1),
        (None, None) => Err(Stop::Usage(
            "the data directory is not named: give --data DIR or --config FILE".into(),
        )),
    }
}

/// Prints the summary line. Returns an error with the exit code if damage remains.
fn report(dir: &Path, findings: &[Finding], accepted: bool) -> Result<(), Stop> {
    let dir = dir.display();
    let hopeless = findings.iter().filter(|finding| !finding.can_be_repaired).count();
    match (findings.len(), accepted) {
        (0, _) => println!("{dir}: nothing is damaged"),
        (all, true) if hopeless == 0 => println!("{dir}: damaged places that were repaired: {all}"),
        (all, true) => {
            let left =
                format!("{dir}: damaged places that cannot be repaired: {hopeless} of {all}");
            return Err(Stop::Damaged(left));
        }
        (all, false) => {
            let left = format!(
                "{dir}: damaged places: {all}; nothing was changed. repair --accept-loss permanently removes what is listed \
                 as lost: keep a copy of the directory first"
            );
            return Err(Stop::Damaged(left));
        }
    }
    Ok(())
}
