//! What a filter may say: this table's columns, literals, operators, and built-in functions that give the same for the
//! same values in every SQLite since 3.35, and never fail. Triggers hold the text, so the file must stay readable and
//! writable wherever it goes, and a row must never be inside for one connection and outside for another.
//!
//! SQLite parses the expression; here only its words are looked at.

/// Bytes of an expression at most.
const BYTES_MAX: usize = 4_096;

const KEYWORDS: &[&str] = &[
    "AND", "OR", "NOT", "IS", "NULL", "ISNULL", "NOTNULL", "IN", "BETWEEN", "LIKE", "GLOB", "ESCAPE", "CASE",
    "WHEN", "THEN", "ELSE", "END", "COLLATE", "CAST", "AS", "TRUE", "FALSE",
];
const TYPES: &[&str] = &["INTEGER", "INT", "REAL", "TEXT", "BLOB", "NUMERIC"];
const COLLATIONS: &[&str] = &["BINARY", "NOCASE", "RTRIM"];
const FUNCTIONS: &[&str] = &[
    "coalesce", "glob", "ifnull", "iif", "instr", "length", "like", "lower", "ltrim", "max", "min", "nullif",
    "round", "rtrim", "sign", "substr", "trim", "typeof", "unicode", "upper",
];

#[derive(Debug, PartialEq, Eq)]
enum Token<'t> {
    /// A bare word, or a quoted name.
    Name {
        text: String,
        quoted: bool,
    },
    /// A number, a text or a BLOB.
    Literal,
    Symbol(&'t str),
}

/// Checks an expression over a table with these columns.
///
/// # Errors
/// What is wrong with it, for people to read.
pub(super) fn check(text: &str, columns: &[&str]) -> Result<(), String> {
    if text.len() > BYTES_MAX {
        return Err(format!("it has {} bytes, more than {BYTES_MAX}", text.len()));
    }
    let tokens = tokens(text)?;
    if tokens.is_empty() {
        return Err("it is empty".to_owned());
    }
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Symbol("(") => depth += 1,
            Token::Symbol(")") => {
                depth = depth.checked_sub(1).ok_or("it closes a parenthesis that it does not open")?;
            }
            Token::Symbol(_) | Token::Literal => {}
            Token::Name { text, quoted } => {
                let before = at.checked_sub(1).and_then(|at| tokens.get(at));
                let calls = tokens.get(at + 1) == Some(&Token::Symbol("("));
                check_name(text, *quoted, before, calls, columns)?;
            }
        }
    }
    if depth == 0 { Ok(()) } else { Err("it opens a parenthesis that it does not close".to_owned()) }
}

fn check_name(
    name: &str,
    quoted: bool,
    before: Option<&Token<'_>>,
    calls: bool,
    columns: &[&str],
) -> Result<(), String> {
    let is_in = |list: &[&str]| list.iter().any(|known| known.eq_ignore_ascii_case(name));
    let follows = |word: &str| matches!(before, Some(Token::Name { text, quoted: false }) if text.eq_ignore_ascii_case(word));
    if follows("COLLATE") {
        return if is_in(COLLATIONS) {
            Ok(())
        } else {
            Err(format!("collation {name}: it may use {}", COLLATIONS.join(", ")))
        };
    }
    if follows("AS") {
        return if is_in(TYPES) {
            Ok(())
        } else {
            Err(format!("CAST to {name}: it may cast to {}", TYPES.join(", ")))
        };
    }
    if !quoted && is_in(KEYWORDS) {
        return Ok(());
    }
    if !quoted && ["SELECT", "WITH", "VALUES", "EXISTS"].iter().any(|word| name.eq_ignore_ascii_case(word)) {
        return Err(format!("{name}: it may not hold a subquery"));
    }
    if calls {
        return if is_in(FUNCTIONS) {
            Ok(())
        } else {
            Err(format!("{name}(): it may call {}", FUNCTIONS.join(", ")))
        };
    }
    if columns.iter().any(|column| column.eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    Err(format!("the table has no column \"{name}\""))
}

fn tokens(text: &str) -> Result<Vec<Token<'_>>, String> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let next = bytes.get(at + 1).copied();
        let (token, end) = match byte {
            b' ' | b'\t' | b'\n' | b'\x0c' | b'\r' => {
                at += 1;
                continue;
            }
            b'\'' => (Token::Literal, quoted_end(bytes, at, b'\'')?),
            b'"' | b'`' | b'[' => {
                let close = if *byte == b'[' { b']' } else { *byte };
                let end = quoted_end(bytes, at, close)?;
                let close = char::from(close);
                let text = text[at + 1..end - 1].replace(&format!("{close}{close}"), &close.to_string());
                (Token::Name { text, quoted: true }, end)
            }
            b'0'..=b'9' => (Token::Literal, number_end(bytes, at)?),
            b'.' if next.is_some_and(|byte| byte.is_ascii_digit()) => {
                (Token::Literal, number_end(bytes, at)?)
            }
            b'x' | b'X' if next == Some(b'\'') => (Token::Literal, quoted_end(bytes, at + 1, b'\'')?),
            byte if is_word(*byte) => {
                let length =
                    bytes[at..].iter().take_while(|byte| is_word(**byte) || byte.is_ascii_digit()).count();
                let name = Token::Name { text: text[at..at + length].to_owned(), quoted: false };
                (name, at + length)
            }
            _ => symbol(text, at, next)?,
        };
        tokens.push(token);
        at = end;
    }
    Ok(tokens)
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn symbol(text: &str, at: usize, next: Option<u8>) -> Result<(Token<'_>, usize), String> {
    let refused = |what: &str| Err(format!("{what} at byte {}", at + 1));
    match (text.as_bytes()[at], next) {
        (b'-', Some(b'-')) | (b'/', Some(b'*')) => refused("it may not hold a comment:"),
        (b'-', Some(b'>')) => refused("it may not use the operator ->:"),
        (b'?' | b':' | b'@' | b'$' | b'#', _) => refused("it may not have parameters:"),
        (b'.', _) => refused("it names columns without their table:"),
        (
            b'(' | b')' | b',' | b'+' | b'-' | b'*' | b'/' | b'%' | b'|' | b'&' | b'<' | b'>' | b'=' | b'!'
            | b'~',
            _,
        ) => Ok((Token::Symbol(&text[at..=at]), at + 1)),
        _ => refused("it has a character that no expression has:"),
    }
}

