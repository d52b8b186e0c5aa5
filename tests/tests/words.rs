//! Prose is plain, standard English: comments, messages and documents use no word of the list
//! below.
//!
//! `tests/run lint` runs this. In Rust files the checks cover comments and string literals, because
//! log lines, metric HELP and error texts are string literals; in documents, charts and CRDs they
//! cover the text outside of code.

use std::collections::BTreeMap;
use std::ops::Range;

use proc_macro2::{Literal, TokenStream, TokenTree};
use ropewalk_tests::{assert_none, files, is_generated, is_test, read, rust_files};

/// Columns that a comment may have.
const COMMENT_COLUMNS_MAX: usize = 100;

/// Fewest words of a doc comment.
const DOC_WORDS_MIN: usize = 3;

/// Words that no prose uses, each with what to write instead. Several words match across one space.
const BANNED: &[(&str, &str)] = &[
    ("ageing", "retention or expiry"),
    ("alarm", "timer"),
    ("alarms", "timers"),
    ("anew", "again"),
    ("anybody", "the concrete subject"),
    ("asleep", "hibernated"),
    ("bell", "wake-up"),
    ("bells", "wake-ups"),
    ("believe", "accept, trust"),
    ("believed", "accepted, trusted"),
    ("believes", "accepts, trusts"),
    ("birth", "bootstrap, creation"),
    ("born", "created"),
    ("everybody", "the concrete subject"),
    ("figures", "metrics, counts"),
    ("forget", "remove, release, discard"),
    ("forgets", "removes, releases, discards"),
    ("forgotten", "removed, released, discarded"),
    ("goes", "is sent, is removed, moves"),
    ("he", "it, they"),
    ("him", "it, them"),
    ("himself", "itself"),
    ("his", "its, their"),
    ("keeper", "checkpointer"),
    ("left alone", "skipped"),
    ("let go", "released"),
    ("lets go", "releases"),
    ("letting go", "releasing"),
    ("look at", "inspect, read, check"),
    ("looked at", "inspected, read, checked"),
    ("looking at", "inspecting, reading, checking"),
    ("looks at", "inspects, reads, checks"),
    ("nap", "hibernation"),
    ("nobody", "no client, no task: the concrete subject"),
    ("of its own accord", "by itself"),
    ("once more", "again"),
    ("purse", "token bucket"),
    ("put right", "reconciled, corrected"),
    ("puts right", "reconciles, corrects"),
    ("rival", "conflicting autoscaler"),
    ("rivals", "conflicting autoscalers"),
    ("seat", "group handle"),
    ("seats", "group handles"),
    ("shelf", "partition logs"),
    ("slumber", "hibernation"),
    ("somebody", "the concrete subject"),
    ("stand", "are, be"),
    ("stands", "is"),
    ("stood", "was"),
    ("strays", "orphans"),
    ("tell", "report, notify"),
    ("telling", "reporting"),
    ("tells", "reports, notifies"),
    ("told", "reported, notified, informed"),
    ("whoever", "the concrete subject"),
    ("whom", "the concrete subject"),
];

/// One piece of prose: the line on which it begins, and its text.
struct Prose {
    line: usize,
    text: String,
}

/// The bytes of the file that belong to each token, in order, and the literal if it is one. Doc
/// comments are literals, too; other comments lie between tokens.
fn tokens(stream: TokenStream, found: &mut Vec<(Range<usize>, Option<Literal>)>) {
    for token in stream {
        match token {
            TokenTree::Group(group) => {
                found.push((group.span_open().byte_range(), None));
                tokens(group.stream(), found);
                found.push((group.span_close().byte_range(), None));
            }
            TokenTree::Literal(literal) => {
                found.push((literal.span().byte_range(), Some(literal)));
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) => {
                found.push((token.span().byte_range(), None));
            }
        }
    }
}

fn is_string(literal: &Literal) -> bool {
    let text = literal.to_string();
    text.starts_with('"') || text.starts_with("r\"") || text.starts_with("r#")
}

/// The prose of a Rust file: comments, doc comments and string literals.
fn prose_of_rust(path: &str, text: &str) -> Vec<Prose> {
    let stream: TokenStream =
        text.parse().unwrap_or_else(|error| panic!("{path} cannot be parsed: {error}"));
    let mut found = Vec::new();
    tokens(stream, &mut found);
    found.push((text.len()..text.len(), None));

    let mut prose = Vec::new();
    let mut gap_start = 0;
    for (range, literal) in found {
        let gap = text.get(gap_start..range.start).unwrap_or_default();
        if gap.contains("//") || gap.contains("/*") {
            let line = 1 + text[..gap_start].matches('\n').count();
            let comment = gap.lines().map(|line| line.trim_start().trim_start_matches('/'));
            prose.push(Prose { line, text: comment.collect::<Vec<_>>().join("\n") });
        }
        gap_start = gap_start.max(range.end);
        if let Some(literal) = literal.filter(is_string) {
            // An escaped line break separates words and is no line of the file.
            let text = literal.to_string().replace("\\n", " ");
            prose.push(Prose { line: literal.span().start().line, text });
        }
    }
    prose
}

