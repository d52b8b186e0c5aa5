//! A configuration key: its name, type, allowed values and when it may change.
//!
//! The tables of keys are built from these at compile time. A key is known if Kafka 4.3 knows it;
//! whether it has an effect here is separate ([`Key::ignored`]).

/// The type of a value; the numbers are Kafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum Kind {
    /// Either `true` or `false`.
    Boolean = 1,
    /// Any string value.
    String = 2,
    /// A signed 32-bit integer.
    Int = 3,
    /// A signed 16-bit integer.
    Short = 4,
    /// A signed 64-bit integer.
    Long = 5,
    /// A decimal number.
    Double = 6,
    /// Strings separated by commas.
    List = 7,
    /// A Java class; never has an effect here.
    Class = 8,
    /// A secret: never shown.
    Password = 9,
}

impl Kind {
    /// The number in the protocol (DescribeConfigs v3).
    #[must_use]
    pub const fn code(self) -> i8 {
        self as i8
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Boolean => "BOOLEAN",
            Self::String => "STRING",
            Self::Int => "INT",
            Self::Short => "SHORT",
            Self::Long => "LONG",
            Self::Double => "DOUBLE",
            Self::List => "LIST",
            Self::Class => "CLASS",
            Self::Password => "PASSWORD",
        }
    }
}

/// When a key may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// Only with a restart.
    ReadOnly,
    /// At run time, for one broker.
    PerBroker,
    /// At run time, for one broker or all.
    ClusterWide,
}

/// Bounds of a value beyond its type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Valid {
    /// No further bound.
    Any,
    /// A lower bound.
    AtLeast(i64),
    /// Both bounds, inclusive.
    Between(i64, i64),
    /// Both bounds, or this one value beside them.
    BetweenOr(i64, i64, i64),
    /// Between 0 and 1.
    Fraction,
    /// One of these; for a list, each of its elements.
    OneOf(&'static [&'static str]),
}

/// Another source of a key's value.
#[derive(Debug, Clone, Copy)]
pub struct Synonym {
    /// The broker's key.
    pub name: &'static str,
    /// Factor from the unit of the synonym to the unit of the key.
    pub factor: i64,
}

/// A configuration key.
#[derive(Debug)]
pub struct Key {
    /// The name of the key.
    pub name: &'static str,
    /// The type of the key.
    pub kind: Kind,
    /// The default; `None` is Kafka's null.
    pub default: Option<&'static str>,
    /// The allowed values.
    pub valid: Valid,
    /// When the key may change.
    pub update: Update,
    /// Other keys that its value may come from, in order.
    pub synonyms: &'static [Synonym],
    /// The documentation of the key.
    pub doc: &'static str,
    /// Whether the key is accepted and has no effect.
    pub ignored: bool,
    /// Whether the key is accepted and hidden from DescribeConfigs.
    pub internal: bool,
}

/// The documentation of a key without effect.
pub(super) const DOC_IGNORED: &str = "Accepted for compatibility with Kafka; has no effect here.";

impl Key {
    pub(super) const fn new(name: &'static str, kind: Kind, default: Option<&'static str>) -> Self {
        Self {
            name,
            kind,
            default,
            valid: Valid::Any,
            update: Update::ReadOnly,
            synonyms: &[],
            doc: DOC_IGNORED,
            ignored: false,
            internal: false,
        }
    }

    pub(super) const fn doc(mut self, doc: &'static str) -> Self {
        self.doc = doc;
        self
    }

    pub(super) const fn valid(mut self, valid: Valid) -> Self {
        self.valid = valid;
        self
    }

    pub(super) const fn update(mut self, update: Update) -> Self {
        self.update = update;
        self
    }

    pub(super) const fn dynamic(self) -> Self {
        self.update(Update::ClusterWide)
    }

    pub(super) const fn synonyms(mut self, synonyms: &'static [Synonym]) -> Self {
        self.synonyms = synonyms;
        self
    }

    pub(super) const fn ignored(mut self) -> Self {
        self.ignored = true;
        self
    }

    pub(super) const fn internal(mut self) -> Self {
        self.internal = true;
        self
    }

    /// Whether the value is a secret.
    #[must_use]
    pub fn is_sensitive(&self) -> bool {
        self.kind == Kind::Password
    }

    /// Checks a value.
    ///
    /// # Errors
    /// The reason in Kafka's words.
    pub fn check(&self, value: &str) -> Result<(), String> {
        let text = value.trim();
        let not_a = || format!("Not a number of type {}", self.kind.name());
        let number = match self.kind {
            Kind::Boolean => {
                let is_boolean =
                    text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false");
                let reason = "Expected value to be either true or false";
                return if is_boolean { Ok(()) } else { Err(reason.into()) };
            }
            Kind::Int => i64::from(text.parse::<i32>().map_err(|_| not_a())?),
            Kind::Short => i64::from(text.parse::<i16>().map_err(|_| not_a())?),
            Kind::Long => text.parse::<i64>().map_err(|_| not_a())?,
            Kind::Double => return self.check_double(text.parse().map_err(|_| not_a())?),
            Kind::List => return list(text).try_for_each(|item| self.check_text(item)),
            Kind::String | Kind::Class | Kind::Password => return self.check_text(text),
        };
        self.check_number(number)
    }

    /// Whether the value is a number of this type that is only too large.
    #[must_use]
    pub fn is_above(&self, value: &str) -> bool {
        let Valid::Between(_, max) = self.valid else { return false };
        let number = match self.kind {
            Kind::Int => value.trim().parse::<i32>().map(i64::from),
            Kind::Long => value.trim().parse::<i64>(),
            Kind::Boolean
            | Kind::String
            | Kind::Short
            | Kind::Double
            | Kind::List
            | Kind::Class
            | Kind::Password => return false,
        };
        number.is_ok_and(|number| number > max)
    }

    fn check_number(&self, number: i64) -> Result<(), String> {
        match self.valid {
            Valid::AtLeast(min) | Valid::Between(min, _) if number < min => {
                Err(format!("Value must be at least {min}"))
            }
            Valid::Between(_, max) if number > max => {
                Err(format!("Value must be no more than {max}"))
            }
            Valid::BetweenOr(min, max, or) if number != or && !(min..=max).contains(&number) => {
                Err(format!("Value must be between {min} and {max}, or {or}"))
            }
            Valid::Any
            | Valid::AtLeast(_)
            | Valid::Between(..)
            | Valid::BetweenOr(..)
            | Valid::Fraction
            | Valid::OneOf(_) => Ok(()),
        }
    }

    fn check_double(&self, number: f64) -> Result<(), String> {
        if self.valid == Valid::Fraction && !(0.0..=1.0).contains(&number) {
            return Err("Value must be between 0 and 1".into());
        }
        Ok(())
    }

    fn check_text(&self, text: &str) -> Result<(), String> {
        let Valid::OneOf(all) = self.valid else { return Ok(()) };
        if all.contains(&text) {
            return Ok(());
        }
        Err(format!("String must be one of: {}", all.join(", ")))
    }
}

/// The elements of a list; the empty text has none.
pub fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}
