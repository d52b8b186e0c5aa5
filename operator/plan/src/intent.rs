//! Is what exists what was meant? The question before every write.
//!
//! # Invariants
//!
//! - **K1** an object that [`holds`] is not written. Fields that others added are none of our
//!   business, and a quantity may come back in another unit.
//! - A hash does not depend on the order of keys, nor on the release that computes it.

use ropewalk_operator_api::size;
use serde::Serialize;
use serde_json::Value;

/// A short hash of a value, the same for equal values whatever the order of their keys.
///
/// FNV-1a: it tells intents apart, it protects nothing.
#[must_use]
pub fn hash(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or(Value::Null);
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    feed(&value, &mut state);
    format!("{state:016x}")
}

fn feed(value: &Value, state: &mut u64) {
    let mut bytes = |bytes: &[u8]| {
        for byte in bytes {
            *state = (*state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    match value {
        Value::Object(fields) => {
            bytes(b"{");
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(key, _)| *key);
            for (key, field) in sorted {
                feed(&Value::String(key.clone()), state);
                feed(field, state);
            }
        }
        Value::Array(items) => {
            bytes(b"[");
            for item in items {
                feed(item, state);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            bytes(value.to_string().as_bytes());
            bytes(b",");
        }
    }
}

/// Whether everything that is wanted is there. What else is there does not matter.
#[must_use]
pub fn holds(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => wanted.iter().all(|(key, wanted)| {
            there.get(key).map_or_else(|| is_empty(wanted), |there| holds(there, wanted))
        }),
        (Value::Array(there), Value::Array(wanted)) => {
            there.len() == wanted.len()
                && there.iter().zip(wanted).all(|(there, wanted)| holds(there, wanted))
        }
        (Value::String(there), Value::String(wanted)) => {
            there == wanted || same_quantity(there, wanted)
        }
        (there, wanted) => there == wanted,
    }
}

/// The API server drops what is empty.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Array(items) => items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// `1024Mi` comes back as `1Gi`. Below one, milli-units decide.
fn same_quantity(there: &str, wanted: &str) -> bool {
    let begins = |text: &str| text.starts_with(|first: char| first.is_ascii_digit());
    if !begins(there) || !begins(wanted) {
        return false;
    }
    match (there.strip_suffix('m'), wanted.strip_suffix('m')) {
        (None, None) => size::bytes(there).is_some_and(|bytes| Some(bytes) == size::bytes(wanted)),
        (Some(_), Some(_)) => false,
        (Some(milli), None) | (None, Some(milli)) => {
            let whole = if there.ends_with('m') { wanted } else { there };
            let milli: Option<u64> = milli.parse().ok();
            let thousand = size::bytes(whole).and_then(|whole| whole.checked_mul(1000));
            milli.is_some() && milli == thousand
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn k1_what_the_api_server_makes_of_an_object_still_holds() {
        let wanted =
            json!({"a": {"memory": "1024Mi", "cpu": "1000m"}, "list": [{"x": 1}], "none": {}});
        let there =
            json!({"a": {"memory": "1Gi", "cpu": "1", "more": 2}, "list": [{"x": 1, "y": 2}]});
        assert!(holds(&there, &wanted));
    }

    #[test]
    fn a_difference_is_seen() {
        for (there, wanted) in [
            (json!({"a": 1}), json!({"a": 2})),
            (json!({}), json!({"a": 2})),
            (json!({"a": [1]}), json!({"a": [1, 2]})),
            (json!({"a": [1, 2]}), json!({"a": [1]})),
            (json!({"a": "1Gi"}), json!({"a": "2Gi"})),
            (json!({"a": "100m"}), json!({"a": "200m"})),
            (json!({"a": "x"}), json!({"a": "y"})),
        ] {
            assert!(!holds(&there, &wanted), "{there} {wanted}");
        }
    }

    #[test]
    fn k5_a_hash_never_changes_between_releases() {
        let value = json!({"image": "a:1", "list": [1, true, null], "map": {"b": 1, "a": 2}});
        assert_eq!(
            hash(&value),
            hash(&json!({"map": {"a": 2, "b": 1}, "list": [1, true, null], "image": "a:1"}))
        );
        assert_eq!(hash(&json!({"a": "b"})), "096fc819d98b7e2b");
    }

    proptest! {
        #[test]
        fn everything_holds_itself(text in "[a-z0-9]{0,8}", number in any::<i64>()) {
            let value = json!({"a": text, "b": [number, {"c": text}]});
            prop_assert!(holds(&value, &value));
        }
    }
}
