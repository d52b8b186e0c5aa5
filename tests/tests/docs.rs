//! Documents match the code: invariants, commands, metrics, exit codes, admin routes.
//!
//! `tests/run lint` runs this. `tests/tests/tidy.rs` checks the paths in documents.

use std::collections::{BTreeMap, BTreeSet};

use ropewalk_tests::{assert_none, files, is_generated, is_test, read, root, rust_files};

/// Documents whose commands are checked.
const DOCUMENTS: &[&str] =
    &["README.md", "CONTRIBUTING.md", "broker/README.md", "operator/README.md", "tests/README.md"];

/// Invariants without a test, with the reason. May only shrink.
const UNTESTED: &[(&str, &str)] = &[];

/// First letters of the invariants that the documents define.
const LETTERS: &str = "DORTK";

fn is_code(word: &str) -> bool {
    let mut letters = word.chars();
    letters.next().is_some_and(|letter| LETTERS.contains(letter))
        && letters.next().is_some_and(|digit| ('1'..='9').contains(&digit))
        && letters.next().is_none()
}

/// The invariants that a line cites: `D5` in a comment, or `d5_` at the start of a test name.
fn cited(line: &str) -> Vec<String> {
    if let Some(name) = line.trim_start().split("fn ").nth(1) {
        let words =
            name.split('_').take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase()));
        return words.map(str::to_uppercase).take_while(|word| is_code(word)).collect();
    }
    let comment = line.split_once("//").map_or("", |(_, comment)| comment);
    let words = comment.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|word| is_code(word)).map(str::to_owned).collect()
}

/// Every cell of every row of the tables of a document.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let lines = text.lines().filter_map(|line| line.strip_prefix('|'));
    lines.map(|line| line.trim_end_matches('|').split('|').map(str::trim).collect()).collect()
}

/// The text between backticks, and every line of a code block.
fn code(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, part) in text.split("```").enumerate() {
        if at % 2 == 1 {
            found.extend(part.lines().skip(1));
        } else {
            found.extend(part.split('`').skip(1).step_by(2));
        }
    }
    found
}

/// The table rows that define an invariant: its code and the other cells.
fn defined() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for document in ["broker/README.md", "operator/README.md"] {
        for row in rows(&read(document)) {
            if is_code(row[0]) {
                let before = found.insert(row[0].to_owned(), row[1..].join(" "));
                assert!(before.is_none(), "{} is defined twice", row[0]);
            }
        }
    }
    found
}

/// The files with tests of each invariant.
fn tests_by_code() -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in rust_files().filter(|(path, _)| !is_generated(path)) {
        for line in text.lines().filter(|line| line.contains("fn ") && !line.contains("//")) {
            for code in cited(line) {
                found.entry(code).or_default().insert(path.clone());
            }
        }
    }
    found
}

#[test]
fn every_invariant_that_is_cited_is_defined() {
    let defined = defined();
    let mut offenders = BTreeSet::new();
    for (path, text) in rust_files().filter(|(path, _)| !is_generated(path)) {
        for code in text.lines().flat_map(cited).filter(|code| !defined.contains_key(code)) {
            offenders.insert(format!("{path} cites {code}"));
        }
    }
    let offenders: Vec<_> = offenders.into_iter().collect();
    assert_none("a README defines every invariant that code cites", &offenders);
}

#[test]
fn every_invariant_has_a_test_named_after_it() {
    let (defined, tests) = (defined(), tests_by_code());
    assert!(defined.len() >= 18, "too few invariants were read from the tables: {defined:?}");
    let untested: BTreeMap<_, _> = UNTESTED.iter().copied().collect();
    let mut offenders = Vec::new();
    for code in defined.keys() {
        match (tests.contains_key(code), untested.contains_key(code.as_str())) {
            (false, false) => offenders.push(format!("{code} has no test")),
            (true, true) => offenders.push(format!("{code} has a test and is listed as untested")),
            (true, false) | (false, true) => {}
        }
    }
    for (code, row) in &defined {
        let named = row
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|word| word.contains('/') && word.ends_with(".rs"));
        for path in named.filter(|path| !tests.get(code).is_some_and(|all| all.contains(*path))) {
            offenders.push(format!("{path} has no test of {code}, but a README lists it"));
        }
    }
    assert_none("every invariant has tests named after it", &offenders);
}

/// The names of all packages of the tree.
fn packages() -> BTreeSet<String> {
    let manifests = files().into_iter().filter(|path| path.ends_with("Cargo.toml"));
    let name =
        |text: &str| text.lines().find_map(|line| line.strip_prefix("name = ").map(str::to_owned));
    let names = manifests.filter_map(|path| name(&read(&path)));
    names.map(|name| name.trim_matches('"').to_owned()).collect()
}

