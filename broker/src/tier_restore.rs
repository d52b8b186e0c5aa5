//! `restore`: restores a lost cluster from its bucket, and prints a report.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ropewalk_broker::boot::restore::{Restore, is_restored};
use ropewalk_broker::restore::{RestoreReport, Stage};
use ropewalk_node::supervision::OnFatal;
use ropewalk_tier::Bucket;
use tracing::info;

use crate::flags;
use crate::stop::Stop;
use crate::tier_check::{all_settings, bucket_settings};

/// Time between two log lines about the progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// Runs `restore`.
///
/// # Errors
/// When the cluster is not restored; the exit code says what to do.
pub(crate) async fn restore(flags: &flags::Restore, on_fatal: OnFatal) -> Result<(), Stop> {
    let settings = all_settings(&flags.bucket)?;
    let dir = data_dir(flags, settings.data_dir().ok().flatten())?;
    if !flags.plan && is_restored(&dir) {
        if flags.json {
            println!("{:#}", serde_json::json!({ "stage": Stage::AlreadyRestored }));
        } else {
            println!("{}: restored before: nothing was changed", dir.display());
        }
        return Ok(());
    }
    let bucket = Bucket::open(&bucket_settings(&flags.bucket)?.bucket)?;
    let restore = Restore {
        settings: Arc::new(settings),
        dir: dir.clone(),
        bucket: bucket.clone(),
        without_catalog: flags.without_catalog,
        accept_loss: flags.accept_loss,
        if_format_allowed: flags.if_format_allowed,
        on_fatal,
    };
    let logged = Cell::new(Instant::now());
    let progress = |what: &str, done: usize, all: usize| {
        if logged.get().elapsed() >= PROGRESS_INTERVAL || done == all {
            logged.set(Instant::now());
            info!(done, all, "restoring {what}");
        }
    };
    let report = if flags.plan {
        let plan = restore.plan(|done, all| progress("plan: partitions", done, all)).await?;
        RestoreReport::new(&plan, bucket.url(), Stage::Planned)
    } else {
        restore.run(progress).await?
    };
    if flags.json {
        let json = serde_json::to_value(&report).expect("a report is representable as JSON");
        println!("{json:#}");
    } else {
        print!("{}", report.to_text());
    }
    Ok(())
}

/// The directory of the flag, or else that of the settings.
fn data_dir(flags: &flags::Restore, of_settings: Option<PathBuf>) -> Result<PathBuf, Stop> {
    flags.data_dir.clone().or(of_settings).ok_or_else(|| {
        Stop::Usage(
            "the data directory is not named: give --data-dir DIR, or a --config FILE with log.dirs"
                .into(),
        )
    })
}
