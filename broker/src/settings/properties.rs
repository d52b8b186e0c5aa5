//! Parser of Java's properties format, the format of Kafka's configuration files.
//!
//! Comments begin with `#` or `!`; a key ends at the first `=`, `:` or blank that is not escaped; a
//! line that ends in a backslash continues on the next.

/// Parses a file: pairs in file order, each with the number of its first line.
pub(super) fn parse(text: &str) -> Vec<(usize, String, String)> {
    let mut pairs = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let mut logical = line.trim_start().to_owned();
        if logical.is_empty() || logical.starts_with(['#', '!']) {
            continue;
        }
        while continues(&logical) {
            logical.pop();
            let Some((_, next)) = lines.next() else { break };
            logical.push_str(next.trim_start());
        }
        let (key, value) = split(&logical);
        pairs.push((at + 1, unescape(key), unescape(value)));
    }
    pairs
}

/// Whether the line ends in an odd number of backslashes.
fn continues(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|c: char| {
        let ends = !escaped && (matches!(c, '=' | ':') || c.is_whitespace());
        escaped = c == '\\' && !escaped;
        ends
    });
    let Some(end) = end else { return (line, "") };
    let rest = line[end..].trim_start();
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (&line[..end], rest.trim())
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\u{c}'),
            Some('u') => {
                let digits: String = chars.by_ref().take(4).collect();
                let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                out.push(code.unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(line: usize, key: &str, value: &str) -> (usize, String, String) {
        (line, key.into(), value.into())
    }

    #[test]
    fn a_file_of_kafkas_is_read() {
        let text = "# The role\n\n! also a comment\nnode.id=1\nlisteners = PLAINTEXT://:9092\nlog.dirs : /tmp/a\nflag\n";
        assert_eq!(
            parse(text),
            [
                pair(4, "node.id", "1"),
                pair(5, "listeners", "PLAINTEXT://:9092"),
                pair(6, "log.dirs", "/tmp/a"),
                pair(7, "flag", ""),
            ]
        );
    }

    #[test]
    fn lines_go_on_and_escapes_are_undone() {
        assert_eq!(parse("a = b,\\\n    c\nd=1"), [pair(1, "a", "b,c"), pair(3, "d", "1")]);
        assert_eq!(parse("k\\=x=\\u0041\\\\"), [pair(1, "k=x", "A\\")]);
        assert_eq!(parse("a=b\\"), [pair(1, "a", "b")]);
    }
}