/// The text of a document outside of code blocks and backticks, line by line.
fn prose_of_document(text: &str) -> Vec<Prose> {
    let mut prose = Vec::new();
    let mut is_code = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            prose.push(Prose { line: number + 1, text: line.to_owned() });
        }
    }
    prose
}

/// Lower-case words with the line of each. Text between backticks is code and skipped.
fn words(prose: &Prose) -> Vec<(usize, String)> {
    let mut words = Vec::new();
    for (number, line) in prose.text.lines().enumerate() {
        for part in line.split('`').step_by(2) {
            let split = part.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '_');
            let named = split.filter(|word| !word.is_empty());
            words.extend(named.map(|word| (prose.line + number, word.to_lowercase())));
        }
    }
    words
}

/// Every use of a banned word in a file.
fn banned_words(path: &str, prose: &[Prose]) -> Vec<String> {
    let mut banned: BTreeMap<&str, Vec<(Vec<&str>, &str)>> = BTreeMap::new();
    for (phrase, instead) in BANNED {
        let parts: Vec<&str> = phrase.split(' ').collect();
        banned.entry(parts[0]).or_default().push((parts, instead));
    }
    let mut offenders = Vec::new();
    for piece in prose {
        let words = words(piece);
        for (at, (line, word)) in words.iter().enumerate() {
            for (phrase, instead) in banned.get(word.as_str()).into_iter().flatten() {
                let here = words[at..].iter().map(|(_, word)| word.as_str());
                if here.take(phrase.len()).eq(phrase.iter().copied()) {
                    offenders.push(format!("{path}:{line}: `{}`: {instead}", phrase.join(" ")));
                }
            }
        }
    }
    offenders
}

/// The files whose prose is read by people: code, documents, charts and CRDs.
fn prose_of_tree() -> Vec<(String, Vec<Prose>)> {
    let this_file = "tests/tests/words.rs";
    let mut found = Vec::new();
    for path in files().into_iter().filter(|path| path != this_file && !is_generated(path)) {
        let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
        let prose = match extension {
            "rs" => prose_of_rust(&path, &read(&path)),
            "md" | "yaml" | "yml" | "toml" | "txt" if !path.starts_with("tests/suites/") => {
                prose_of_document(&read(&path))
            }
            _ => continue,
        };
        found.push((path, prose));
    }
    found
}

#[test]
fn prose_uses_standard_terms() {
    let tree = prose_of_tree();
    let offenders: Vec<String> =
        tree.iter().flat_map(|(path, prose)| banned_words(path, prose)).collect();
    assert_none(&format!("{} words that have a plainer one", offenders.len()), &offenders);
}

#[test]
fn comments_wrap() {
    let mut offenders = Vec::new();
    for (path, text) in rust_files().filter(|(path, _)| !is_generated(path)) {
        for (number, line) in text.lines().enumerate() {
            let is_comment = line.trim_start().starts_with("//");
            // A link cannot be broken.
            if is_comment && line.chars().count() > COMMENT_COLUMNS_MAX && !line.contains("://") {
                offenders.push(format!("{path}:{}", number + 1));
            }
        }
    }
    assert_none(&format!("comments have at most {COMMENT_COLUMNS_MAX} columns"), &offenders);
}

/// The doc comments of a file, each block of lines joined, with the line on which it begins.
fn doc_comments(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut before = "";
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let mark = ["///", "//!"].into_iter().find(|mark| line.starts_with(mark)).unwrap_or("");
        if !mark.is_empty() {
            let words = line[mark.len()..].trim();
            match found.last_mut() {
                Some((_, block)) if before == mark => *block += &format!(" {words}"),
                _ => found.push((number + 1, words.to_owned())),
            }
        }
        before = mark;
    }
    found
}

#[test]
fn doc_comments_say_something() {
    let mut offenders = Vec::new();
    for (path, text) in rust_files().filter(|(path, _)| !is_generated(path) && !is_test(path)) {
        for (line, comment) in doc_comments(&text) {
            if comment.split_whitespace().count() < DOC_WORDS_MIN {
                offenders.push(format!("{path}:{line}: {comment}"));
            }
        }
    }
    assert_none(&format!("a doc comment has at least {DOC_WORDS_MIN} words"), &offenders);
}

#[test]
fn the_checks_find_what_they_look_for() {
    let rust = "/// It is told.\nfn f() {\n    // Let\n    // go.\n    g(\"nobody\\n\", 'a');\n}\n";
    let found = banned_words("x.rs", &prose_of_rust("x.rs", rust));
    let lines: Vec<&str> = found.iter().map(|found| found.split(": ").next().unwrap()).collect();
    assert_eq!(lines, ["x.rs:1", "x.rs:3", "x.rs:5"]);
    let document = prose_of_document("it `stands`\n```\ntold\n```\nit stands\n");
    assert_eq!(banned_words("x.md", &document), ["x.md:5: `stands`: is"]);
    assert_eq!(doc_comments("/// One.\n/// Two.\nfn f() {}\n")[0], (1, "One. Two.".to_owned()));
}