/// Where a quoted text or name ends that begins at `start`.
fn quoted_end(bytes: &[u8], start: usize, close: u8) -> Result<usize, String> {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        at += 1;
        if *byte == close {
            if close == b']' || bytes.get(at) != Some(&close) {
                return Ok(at);
            }
            at += 1;
        } else if *byte == 0 {
            break;
        }
    }
    Err(format!("it does not close what it opens at byte {}", start + 1))
}

fn number_end(bytes: &[u8], start: usize) -> Result<usize, String> {
    let hex = bytes[start] == b'0' && matches!(bytes.get(start + 1), Some(b'x' | b'X'));
    let mut at = start + if hex { 2 } else { 0 };
    while let Some(byte) = bytes.get(at) {
        let exponent = !hex && matches!(byte, b'e' | b'E');
        let belongs =
            if hex { byte.is_ascii_hexdigit() } else { byte.is_ascii_digit() || *byte == b'.' || exponent };
        if !belongs {
            break;
        }
        at += 1;
        if exponent && matches!(bytes.get(at), Some(b'+' | b'-')) {
            at += 1;
        }
    }
    // Newer versions of SQLite let digits be parted by underscores.
    match bytes.get(at) {
        Some(byte) if is_word(*byte) => Err(format!("it has a damaged number at byte {}", start + 1)),
        _ => Ok(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[&str] = &["id", "owner", "a b", "n", "end", "Größe"];

    #[test]
    fn expressions_over_columns_are_accepted() {
        for text in [
            "owner = 'me'",
            "OWNER='it''s; -- no comment'",
            "\"a b\" IS NOT NULL AND [a b] <> `a b`",
            "n BETWEEN -1.5e-3 AND 0xff OR n IN (1, 2, .5)",
            "CASE WHEN n THEN 1 ELSE 0 END",
            "CAST(n AS INTEGER) % 2 = 0 AND owner LIKE 'a%' ESCAPE '!'",
            "coalesce(length(owner), 0) > 3 AND substr(owner, 1, 1) COLLATE nocase = 'A'",
            "\"end\" = x'00ff'",
            "Größe > 2",
            "n & 1 AND ~n | 2 AND (n << 2) >= 8 AND n != 3 AND n / 2 * 3 = 1",
            "TRUE",
            "n\nNOTNULL",
        ] {
            assert_eq!(check(text, COLUMNS), Ok(()), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_and_named() {
        let long = format!("n = {}", "1".repeat(BYTES_MAX));
        for (text, reason) in [
            ("", "empty"),
            (" \n", "empty"),
            (long.as_str(), "more than 4096"),
            ("stranger = 1", "\"stranger\""),
            ("owner = \"me\"", "\"me\""),
            ("t.owner = 'me'", "without their table"),
            ("NEW.owner", "without their table"),
            ("rowid > 1", "\"rowid\""),
            ("n = ?", "parameters"),
            ("n = :a", "parameters"),
            ("n = $a", "parameters"),
            ("n IN (SELECT 1)", "subquery"),
            ("EXISTS(SELECT 1)", "subquery"),
            ("n IN others", "\"others\""),
            ("random() > 0", "random()"),
            ("datetime('now') > owner", "datetime()"),
            ("CURRENT_TIMESTAMP > owner", "CURRENT_TIMESTAMP"),
            ("changes() = 1", "changes()"),
            ("RAISE(ABORT, 'x')", "RAISE()"),
            ("cloudsync_uuid() = 1", "cloudsync_uuid()"),
            ("\"random\"()", "random()"),
            ("owner REGEXP 'a'", "REGEXP"),
            ("owner -> 'a'", "->"),
            ("n) OR (n", "closes a parenthesis"),
            ("(n", "does not close"),
            ("n -- x", "comment"),
            ("n /* x", "comment"),
            ("n; DROP TABLE t", "character"),
            ("owner = 'me", "does not close what it opens"),
            ("\"owner", "does not close what it opens"),
            ("n = 1_000", "number"),
            ("owner COLLATE mine = 'a'", "collation mine"),
            ("CAST(n AS thing)", "CAST to thing"),
            ("n \0", "character"),
        ] {
            let refused = check(text, COLUMNS).unwrap_err();
            assert!(refused.contains(reason), "{text}: {refused}");
        }
    }
}
