//! Ranges of versions in the notation of the schemas: `3`, `3-7`, `3+`, `none`.

use anyhow::Context;

/// An inclusive range of versions; empty if `low` is above `high`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) low: i16,
    pub(crate) high: i16,
}

impl Versions {
    pub(crate) const NONE: Self = Self { low: 1, high: 0 };
    pub(crate) const ALL: Self = Self { low: i16::MIN, high: i16::MAX };

    /// Parses the notation of the schemas.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let number = |text: &str| text.parse::<i16>().with_context(|| format!("version {text:?}"));
        if text == "none" {
            return Ok(Self::NONE);
        }
        if let Some(low) = text.strip_suffix('+') {
            return Ok(Self { low: number(low)?, high: i16::MAX });
        }
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        Ok(Self { low: number(low)?, high: number(high)? })
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.low > self.high
    }

    pub(crate) const fn contains(self, version: i16) -> bool {
        self.low <= version && version <= self.high
    }

    /// The versions in both ranges.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { low: self.low.max(other.low), high: self.high.min(other.high) }
    }

    /// A Rust condition on `version` that is true exactly in these versions, given that the version
    /// is in `reach`. None if it is always true.
    pub(crate) fn condition(self, reach: Self) -> Option<String> {
        let within = self.and(reach);
        match (within.low == reach.low, within.high == reach.high) {
            _ if within.is_empty() => Some("false".to_owned()),
            (true, true) => None,
            (false, true) => Some(format!("version >= {}", within.low)),
            (true, false) => Some(format!("version <= {}", within.high)),
            (false, false) => {
                Some(format!("({}..={}).contains(&version)", within.low, within.high))
            }
        }
    }

    /// The range in the notation of the schemas.
    pub(crate) fn display(self) -> String {
        match self {
            Self { low, high: i16::MAX } => format!("{low}+"),
            Self { low, high } if low == high => low.to_string(),
            Self { low, high } => format!("{low}-{high}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_read() {
        let parse = |text| Versions::parse(text).expect(text);
        assert_eq!(parse("3"), Versions { low: 3, high: 3 });
        assert_eq!(parse("0-12"), Versions { low: 0, high: 12 });
        assert_eq!(parse("4+"), Versions { low: 4, high: i16::MAX });
        assert!(parse("none").is_empty());
        assert!(Versions::parse("some").is_err());
    }

    #[test]
    fn a_condition_says_only_what_is_not_known_yet() {
        let reach = Versions { low: 3, high: 9 };
        let condition = |text| Versions::parse(text).expect(text).condition(reach);
        assert_eq!(condition("0+"), None);
        assert_eq!(condition("3-9"), None);
        assert_eq!(condition("5+").as_deref(), Some("version >= 5"));
        assert_eq!(condition("0-5").as_deref(), Some("version <= 5"));
        assert_eq!(condition("5-6").as_deref(), Some("(5..=6).contains(&version)"));
        assert_eq!(condition("10+").as_deref(), Some("false"));
    }
}
