//! The last words of a process that ends by itself: on standard error, and in a file for whoever started
//! it and sees no more than that.
//!
//! Place in the walk: behind everything. Saying it must not fail: what cannot be written is left out.

use std::path::{Path, PathBuf};

/// Where Kubernetes and its likes look for it.
const USUAL: &str = "/dev/termination-log";

/// Where last words go beside standard error.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    file: Option<PathBuf>,
}

impl Ending {
    /// The file that was asked for, else the usual one where it is.
    pub(crate) fn new(asked: Option<PathBuf>) -> Self {
        let usual = || Some(PathBuf::from(USUAL)).filter(|path| path.exists());
        Self { file: asked.or_else(usual) }
    }

    /// Says why the process ends.
    pub(crate) fn say(&self, why: &str) {
        eprintln!("ropewalk-broker: {why}");
        if let Some(file) = &self.file {
            write(file, why);
        }
    }
}

fn write(file: &Path, why: &str) {
    if let Err(error) = std::fs::write(file, format!("{why}\n")) {
        tracing::debug!(file = %file.display(), %error, "last words could not be written there");
    }
}
