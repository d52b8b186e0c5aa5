//! What a topic may be called (Kafka's rule).

/// The longest topic name, in bytes. Kafka's limit: a directory name has to hold it.
pub const NAME_LEN_MAX: usize = 249;

/// Whether `name` may name a topic.
///
/// # Errors
/// Says which rule is broken.
pub fn check(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a topic name must not be empty".into());
    }
    if name == "." || name == ".." {
        return Err(format!("a topic must not be named '{name}'"));
    }
    if name.len() > NAME_LEN_MAX {
        let len = name.len();
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
    fn legal_names_pass_and_others_are_told_why() {
        for name in ["a", "my-topic", "A.b_c-9", &"x".repeat(249)] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        for name in ["", ".", "..", "a b", "ä", "a/b", "a\n", &"x".repeat(250)] {
            assert!(check(name).is_err(), "{name:?}");
        }
    }
}
