//! A number of bytes as users write it: `20Gi`, `500M`.
//!
//! It is a string of its own and not a Kubernetes quantity, because the schema can then bound its
//! length and the rules can compare it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A number of bytes with a unit: `20Gi`, `500M`, `1048576`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub struct Size(
    #[schemars(
        length(max = 24),
        regex(pattern = r"^[0-9]{1,15}(\.[0-9]{1,3})?(k|[MGTP]|[KMGTP]i)?$")
    )]
    pub String,
);

impl Size {
    /// The number of bytes, rounded up; `None` if the text is no size.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        bytes(&self.0)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl From<&str> for Size {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// The number of bytes of a quantity, rounded up. It accepts more than the schema does, because the
/// API server also returns sizes such as `1e9` and `1500m`.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    let digits =
        text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let (number, unit) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let mantissa: u128 = format!("{whole}{fraction}").parse().ok()?;
    let Unit { factor, divisor } = unit_of(unit)?;
    let exact = mantissa.checked_mul(factor)?;
    u64::try_from(exact.div_ceil(scale.checked_mul(divisor)?)).ok()
}

/// Bytes of a unit as a fraction.
struct Unit {
    factor: u128,
    divisor: u128,
}

/// The unit behind the number of a quantity.
fn unit_of(unit: &str) -> Option<Unit> {
    let factor = match unit {
        "" => 1,
        "m" => return Some(Unit { factor: 1, divisor: 1000 }),
        "k" => 1000,
        "M" => 1000_u128.pow(2),
        "G" => 1000_u128.pow(3),
        "T" => 1000_u128.pow(4),
        "P" => 1000_u128.pow(5),
        "E" => 1000_u128.pow(6),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        "Ei" => 1 << 60,
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            10_u128.checked_pow(digits.parse().ok().filter(|power: &u32| *power <= 18)?)?
        }
    };
    Some(Unit { factor, divisor: 1 })
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_read_as_kubernetes_reads_them() {
        for (text, expected) in [
            ("0", 0),
            ("1048576", 1_048_576),
            ("1Ki", 1024),
            ("1k", 1000),
            ("1.5Gi", 1_610_612_736),
            ("20Gi", 21_474_836_480),
            ("1500m", 2),
            ("1e9", 1_000_000_000),
            ("1E", 1_000_000_000_000_000_000),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for text in ["", ".", "Gi", "-1", "1 Gi", "1GiB", "1e99", "99999999999999999999Ei"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
