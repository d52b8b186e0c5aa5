//! A hash of what a settings file says, so that an operator can tell which file a broker runs with.
//!
//! Place in the walk: taken when the process reads its file and when it takes over another
//! ([`super::Settings::replace`]); `GET /v1/broker` reports both.
//!
//! The hash is over settings, not over the bytes of the file, so that comments, the order of lines and the
//! leave to format an empty directory make no difference: FNV-1a with 64 bits over `{`, then for each pair in
//! the order of keys the key and the value as JSON strings, each followed by `,`. A value is taken without
//! white space around it. It tells files apart and protects nothing.

use std::collections::BTreeMap;

use serde_json::Value;

/// Keys that only say how to begin on an empty directory: for a broker that runs they say nothing.
pub(super) const FIRST_START_ONLY: &[&str] = &["format.cluster.id"];

/// The hash of these pairs, 16 hexadecimal digits.
#[must_use]
pub fn of(pairs: &BTreeMap<String, String>) -> String {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    let mut feed = |text: &str| {
        for byte in text.bytes() {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    feed("{");
    let lasting = pairs.iter().filter(|(key, _)| !FIRST_START_ONLY.contains(&key.as_str()));
    for text in lasting.flat_map(|(key, value)| [key.as_str(), value.trim()]) {
        feed(&Value::from(text).to_string());
        feed(",");
    }
    format!("{state:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_pairs(pairs: &[(&str, &str)]) -> String {
        of(&pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect())
    }

    #[test]
    fn the_same_settings_have_the_same_hash_and_others_another() {
        // Operators of other releases compute it as well: it must not change.
        assert_eq!(of_pairs(&[("a", "b")]), "096fc819d98b7e2b");
        let file = [("node.id", "0"), ("log.dirs", "/d\"\\\n")];
        let same = [("log.dirs", " /d\"\\\n"), ("format.cluster.id", "x"), ("node.id", "0 ")];
        assert_eq!(of_pairs(&file), of_pairs(&same));
        assert_ne!(of_pairs(&file), of_pairs(&[("node.id", "1"), ("log.dirs", "/d\"\\\n")]));
        assert_ne!(of_pairs(&file), of_pairs(&file[..1]));
        assert_ne!(of_pairs(&[("a", "b,c")]), of_pairs(&[("a", "b"), ("c", "")]));
    }
}