/// The sections of `tests/run`.
fn sections() -> BTreeSet<String> {
    let run = read("tests/run");
    let table = run.split("SECTIONS='").nth(1).and_then(|rest| rest.split('\'').next());
    let lines = table.expect("tests/run has a table of sections").lines();
    lines.filter_map(|line| line.split('|').next()).map(|name| name.trim().to_owned()).collect()
}

/// Whether a file of `clap` structs declares the flag.
fn has_flag(flags: &str, flag: &str) -> bool {
    let field = flag.trim_start_matches("--").replace('-', "_");
    matches!(flag, "--help" | "--version") || flags.contains(&format!(" {field}: "))
}

fn wrong_in_command(command: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let words: Vec<&str> =
        command.split('#').next().unwrap_or_default().split_whitespace().collect();
    let is_placeholder =
        |word: &str| word.contains(|c: char| c.is_ascii_uppercase() || "…[<$".contains(c));
    for pair in words.windows(2).filter(|pair| !is_placeholder(pair[1])) {
        if pair[0] == "-p" && !packages().contains(pair[1]) {
            wrong.push(format!("no package is called {}", pair[1]));
        }
        let is_target = |name: &str| {
            let (file, folder) = (format!("tests/{name}.rs"), format!("tests/{name}/main.rs"));
            files().iter().any(|path| path.ends_with(&file) || path.ends_with(&folder))
        };
        if pair[0] == "--test" && !is_target(pair[1]) {
            wrong.push(format!("no test target is called {}", pair[1]));
        }
    }
    if let Some(at) = words.iter().position(|word| *word == "tests/run") {
        let known =
            |word: &str| sections().contains(word) || matches!(word, "soak" | "--list" | "--quick");
        let named = words[at + 1..].iter().filter(|word| !is_placeholder(word));
        wrong.extend(named.filter(|word| !known(word)).map(|word| format!("no section {word}")));
    }
    for (binary, sources) in [
        ("ropewalk-broker", &["broker/src/flags.rs", "broker/src/flags/tier.rs"][..]),
        ("ropewalk-operator", &["operator/src/flags.rs"]),
    ] {
        let ours = match words.iter().position(|word| *word == binary) {
            Some(0) => &words[1..],
            Some(at) if words.contains(&"run") => {
                words[at..].split(|word| *word == "--").nth(1).unwrap_or_default()
            }
            Some(_) | None => continue,
        };
        let text: String = sources.iter().map(|source| read(source)).collect();
        let given = ours.iter().filter(|word| word.starts_with("--"));
        for flag in given.map(|word| word.split(['=', '|']).next().unwrap_or_default()) {
            if !has_flag(&text, flag) {
                wrong.push(format!("{binary} has no flag {flag}"));
            }
        }
    }
    wrong
}

#[test]
fn every_command_that_a_document_names_exists() {
    let mut offenders = Vec::new();
    for document in DOCUMENTS {
        let text = read(document);
        for command in code(&text) {
            let wrong = wrong_in_command(command);
            offenders
                .extend(wrong.into_iter().map(|wrong| format!("{document}: {command}: {wrong}")));
            let first = command.split_whitespace().next().unwrap_or_default();
            let is_script = first.starts_with("tests/") || first.starts_with("charts/");
            if is_script && !first.contains(['*', '{', '…']) && !root().join(first).exists() {
                offenders.push(format!("{document}: {first} does not exist"));
            }
        }
    }
    assert_none("commands in documents exist", &offenders);
}

/// The metric names in code: a literal that is an argument of `register(` or a similar call, or
/// one that is followed by its HELP text.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let parts: Vec<&str> = text.split('"').collect();
    for (at, name) in parts.iter().enumerate().skip(1).step_by(2) {
        let before = parts[at - 1].trim_end();
        let starts = ["register(", "register_with_unit(", "encode_descriptor("];
        let help = parts.get(at + 2).and_then(|help| help.chars().next());
        let is_pair = before.ends_with('(')
            && parts.get(at + 1).is_some_and(|between| between.trim() == ",")
            && help.is_some_and(|first| first.is_ascii_uppercase() || first.is_ascii_digit());
        let is_name = !name.is_empty()
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if is_name && (is_pair || starts.iter().any(|start| before.ends_with(start))) {
            found.insert((*name).to_owned());
        }
    }
    found
}

/// A metric name from a document without the prefix and suffix that the encoder adds.
fn plain(name: &str) -> &str {
    let name = name.trim_start_matches("ropewalk_").trim_start_matches("operator_");
    name.trim_end_matches("_total")
}

