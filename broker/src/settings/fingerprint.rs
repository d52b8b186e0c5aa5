//! A hash of the settings in a file, by which an operator identifies the file that a broker runs
//! with.
//!
//! It is computed when the process reads its file and when another replaces it
//! ([`super::Settings::replace`]); `GET /v1/broker` reports both.
//!
//! The hash covers settings, not the bytes of the file, so that comments, the order of lines and
//! the setting to format an empty directory make no difference: FNV-1a with 64 bits over `{`, then
//! for each pair in the order of keys the key and the value as JSON strings, each followed by `,`.
//! White space around a value is removed. It identifies files and is not cryptographic.

use std::collections::BTreeMap;

use serde_json::Value;

/// Keys that only apply to an empty data directory, so they do not matter to a running broker.
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
        // Operators of other releases compute the same hash, so it must not change.
        assert_eq!(of_pairs(&[("a", "b")]), "096fc819d98b7e2b");
        let file = [("node.id", "0"), ("log.dirs", "/d\"\\\n")];
        let same = [("log.dirs", " /d\"\\\n"), ("format.cluster.id", "x"), ("node.id", "0 ")];
        assert_eq!(of_pairs(&file), of_pairs(&same));
        assert_ne!(of_pairs(&file), of_pairs(&[("node.id", "1"), ("log.dirs", "/d\"\\\n")]));
        assert_ne!(of_pairs(&file), of_pairs(&file[..1]));
        assert_ne!(of_pairs(&[("a", "b,c")]), of_pairs(&[("a", "b"), ("c", "")]));
    }
}
