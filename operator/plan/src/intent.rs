//! Compares the wanted object with the stored one, before every write.
//!
//! - **K1** an object that [`holds`] is not written. Fields of other writers are ignored, and a
//!   quantity may come back in another unit.
//! - A hash depends neither on the order of keys nor on the release that computes it.

use serde::Serialize;
use serde_json::Value;

/// More digits than any real quantity has.
const DIGITS_MAX: usize = 20;

/// A short hash of a value, the same for equal values whatever the order of their keys.
///
/// FNV-1a: the hash only separates values, it is not for security.
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

/// Whether every wanted field is in the stored object. Further fields are ignored.
#[must_use]
pub fn holds(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => wanted.iter().all(|(key, wanted)| {
            there.get(key).map_or_else(|| is_empty(wanted), |there| holds(there, wanted))
        }),
        (Value::Array(there), Value::Array(wanted)) => {
            let in_order = there.len() == wanted.len()
                && there.iter().zip(wanted).all(|(there, wanted)| holds(there, wanted));
            in_order || holds_by_name(there, wanted)
        }
        (Value::String(there), Value::String(wanted)) => {
            there == wanted || same_quantity(there, wanted)
        }
        (there, wanted) => there == wanted,
    }
}

/// Compares items of named lists (containers, volumes, ports) by name, because several writers own
/// such a list. Items that other writers added are ignored.
fn holds_by_name(there: &[Value], wanted: &[Value]) -> bool {
    let name = |item: &Value| item.get("name").and_then(Value::as_str).map(str::to_owned);
    !wanted.is_empty()
        && wanted.iter().all(|wanted| {
            let Some(of) = name(wanted) else { return false };
            there.iter().any(|there| name(there).as_ref() == Some(&of) && holds(there, wanted))
        })
}

/// Whether the API server would drop the value.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Whether both are the same quantity: `1024Mi` comes back as `1Gi`, and `0.5` as `500m`.
fn same_quantity(there: &str, wanted: &str) -> bool {
    let there = nano(there);
    there.is_some() && there == nano(wanted)
}

/// A Kubernetes quantity in billionths; `None` if the text is no quantity or not a whole number of
/// billionths.
fn nano(text: &str) -> Option<i128> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_plain = number.starts_with(|first: char| first.is_ascii_digit());
    if !is_plain || fraction.contains('.') || number.len() > DIGITS_MAX {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (base, exponent): (i128, i32) = match unit {
        "n" => (10, -9),
        "u" => (10, -6),
        "m" => (10, -3),
        "" => (10, 0),
        "k" => (10, 3),
        "M" => (10, 6),
        "G" => (10, 9),
        "T" => (10, 12),
        "P" => (10, 15),
        "E" => (10, 18),
        "Ki" => (1024, 1),
        "Mi" => (1024, 2),
        "Gi" => (1024, 3),
        "Ti" => (1024, 4),
        "Pi" => (1024, 5),
        "Ei" => (1024, 6),
        _ => (10, unit.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    let decimals = i32::try_from(fraction.len()).ok()?;
    let ten = |exponent: i32| 10_i128.checked_pow(u32::try_from(exponent).ok()?);
    if base == 10 {
        let exponent = exponent + 9 - decimals;
        return if exponent >= 0 {
            digits.checked_mul(ten(exponent)?)
        } else {
            let divisor = ten(-exponent)?;
            (digits % divisor == 0).then_some(digits / divisor)
        };
    }
    let scaled = digits.checked_mul(base.checked_pow(u32::try_from(exponent).ok()?)?)?;
    let scaled = scaled.checked_mul(1_000_000_000)?;
    let divisor = ten(decimals)?;
    (scaled % divisor == 0).then_some(scaled / divisor)
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
    fn k1_a_quantity_that_comes_back_in_another_unit_is_the_same() {
        for (there, wanted) in [
            ("500m", "0.5"),
            ("1", "1000m"),
            ("1500m", "1.5"),
            ("1536Mi", "1.5Gi"),
            ("1k", "1e3"),
            ("2", "2.0"),
            ("1G", "1000M"),
        ] {
            assert!(holds(&json!(there), &json!(wanted)), "{there} {wanted}");
        }
        for (there, wanted) in [("500m", "0.6"), ("1Gi", "1G"), ("a", "b"), ("1.0.0", "1.0.1")] {
            assert!(!holds(&json!(there), &json!(wanted)), "{there} {wanted}");
        }
        // The API server drops an empty value.
        let env = json!({"env": [{"name": "A", "value": ""}]});
        assert!(holds(&json!({"env": [{"name": "A"}]}), &env));
    }

    #[test]
    fn k1_what_somebody_else_added_to_a_list_of_named_items_is_no_difference() {
        let wanted = json!({"containers": [{"name": "broker", "image": "a:1"}]});
        let with = |broker: &str| json!({"containers": [{"name": "mesh", "image": "m:1"}, {"name": "broker", "image": broker}]});
        assert!(holds(&with("a:1"), &wanted));
        assert!(!holds(&with("a:2"), &wanted));
        assert!(!holds(&json!({"containers": [{"name": "mesh", "image": "a:1"}]}), &wanted));
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
