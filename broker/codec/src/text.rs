//! Strings as slices of the frame that they were decoded from.
//!
//! A decoded [`Str`] keeps the whole frame in memory. A string that is kept longer than its request
//! (such as a topic name in a table) is copied with [`Str::detached`].

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use bytestring::ByteString;

use crate::DecodeError;

/// A UTF-8 string that is cheap to clone and shares the frame it was decoded from.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Str(ByteString);

impl Str {
    /// A string from a literal, without an allocation.
    #[must_use]
    pub const fn from_static(text: &'static str) -> Self {
        Self(ByteString::from_static(text))
    }

    /// The empty string.
    #[must_use]
    pub const fn new() -> Self {
        Self(ByteString::new())
    }

    /// Makes a string of bytes that are valid UTF-8.
    pub(crate) fn from_utf8(bytes: Bytes) -> Result<Self, DecodeError> {
        ByteString::try_from(bytes).map(Self).map_err(|_| DecodeError::NotUtf8)
    }

    /// The text as `str`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A copy that no longer keeps the frame in memory.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self::from(self.as_str())
    }
}

impl Deref for Str {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Str {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Valid because [`Str`] hashes, compares and orders as `str` does; a test checks that.
impl Borrow<str> for Str {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

impl From<&str> for Str {
    fn from(text: &str) -> Self {
        Self(ByteString::from(text))
    }
}

impl From<String> for Str {
    fn from(text: String) -> Self {
        Self(ByteString::from(text))
    }
}

impl From<&String> for Str {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}

impl PartialEq<str> for Str {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Str {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use super::*;

    #[test]
    fn a_map_keyed_by_str_is_searched_by_a_plain_str() {
        let hashed = HashMap::from([(Str::from("orders"), 1)]);
        let ordered = BTreeMap::from([(Str::from("orders"), 1), (Str::from("a"), 2)]);
        assert_eq!(hashed.get("orders"), Some(&1));
        assert_eq!(ordered.get("orders"), Some(&1));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_refused() {
        assert_eq!(Str::from_utf8(Bytes::from_static(b"\xff")), Err(DecodeError::NotUtf8));
    }

    #[test]
    fn a_detached_string_has_its_own_memory() {
        let frame = Bytes::from(b"a long frame".to_vec());
        let name = Str::from_utf8(frame.slice(2..6)).expect("it is ASCII");
        let kept = name.detached();
        assert_eq!(kept, name);
        drop(name);
        assert!(frame.is_unique(), "the detached copy must not hold the frame");
    }
}
