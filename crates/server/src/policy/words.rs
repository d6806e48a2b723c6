//! The words of an expression. SQLite parses it; here is only made sure that it stays in the parentheses in which it is
//! put, whatever it holds: everything that is opened is closed, comments are gone, nothing follows.

use std::borrow::Cow;

/// A word of SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word<'t> {
    /// A bare word or a quoted name, as it is written.
    Name(&'t str),
    /// A number, a text or a BLOB.
    Literal,
    /// A space or a comment.
    Gap,
    Symbol(char),
}

/// An expression without its comments, or what is wrong with it.
pub(super) fn clean(text: &str) -> Result<String, String> {
    let (mut cleaned, mut open) = (String::with_capacity(text.len()), Vec::new());
    let mut is_empty = true;
    for step in Words::new(text) {
        let (word, source) = step?;
        match word {
            Word::Gap => cleaned.push(' '),
            Word::Symbol(';') => return Err("it has a semicolon: one expression is wanted".to_owned()),
            Word::Symbol(symbol @ ('?' | ':' | '@' | '#' | '$')) => {
                return Err(format!(
                    "it has a parameter, {symbol}: write the value, or call auth_userid() or auth_json()"
                ));
            }
            Word::Symbol(symbol) => {
                match symbol {
                    '(' => open.push(symbol),
                    ')' if open.pop().is_none() => {
                        return Err("it closes a parenthesis that it does not open".to_owned());
                    }
                    _ => {}
                }
                cleaned.push(symbol);
            }
            Word::Name(_) | Word::Literal => cleaned.push_str(source),
        }
        is_empty &= word == Word::Gap;
    }
    if !open.is_empty() {
        return Err("it opens a parenthesis that it does not close".to_owned());
    }
    if is_empty { Err("it is empty".to_owned()) } else { Ok(cleaned.trim().to_owned()) }
}

/// Whether the expression names a column of a row by this qualifier, as `NEW.owner`.
pub(super) fn qualifies_by(text: &str, qualifier: &str) -> bool {
    let words =
        Words::new(text).filter_map(Result::ok).map(|(word, _)| word).filter(|word| *word != Word::Gap);
    let mut is_qualifier = false;
    for word in words {
        if is_qualifier && word == Word::Symbol('.') {
            return true;
        }
        is_qualifier = matches!(word, Word::Name(name) if unquoted(name).eq_ignore_ascii_case(qualifier));
    }
    false
}

/// Whether a name occurs anywhere.
pub(super) fn names(text: &str, name: &str) -> bool {
    Words::new(text)
        .filter_map(Result::ok)
        .any(|(word, _)| matches!(word, Word::Name(found) if unquoted(found).eq_ignore_ascii_case(name)))
}

/// What follows the first three words of a CREATE TABLE statement: its columns and options.
pub(super) fn after_table_name(sql: &str) -> Option<&str> {
    let mut left = 3;
    let mut bytes = 0;
    for step in Words::new(sql) {
        let (word, source) = step.ok()?;
        bytes += source.len();
        if word != Word::Gap {
            left -= 1;
            if left == 0 {
                return sql.get(bytes..);
            }
        }
    }
    None
}

/// The name that a quoted or bare word stands for.
pub(crate) fn unquoted(name: &str) -> Cow<'_, str> {
    let close = match name.chars().next() {
        Some('[') => return Cow::Borrowed(name[1..].strip_suffix(']').unwrap_or(&name[1..])),
        Some(quote @ ('"' | '`' | '\'')) => quote,
        _ => return Cow::Borrowed(name),
    };
    let inner = name[1..].strip_suffix(close).unwrap_or(&name[1..]);
    Cow::Owned(inner.replace(&format!("{close}{close}"), &close.to_string()))
}

/// The words of a text, each with its source; ends after the first that is not whole.
pub(crate) struct Words<'t> {
    rest: &'t str,
}

impl<'t> Words<'t> {
    pub(crate) const fn new(text: &'t str) -> Self {
        Self { rest: text }
    }

    fn length(&self, first: char) -> Result<(usize, Kind), String> {
        let text = self.rest;
        let second = text[first.len_utf8()..].chars().next();
        let until = |end: &str, skip: usize| text.get(skip..)?.find(end).map(|at| skip + at + end.len());
        Ok(match (first, second) {
            ('\0', _) => return Err("it has a NUL character".to_owned()),
            ('-', Some('-')) => (until("\n", 2).unwrap_or(text.len()), Kind::Gap),
            ('/', Some('*')) => (until("*/", 2).ok_or("it does not close a comment")?, Kind::Gap),
            (' ' | '\t' | '\n' | '\x0c' | '\r', _) => (1, Kind::Gap),
            ('\'', _) => (quoted(text, '\'')?, Kind::Literal),
            ('x' | 'X', Some('\'')) => (1 + quoted(&text[1..], '\'')?, Kind::Literal),
            ('"' | '`', _) => (quoted(text, first)?, Kind::Name),
            ('[', _) => (until("]", 1).ok_or("it does not close a [")?, Kind::Name),
            (first, _) if is_word(first) => (word(text), Kind::Name),
            ('0'..='9', _) => (number(text), Kind::Literal),
            ('.', Some('0'..='9')) => (number(text), Kind::Literal),
            _ => (first.len_utf8(), Kind::Symbol),
        })
    }
}

