//! Replacement of the settings file at run time: some keys change at once, the others are listed as
//! waiting for a restart.
//!
//! The admin server passes in the whole file; the file on the disk is not read. Flags take
//! precedence over any file.
//!
//! # Invariants
//!
//! - A file with an invalid setting changes nothing.
//! - A key changes at once exactly if Kafka lets it change at run time for all brokers and it has
//!   an effect here; so the getters need not know the source of a value.

use std::collections::{BTreeMap, BTreeSet};

use super::fingerprint::FIRST_START_ONLY;
use super::key::Update;
use super::{Invalid, Settings, broker};

/// The result of a replacement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplaceOutcome {
    /// Keys whose new value applies from now on.
    pub applied: Vec<String>,
    /// Keys whose new value applies after a restart.
    pub needs_restart: Vec<String>,
}

impl Settings {
    /// Replaces the whole file. The caller refreshes everything that it derived from settings.
    ///
    /// # Errors
    /// All invalid settings.
    pub fn replace(
        &self,
        wanted: impl IntoIterator<Item = (String, String)>,
    ) -> Result<ReplaceOutcome, Vec<Invalid>> {
        let wanted = Self::layered(wanted, self.flags.clone())?;
        let hash = wanted.started_hash.clone();
        let wanted = wanted.file.into_inner();
        let mut file = self.file.write();
        let keys: BTreeSet<&String> = file.keys().chain(wanted.keys()).collect();
        let differs = |key: &&&String| file.get(**key) != wanted.get(**key);
        let differing: Vec<String> =
            keys.iter().filter(differs).map(|key| (**key).clone()).collect();
        let mut replaced = ReplaceOutcome::default();
        for key in differing {
            match fate(&key) {
                ChangeEffect::Applied => replaced.applied.push(key.clone()),
                ChangeEffect::Nothing => {}
                ChangeEffect::NeedsRestart => {
                    replaced.needs_restart.push(key);
                    continue;
                }
            }
            take_over(&mut file, &wanted, &key);
        }
        self.needs_restart.write().clone_from(&replaced.needs_restart);
        *self.last_hash.write() = Some(hash);
        Ok(replaced)
    }

    /// The [fingerprint](super::fingerprint) of the file that this process started with.
    #[must_use]
    pub fn started_hash(&self) -> &str {
        &self.started_hash
    }

    /// The fingerprint of the last file that replaced it; `None` before the first.
    #[must_use]
    pub fn last_hash(&self) -> Option<String> {
        self.last_hash.read().clone()
    }

    /// Keys of the last file whose new value waits for a restart.
    #[must_use]
    pub fn needs_restart(&self) -> Vec<String> {
        self.needs_restart.read().clone()
    }
}

/// The effect of a new value of a key.
enum ChangeEffect {
    Applied,
    NeedsRestart,
    /// The key has no effect.
    Nothing,
}

fn fate(key: &str) -> ChangeEffect {
    match broker::find(key) {
        Some(known) if known.ignored => ChangeEffect::Nothing,
        _ if FIRST_START_ONLY.contains(&key) => ChangeEffect::Nothing,
        Some(known) if known.update == Update::ClusterWide => ChangeEffect::Applied,
        _ => ChangeEffect::NeedsRestart,
    }
}

fn take_over(file: &mut BTreeMap<String, String>, wanted: &BTreeMap<String, String>, key: &str) {
    match wanted.get(key) {
        Some(value) => file.insert(key.to_owned(), value.clone()),
        None => file.remove(key),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    fn replace(settings: &Settings, file: &[(&str, &str)]) -> ReplaceOutcome {
        settings.replace(pairs(file)).expect("valid")
    }

    fn replaced(applied: &[&str], needs_restart: &[&str]) -> ReplaceOutcome {
        let owned = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
        ReplaceOutcome { applied: owned(applied), needs_restart: owned(needs_restart) }
    }

    #[test]
    fn what_can_change_does_and_the_rest_waits() {
        let file = [("num.partitions", "3"), ("max.connections", "10"), ("num.io.threads", "4")];
        let settings = Settings::new(pairs(&file)).expect("valid");
        assert_eq!(replace(&settings, &file), replaced(&[], &[]));
        let other = [("num.partitions", "5"), ("log.retention.ms", "1"), ("num.io.threads", "9")];
        let expected = replaced(&["log.retention.ms", "max.connections"], &["num.partitions"]);
        assert_eq!(replace(&settings, &other), expected);
        assert_eq!(settings.num_partitions(), 3, "as it started");
        assert_eq!(settings.connections_max(), crate::limits::CONNECTIONS_MAX, "the default again");
        assert_eq!(settings.needs_restart(), ["num.partitions"]);
        let hash = |file| Settings::new(pairs(file)).expect("valid").started_hash().to_owned();
        assert_eq!(settings.started_hash(), hash(&file));
        assert_eq!(settings.last_hash(), Some(hash(&other)));
        // A restored value needs no restart any more.
        replace(&settings, &file);
        assert_eq!(settings.needs_restart(), Vec::<String>::new());
        assert_eq!(settings.connections_max(), 10);
    }

    #[test]
    fn a_wrong_file_changes_nothing() {
        let settings = Settings::new(pairs(&[("max.connections", "10")])).expect("valid");
        let wrong =
            pairs(&[("max.connections", "20"), ("max.conections", "1"), ("num.partitions", "0")]);
        let wrong = settings.replace(wrong).expect_err("two are wrong");
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert_eq!(settings.connections_max(), 10);
        assert_eq!(settings.needs_restart(), Vec::<String>::new());
        assert_eq!(settings.last_hash(), None, "a refused file was not taken over");
    }

    #[test]
    fn a_flag_holds_against_any_file_and_the_first_start_is_over() {
        let flags = pairs(&[("max.connections", "7")]);
        let settings =
            Settings::layered(pairs(&[("format.cluster.id", "c")]), flags.into_iter().collect());
        let settings = settings.expect("valid");
        assert_eq!(replace(&settings, &[("max.connections", "9")]), replaced(&[], &[]));
        assert_eq!(settings.connections_max(), 7);
        // Neither flags nor the setting to format are part of the hash.
        assert_eq!(settings.started_hash(), super::super::fingerprint::of(&BTreeMap::new()));
    }
}