#[test]
fn every_metric_is_in_a_readme_and_the_other_way_round() {
    let mut offenders = Vec::new();
    for (side, at_least) in [("broker", 34), ("operator", 18)] {
        let readme = format!("{side}/README.md");
        let text = read(&readme);
        let documented: BTreeSet<&str> = rows(&text)
            .into_iter()
            .map(|row| row[0].trim_matches('`'))
            .filter(|name| name.starts_with("ropewalk_") || name.starts_with("process_"))
            .collect();
        let counted: BTreeSet<String> = rust_files()
            .filter(|(path, _)| path.starts_with(&format!("{side}/src")) && !is_test(path))
            .filter(|(_, text)| text.contains("prometheus_client"))
            .flat_map(|(_, text)| metrics_in(&text))
            .collect();
        assert!(
            counted.len() >= at_least,
            "{side}: too few metrics were found in the code: {counted:?}"
        );
        let is_same = |shown: &str, name: &str| {
            let rest = plain(shown).strip_prefix(name);
            matches!(rest, Some("" | "_bytes" | "_seconds"))
        };
        let missing =
            counted.iter().filter(|name| !documented.iter().any(|shown| is_same(shown, name)));
        offenders.extend(missing.map(|name| format!("{readme} lacks the metric {name}")));
        let gone =
            documented.iter().filter(|shown| !counted.iter().any(|name| is_same(shown, name)));
        offenders.extend(gone.map(|name| format!("{readme}: no code exports {name}")));
    }
    assert_none("READMEs list the metrics that are exported", &offenders);
}

/// The numbers that follow `mark` in the text.
fn numbers(text: &str, mark: &str) -> BTreeSet<u8> {
    let after = text.split(mark).skip(1);
    let digits =
        after.map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
    digits.filter_map(|digits| digits.parse().ok()).collect()
}

/// The body of a method, from its name to its closing brace.
fn body<'a>(text: &'a str, name: &str) -> &'a str {
    let rest = text.split(name).nth(1).unwrap_or_else(|| panic!("no function {name}"));
    rest.split("\n    }\n").next().unwrap_or_default()
}

#[test]
fn every_exit_code_is_in_a_readme() {
    let mut codes = numbers(&read("broker/src/stop.rs"), "=> ");
    codes.extend(numbers(&read("broker/src/supervision.rs"), "i32 = "));
    codes.insert(0);
    let readme = read("broker/README.md");
    let section = readme.split("## Exit codes").nth(1).and_then(|rest| rest.split("\n## ").next());
    let documented: BTreeSet<u8> = rows(section.expect("a section about exit codes"))
        .into_iter()
        .filter_map(|row| row[0].parse().ok())
        .collect();
    assert!(codes.len() >= 10, "too few exit codes were found in the code: {codes:?}");
    assert_eq!(documented, codes, "broker/README.md lists the exit codes of the broker");
    let help = read("broker/src/flags.rs").split_whitespace().collect::<Vec<_>>().join(" ");
    let operator = read("operator/README.md");
    let line = operator.split("**Exit codes**").nth(1).and_then(|rest| rest.split("\n- ").next());
    let line = line.expect("operator/README.md has a line about exit codes");
    let mut offenders = Vec::new();
    for code in numbers(body(&read("operator/src/supervision.rs"), "fn exit_code(self)"), "=> ") {
        if !line.contains(&format!(" {code} ")) {
            offenders.push(format!("operator/README.md lacks {code}"));
        }
    }
    let shown = |code: &&u8| help.contains(&format!("{code} ")) || **code == 0;
    offenders.extend(codes.iter().filter(|code| !shown(code)).map(|c| format!("--help lacks {c}")));
    assert_none("READMEs and --help list the exit codes", &offenders);
}

#[test]
fn every_admin_route_is_in_the_readme() {
    let admin = read("broker/src/admin.rs");
    let readme = read("broker/README.md");
    let rows = rows(&readme);
    let methods = ["(\"GET /", "(\"PUT /", "(\"POST /", "(\"DELETE /"];
    let routes: Vec<&str> = methods
        .iter()
        .flat_map(|mark| admin.match_indices(mark))
        .filter_map(|(at, _)| admin[at..].split('"').nth(1))
        .collect();
    assert!(routes.len() >= 14, "too few routes were found in the code: {routes:?}");
    let is_shown = |route: &str| rows.iter().any(|row| row[0] == format!("`{route}`"));
    let offenders: Vec<_> =
        routes.iter().filter(|route| !is_shown(route)).map(|route| (*route).to_owned()).collect();
    assert_none("broker/README.md lists every admin route", &offenders);
}
