//! The parts of a CREATE INDEX statement, as SQLite stores it.
//!
//! SQLite tells the columns of an index, but not its expressions nor its condition; those are only in this text.

/// What follows the table's name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct IndexText {
    /// The terms as they were written, without ASC and DESC.
    pub(crate) terms: Vec<String>,
    /// The condition of a partial index.
    pub(crate) condition: Option<String>,
}

/// Splits the statement. Text that SQLite did not accept gives nothing of use, and does no harm.
pub(crate) fn split(sql: &str) -> IndexText {
    let mut text = IndexText::default();
    let (mut depth, mut from, mut at) = (0, 0, 0);
    while at < sql.len() {
        let length = token_length(&sql[at..]);
        match (&sql[at..at + length], depth) {
            ("(", _) => {
                depth += 1;
                if depth == 1 {
                    from = at + 1;
                }
            }
            (")", 1) => {
                text.terms.push(term(&sql[from..at]));
                text.condition = condition(&sql[at + 1..]);
                return text;
            }
            (")", _) => depth -= 1,
            (",", 1) => {
                text.terms.push(term(&sql[from..at]));
                from = at + 1;
            }
            _ => {}
        }
        at += length;
    }
    text
}

fn term(text: &str) -> String {
    let text = text.trim();
    for order in ["ASC", "DESC"] {
        let Some(at) = text.len().checked_sub(order.len()) else { continue };
        let ends = text.is_char_boundary(at) && text[at..].eq_ignore_ascii_case(order);
        if ends && text[..at].ends_with(|c: char| c.is_ascii_whitespace() || c == ')') {
            return text[..at].trim_end().to_owned();
        }
    }
    text.to_owned()
}

/// The text after the terms is a condition, or nothing.
fn condition(rest: &str) -> Option<String> {
    let mut at = 0;
    while at < rest.len() {
        let length = token_length(&rest[at..]);
        if rest[at..at + length].eq_ignore_ascii_case("WHERE") {
            return Some(rest[at + length..].trim().to_owned());
        }
        at += length;
    }
    None
}

/// True when an expression may call a function, or name something: a parenthesis after a word, or a quoted name.
pub(crate) fn may_call(sql: &str) -> bool {
    let (mut at, mut after_word) = (0, false);
    while at < sql.len() {
        let length = token_length(&sql[at..]);
        let token = &sql[at..at + length];
        if token.starts_with(['"', '`', '[']) || (token == "(" && after_word) {
            return true;
        }
        if !token.starts_with(|c: char| c.is_ascii_whitespace()) {
            after_word = token.starts_with(is_word);
        }
        at += length;
    }
    false
}

/// Bytes of the token at the start of `text`, which is not empty: a quoted string or name, a comment, a word, or one
/// character.
fn token_length(text: &str) -> usize {
    let first = text.chars().next().unwrap_or(' ');
    let past = |end: &str, skip: usize| text[skip..].find(end).map_or(text.len(), |at| skip + at + end.len());
    match first {
        '[' => past("]", 1),
        '\'' | '"' | '`' => quoted_length(text, first),
        '-' if text.starts_with("--") => past("\n", 2),
        '/' if text.starts_with("/*") => past("*/", 2),
        _ if is_word(first) => text.find(|c| !is_word(c)).unwrap_or(text.len()),
        _ => first.len_utf8(),
    }
}

/// Bytes of a quoted text; a doubled quote stands for one inside.
fn quoted_length(text: &str, quote: char) -> usize {
    let mut at = 1;
    while let Some(end) = text[at..].find(quote) {
        at += end + 1;
        if !text[at..].starts_with(quote) {
            return at;
        }
        at += 1;
    }
    text.len()
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(sql: &str) -> (Vec<String>, Option<String>) {
        let text = split(sql);
        (text.terms, text.condition)
    }

    #[test]
    fn terms_and_condition_are_found_behind_any_name() {
        let sql =
            "CREATE UNIQUE INDEX \"a (b\" ON [t(1)] (lower(a) /* , */ COLLATE NOCASE DESC, b || ',)''' ,
                   (c)ASC) -- (\n where d = 'x)' AND e";
        let (terms, condition) = parts(sql);
        assert_eq!(terms, ["lower(a) /* , */ COLLATE NOCASE", "b || ',)'''", "(c)"]);
        assert_eq!(condition.as_deref(), Some("d = 'x)' AND e"));
        assert_eq!(parts("CREATE UNIQUE INDEX i ON t(cascade)"), (vec!["cascade".to_owned()], None));
    }

    #[test]
    fn calls_are_told_from_literals() {
        for literal in ["1", "-1.5e3", "'f(x)'", "x'00'", "(1 + 1)", "CURRENT_TIMESTAMP", "(('a') || ('b'))"]
        {
            assert!(!may_call(literal), "{literal}");
        }
        for call in ["f(1)", "(1 + f (2))", "(datetime('now'))", "\"f\"(1)", "\"f\"", "[f](1)"] {
            assert!(may_call(call), "{call}");
        }
    }

    #[test]
    fn any_text_is_split_without_harm() {
        for sql in ["", "(", ")", "CREATE INDEX i ON t('", "(\u{e9}, \"", "(a)/*", "(a) WHERE", "[", "(-"] {
            split(sql);
        }
    }
}
