//! Functions that the checks of the source tree share: list files, read them, report violations.

use std::fs;
use std::path::{Path, PathBuf};

/// The root of the tree. Read when a test runs: one target directory may serve several checkouts.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo says where"))
        .parent()
        .expect("tests/ lies in the root")
        .to_owned()
}

/// Every file that git does not ignore, as paths relative to the root, sorted.
#[must_use]
pub fn files() -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("a readable tree") {
            let path = entry.expect("a readable tree").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            // In a second working tree .git is a file.
            let skipped = [".git", "target", "node_modules", "__pycache__", "corpus", "artifacts"];
            if skipped.contains(&name) {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else {
                let relative = path.strip_prefix(root()).expect("found below the root");
                found.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

/// Path and text of each Rust file.
pub fn rust_files() -> impl Iterator<Item = (String, String)> {
    files().into_iter().filter(|path| path.ends_with(".rs")).map(|path| {
        let text = read(&path);
        (path, text)
    })
}

/// The text of a file, by its path relative to the root.
///
/// # Panics
/// If it cannot be read.
pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Whether the file is generated code.
#[must_use]
pub fn is_generated(path: &str) -> bool {
    path.contains("/generated/") || path.ends_with("/generated.rs")
}

/// Whether only tests run the code. Limits on length and `unwrap` do not apply to it.
#[must_use]
pub fn is_test(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// Reports a rule with all of its violations.
///
/// # Panics
/// If there is a violation.
pub fn assert_none(rule: &str, offenders: &[String]) {
    assert!(offenders.is_empty(), "{rule}:\n  {}", offenders.join("\n  "));
}