enum Kind {
    Name,
    Literal,
    Gap,
    Symbol,
}

impl<'t> Iterator for Words<'t> {
    type Item = Result<(Word<'t>, &'t str), String>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.rest.chars().next()?;
        let (length, kind) = match self.length(first) {
            Ok(found) => found,
            Err(why) => {
                self.rest = "";
                return Some(Err(why));
            }
        };
        let (source, rest) = self.rest.split_at(length);
        self.rest = rest;
        let word = match kind {
            Kind::Name => Word::Name(source),
            Kind::Literal => Word::Literal,
            Kind::Gap => Word::Gap,
            Kind::Symbol => Word::Symbol(first),
        };
        Some(Ok((word, source)))
    }
}

const fn is_word(character: char) -> bool {
    character.is_ascii_alphabetic() || character == '_' || !character.is_ascii()
}

fn word(text: &str) -> usize {
    let ends = |character: char| !is_word(character) && !character.is_ascii_digit() && character != '$';
    text.find(ends).unwrap_or(text.len())
}

/// A number, also a damaged one, which SQLite refuses.
fn number(text: &str) -> usize {
    let (mut at, bytes) = (0, text.as_bytes());
    while let Some(byte) = bytes.get(at) {
        let is_sign = matches!(byte, b'+' | b'-') && at > 0 && matches!(bytes[at - 1], b'e' | b'E');
        let is_hex = bytes.get(1).is_some_and(|second| second.eq_ignore_ascii_case(&b'x'));
        if !(byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_') || (is_sign && !is_hex)) {
            break;
        }
        at += 1;
    }
    at
}

/// Where a quoted text ends that begins with its quote.
fn quoted(text: &str, quote: char) -> Result<usize, String> {
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if character == '\0' {
            return Err("it has a NUL character".to_owned());
        }
        if character == quote && characters.next_if(|(_, next)| *next == quote).is_none() {
            return Ok(at + quote.len_utf8());
        }
    }
    Err(format!("it does not close a {quote}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_whole_stays_as_it_is() {
        for text in [
            "owner = auth_userid()",
            "\"a ) b\" = '); --' AND [x ( y] <> `z``)`",
            "n IN (1, 2.5e-3, 0xff, .5) OR b = x'00ff'",
            "EXISTS(SELECT 1 FROM m WHERE m.p = NEW.p AND (m.role = 'it''s'))",
            "Größe > 2",
        ] {
            assert_eq!(clean(text).as_deref(), Ok(text));
        }
        assert_eq!(clean(" a /* ) ; */ = -- x ) ;\n 1 ").as_deref(), Ok("a   =   1"));
    }

    #[test]
    fn nothing_escapes_its_parentheses() {
        for (text, reason) in [
            ("1) OR (1", "closes a parenthesis"),
            ("(1", "does not close"),
            ("1; DELETE FROM t", "semicolon"),
            ("1 --", ""),
            ("a = 'x", "does not close a '"),
            ("\"a", "does not close a \""),
            ("`a", "does not close a `"),
            ("[a", "does not close a ["),
            ("1 /* x", "comment"),
            ("a = ?1", "parameter"),
            ("a = :b", "parameter"),
            ("a = @b", "parameter"),
            ("a = $b", "parameter"),
            ("a = #1", "parameter"),
            ("a\0", "NUL"),
            ("'a\0'", "NUL"),
            ("", "empty"),
            ("/* */ -- x", "empty"),
        ] {
            match clean(text) {
                Ok(cleaned) => assert_eq!((reason, &*cleaned), ("", "1"), "{text}"),
                Err(why) => assert!(!reason.is_empty() && why.contains(reason), "{text}: {why}"),
            }
        }
    }

    #[test]
    fn qualifiers_are_found_however_they_are_written() {
        for text in ["NEW.a", "1 = new . a", "[New].a", "\"new\"/**/.a", "(NEW.a)"] {
            assert!(qualifies_by(text, "NEW"), "{text}");
        }
        for text in ["new = 1", "'NEW.a'", "news.a", "a.new"] {
            assert!(!qualifies_by(text, "NEW"), "{text}");
        }
        assert_eq!(after_table_name("CREATE TABLE \"a b\"(c, d) STRICT"), Some("(c, d) STRICT"));
    }
}
