//! Validation of topic names (Kafka's rules).

/// The longest topic name, bytes. Kafka's limit: the name must fit a directory name.
pub const NAME_LEN_MAX: usize = 249;

/// Names of Kafka's internal topics. They cannot be created: their state is kept in the shards, and
/// a topic of that name would be an ordinary, empty one.
const RESERVED: [&str; 4] =
    ["__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata"];

/// Whether the name is one of Kafka's internal topics.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}

/// Checks that `name` is a valid topic name.
///
/// # Errors
/// The rule that is violated.
pub fn check(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a topic name must not be empty".into());
    }
    if name == "." || name == ".." {
        return Err(format!("a topic must not be named '{name}'"));
    }
    if is_reserved(name) {
        return Err(format!(
            "'{name}' is the name of an internal topic of Kafka; there is no such topic here, and the offsets \
             of groups are read by the admin API (OffsetFetch)"
        ));
    }
    let len = name.chars().count();
    if len > NAME_LEN_MAX {
        return Err(format!("a topic name has at most {NAME_LEN_MAX} characters, this has {len}"));
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match name.chars().find(|c| !legal(*c)) {
        Some(c) => Err(format!(
            "topic name '{name}' contains {c:?}: only ASCII letters, digits, '.', '_' and '-' may be used"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn legal_names_pass_and_others_are_refused_with_a_reason() {
        for name in ["a", "__consumer_offsets2", "my-topic", "A.b_c-9", &"x".repeat(249)] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "__consumer_offsets",
            "__transaction_state",
            "a b",
            "ä",
            "a/b",
            "a\n",
            &"x".repeat(250),
        ] {
            assert!(check(name).is_err(), "{name:?}");
        }
    }
}
