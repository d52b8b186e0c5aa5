//! Why a setting is invalid. The messages name the key, the value and what is allowed.

use std::fmt;

use super::key::Key;
use crate::limits;

/// Why a setting is invalid. The messages are Kafka's, because clients see them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalid {
    /// The key is not known.
    Unknown {
        /// The kind of key that was expected.
        what: &'static str,
        /// The unknown key.
        key: String,
        /// The most similar known key.
        nearest: Option<&'static str>,
    },
    /// The key is known, but for another resource.
    Elsewhere {
        /// The kind of key that was expected.
        what: &'static str,
        /// The name of the key.
        key: String,
        /// The resource type that has this key.
        known: &'static str,
        /// The key with the same meaning for this resource; `None` when there is none.
        here: Option<&'static str>,
    },
    /// The value is invalid.
    Value {
        /// The name of the key.
        key: String,
        /// The invalid value.
        value: String,
        /// The reason why it is invalid.
        reason: String,
    },
    /// The key cannot change at run time.
    ReadOnly {
        /// The name of the key.
        key: String,
    },
}

impl Invalid {
    /// An unknown key, with the nearest of `known`.
    pub(super) fn unknown(
        what: &'static str,
        key: &str,
        known: impl Iterator<Item = &'static Key>,
    ) -> Self {
        // Below this similarity a suggestion is not helpful.
        const LIKENESS_MIN: f64 = 0.85;
        let likeness = |known: &'static Key| (strsim::jaro_winkler(known.name, key), known.name);
        let best = known.map(likeness).max_by(|a, b| a.0.total_cmp(&b.0));
        let nearest = best.filter(|best| best.0 >= LIKENESS_MIN).map(|best| best.1);
        Self::Unknown { what, key: key.to_owned(), nearest }
    }

    /// A broker's key that was set on a topic or a group, whose keys are `all`.
    pub(super) fn brokers(what: &'static str, key: &str, all: &'static [Key]) -> Self {
        let is_synonym = |known: &&Key| known.synonyms.iter().any(|synonym| synonym.name == key);
        let here = all.iter().find(is_synonym).map(|known| known.name);
        Self::Elsewhere { what, key: key.to_owned(), known: "broker", here }
    }

    /// A topic's or group's key `found` that was set on the broker.
    pub(super) fn childs(known: &'static str, found: &'static Key) -> Self {
        let here = found.synonyms.first().map(|synonym| synonym.name);
        Self::Elsewhere { what: "broker config", key: found.name.to_owned(), known, here }
    }

    /// The name of the key.
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

    /// Checks a length, because values that are set at run time are stored in the catalog (R1).
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
