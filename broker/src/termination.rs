//! The termination message: the reason why the process ended by itself, written to standard error
//! and to a file that Kubernetes shows in the pod's status. An error of writing it is ignored.

use std::path::{Path, PathBuf};

/// Kubernetes's default `terminationMessagePath`.
const USUAL: &str = "/dev/termination-log";

/// Where the termination message is written beside standard error.
#[derive(Debug, Clone)]
pub(crate) struct TerminationMessage {
    file: Option<PathBuf>,
}

impl TerminationMessage {
    /// Uses the given file, else Kubernetes's default path if it exists.
    pub(crate) fn new(asked: Option<PathBuf>) -> Self {
        let usual = || Some(PathBuf::from(USUAL)).filter(|path| path.exists());
        Self { file: asked.or_else(usual) }
    }

    /// Writes the reason why the process ends.
    pub(crate) fn write(&self, why: &str) {
        eprintln!("ropewalk-broker: {why}");
        if let Some(file) = &self.file {
            write(file, why);
        }
    }
}

fn write(file: &Path, why: &str) {
    if let Err(error) = std::fs::write(file, format!("{why}\n")) {
        tracing::debug!(file = %file.display(), %error, "termination message not written");
    }
}
