//! Why a setting is not taken, in words that name the key, the value and what is possible.
//!
//! Place in the walk: below the tables of keys, so that each of them can refuse with it.

use std::fmt;

use super::key::Key;
use crate::limits;

/// Why a setting is not taken. Printed in Kafka's words, since clients see them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalid {
    /// Nobody knows the key.
    Unknown {
        /// What it was meant to be a key of.
        what: &'static str,
        /// The key.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<&'static str>,
    },
    /// The key is known, but somewhere else.
    Elsewhere {
        /// What it was meant to be a key of.
        what: &'static str,
        /// The key.
        key: String,
        /// Where it is known.
        known: &'static str,
        /// The key of the same meaning here; `None` when there is none.
        here: Option<&'static str>,
    },
    /// The value is not possible.
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// Why.
        reason: String,
    },
    /// The key cannot change at run time.
    ReadOnly {
        /// The key.
        key: String,
    },
}

impl Invalid {
    /// A key that is known nowhere, with the nearest of `known`.
    pub(super) fn unknown(
        what: &'static str,
        key: &str,
        known: impl Iterator<Item = &'static Key>,
    ) -> Self {
        // Below this nobody would take the one for the other.
        const LIKENESS_MIN: f64 = 0.85;
        let likeness = |known: &'static Key| (strsim::jaro_winkler(known.name, key), known.name);
        let best = known.map(likeness).max_by(|a, b| a.0.total_cmp(&b.0));
        let nearest = best.filter(|best| best.0 >= LIKENESS_MIN).map(|best| best.1);
        Self::Unknown { what, key: key.to_owned(), nearest }
    }

    /// The same for a key of a topic or a group, where the broker knows it: `all` are those of the topic or
    /// the group.
    pub(super) fn brokers(what: &'static str, key: &str, all: &'static [Key]) -> Self {
        let is_synonym = |known: &&Key| known.synonyms.iter().any(|synonym| synonym.name == key);
        let here = all.iter().find(is_synonym).map(|known| known.name);
        Self::Elsewhere { what, key: key.to_owned(), known: "broker", here }
    }

    /// The same for a key of the broker that a topic or a group knows as `found`.
    pub(super) fn childs(known: &'static str, found: &'static Key) -> Self {
        let here = found.synonyms.first().map(|synonym| synonym.name);
        Self::Elsewhere { what: "broker config", key: found.name.to_owned(), known, here }
    }

    /// The key that it is about.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Unknown { key, .. }
            | Self::Elsewhere { key, .. }
            | Self::Value { key, .. }
            | Self::ReadOnly { key } => key,
        }
    }

    pub(super) fn value(key: &str, value: &str, reason: String) -> Self {
        Self::Value { key: key.to_owned(), value: value.to_owned(), reason }
    }

    /// Values that are set at run time are stored in the catalog (R1).
    pub(super) fn check_length(key: &str, value: &str) -> Result<(), Self> {
        const BYTES_MAX: usize = limits::CONFIG_VALUE_BYTES_MAX;
        if value.len() <= BYTES_MAX {
            return Ok(());
        }
        let shown = format!("of {} bytes", value.len());
        Err(Self::value(key, &shown, format!("Value must have no more than {BYTES_MAX} bytes")))
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { what, key, nearest } => {
                write!(f, "Unknown {what} name: {key}")?;
                nearest.map_or(Ok(()), |nearest| write!(f, " (did you mean {nearest}?)"))
            }
            Self::Elsewhere { what, key, known, here } => {
                write!(f, "Unknown {what} name: {key} (it is a key of a {known}")?;
                here.map_or(Ok(()), |here| write!(f, "; here it is {here}"))?;
                f.write_str(")")
            }
            Self::Value { key, value, reason } => {
                write!(f, "Invalid value {value} for configuration {key}: {reason}")
            }
            Self::ReadOnly { key } => {
                write!(f, "Cannot update these configs dynamically: Set({key})")
            }
        }
    }
}

impl std::error::Error for Invalid {}
