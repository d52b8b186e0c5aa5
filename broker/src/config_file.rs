//! Reads a settings file and the settings that flags override.

use std::path::{Path, PathBuf};

use ropewalk_broker::settings::{Settings, read_properties};
use tracing::info;

use crate::stop::Stop;

/// The settings of a file, and the data directory that they name.
pub(crate) fn from_file(
    path: &Path,
    set: &[(String, String)],
) -> Result<(Settings, PathBuf), Stop> {
    let settings = settings(Some(path), set.to_vec())?;
    let dir = settings.data_dir().ok().flatten();
    let dir =
        dir.ok_or_else(|| Stop::Usage("log.dirs is not set: it names the data directory".into()))?;
    Ok((settings, dir))
}

/// The settings of a file, if there is one, and those that flags override.
pub(crate) fn settings(path: Option<&Path>, set: Vec<(String, String)>) -> Result<Settings, Stop> {
    let file = match path {
        Some(path) => read_properties(&read(path)?),
        None => Vec::new(),
    };
    read_settings(file, set)
}

fn read(path: &Path) -> Result<String, Stop> {
    std::fs::read_to_string(path).map_err(|source| Stop::Config { path: path.to_owned(), source })
}

/// Reads the settings. A setting given as a flag overrides the file, also a file that is reloaded
/// while the broker runs.
pub(crate) fn read_settings(
    file: Vec<(String, String)>,
    flags: Vec<(String, String)>,
) -> Result<Settings, Stop> {
    let flags = flags.into_iter().collect();
    let settings = Settings::layered(file, flags).map_err(Stop::Settings)?;
    for key in settings.ignored() {
        info!(key, "Kafka setting ignored: it has no effect in this broker");
    }
    Ok(settings)
}
