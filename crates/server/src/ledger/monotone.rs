//! Which policies can be asked about one row of what they read.
//!
//! Say a policy reads `memberships` once, and more rows there can only make it true for more rows of its own table. Then
//! what the change of one membership makes visible or takes away is among the rows for which the policy is true when the
//! table holds that membership alone, as it was or as it is: whatever made a row visible through the table was one row of
//! it. So these rows are looked at, and no others.
//!
//! That is sound only for what is recognised here, and everything else goes the long way. The table is read once, in an
//! `EXISTS (...)` or `x IN (...)`, which stands, maybe within others, under AND, OR and WHERE or ON alone: nothing negates
//! or compares it, and no aggregate, outer join, LIMIT or the like is anywhere in the expression. Nor is a view, which may
//! read the table again.

use crate::policy::words::{Word, Words, unquoted};
use std::collections::BTreeSet;

/// Words with which an expression goes the long way.
const OTHERS: &[&str] = &[
    "NOT",
    "NOTNULL",
    "ISNULL",
    "CASE",
    "BETWEEN",
    "EXCEPT",
    "INTERSECT",
    "UNION",
    "LEFT",
    "RIGHT",
    "FULL",
    "OUTER",
    "NATURAL",
    "CROSS",
    "GROUP",
    "HAVING",
    "LIMIT",
    "OFFSET",
    "OVER",
    "WINDOW",
    "FILTER",
    "WITH",
    "VALUES",
    "COUNT",
    "SUM",
    "TOTAL",
    "AVG",
    "MIN",
    "MAX",
    "IIF",
    "IF",
    "COALESCE",
    "IFNULL",
    "NULLIF",
    "MAIN",
    "TEMP",
    "RAISE",
    "COLLATE",
    "INDEXED",
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A bare word, in capitals.
    Word(String),
    /// A name that is quoted.
    Quoted(String),
    Symbol(char),
    Literal,
}

/// A token, and where its text ends.
pub(super) type Placed = (Token, usize, usize);

pub(super) fn tokens(text: &str) -> Option<Vec<Placed>> {
    let (mut found, mut at) = (Vec::new(), 0);
    for step in Words::new(text) {
        let (word, source) = step.ok()?;
        let (from, to) = (at, at + source.len());
        at = to;
        let token = match word {
            Word::Gap => continue,
            Word::Symbol(symbol) => Token::Symbol(symbol),
            Word::Literal => Token::Literal,
            Word::Name(name) if name.starts_with(['"', '`', '[']) => {
                Token::Quoted(unquoted(name).into_owned())
            }
            Word::Name(name) => Token::Word(name.to_ascii_uppercase()),
        };
        found.push((token, from, to));
    }
    Some(found)
}

pub(super) fn is_word(token: Option<&Placed>, words: &[&str]) -> bool {
    matches!(token, Some((Token::Word(word), ..)) if words.contains(&word.as_str()))
}

pub(super) fn is_symbol(token: Option<&Placed>, symbol: char) -> bool {
    matches!(token, Some((Token::Symbol(found), ..)) if *found == symbol)
}

/// For each opening parenthesis the place of its closing one.
pub(super) fn closings(tokens: &[Placed]) -> Option<Vec<usize>> {
    let (mut closings, mut open) = (vec![0; tokens.len()], Vec::new());
    for at in 0..tokens.len() {
        if is_symbol(tokens.get(at), '(') {
            open.push(at);
        } else if is_symbol(tokens.get(at), ')') {
            closings[open.pop()?] = at;
        }
    }
    open.is_empty().then_some(closings)
}

/// What of a condition depends on `table`: the condition itself, or those of its alternatives that name the table. `None`
/// if it cannot be asked about single rows of it.
pub(super) fn part_of(condition: &str, table: &str) -> Option<String> {
    let tokens = tokens(condition)?;
    let closings = closings(&tokens)?;
    let others = |token: &Placed| is_word(Some(token), OTHERS);
    if tokens.iter().any(others) {
        return None;
    }
    let at = only_reading(&tokens, table)?;
    is_read_positively(&tokens, &closings, at)?;
    Some(alternatives(condition, &tokens, &closings, at))
}

/// Whether an expression names any of these views: they may read the table, too.
pub(super) fn names_any(condition: &str, views: &BTreeSet<String>) -> bool {
    !views.is_empty()
        && tokens(condition).is_none_or(|tokens| {
            tokens.iter().any(|(token, ..)| match token {
                Token::Word(name) | Token::Quoted(name) => views.contains(&name.to_ascii_lowercase()),
                Token::Symbol(_) | Token::Literal => false,
            })
        })
}

/// Where the table is read, if that is one place. As a qualifier of columns it may be named again.
pub(super) fn only_reading(tokens: &[Placed], table: &str) -> Option<usize> {
    let mut mentions = tokens.iter().enumerate().filter(|(place, (token, ..))| match token {
        Token::Word(name) | Token::Quoted(name) => {
            name.eq_ignore_ascii_case(table) && !is_symbol(tokens.get(place + 1), '.')
        }
        Token::Symbol(_) | Token::Literal => false,
    });
    let (at, _) = mentions.next()?;
    let is_qualified = at > 0 && is_symbol(tokens.get(at - 1), '.');
    (mentions.next().is_none() && !is_qualified).then_some(at)
}

/// Whether everything around the place is AND, OR, parentheses, EXISTS or IN.
fn is_read_positively(tokens: &[Placed], closings: &[usize], at: usize) -> Option<()> {
    let around = (0..at).rev().filter(|open| is_symbol(tokens.get(*open), '(') && closings[*open] > at);
    let mut within_query = false;
    for open in around {
        let (before, is_query) = (open.checked_sub(1), is_word(tokens.get(open + 1), &["SELECT"]));
        let word_before = before.and_then(|before| tokens.get(before));
        let close = closings[open];
        let after = tokens.get(close + 1);
        let ends_well = after.is_none() || is_symbol(after, ')') || is_word(after, &["AND", "OR"]);
        let begins_well = |place: Option<usize>| {
            let token = place.and_then(|place| tokens.get(place));
            token.is_none() || is_symbol(token, '(') || is_word(token, &["AND", "OR", "WHERE", "ON"])
        };
        if !ends_well {
            return None;
        }
        if is_query && is_word(word_before, &["EXISTS"]) {
            if !begins_well(before.and_then(|before| before.checked_sub(1))) {
                return None;
            }
            within_query = true;
        } else if is_query && is_word(word_before, &["IN"]) {
            within_query = true;
        } else if !is_query && begins_well(before) {
            // Parentheses alone.
        } else {
            return None;
        }
    }
    within_query.then_some(())
}

/// Those of the alternatives on the outside of a condition in which the place lies.
fn alternatives(condition: &str, tokens: &[Placed], closings: &[usize], at: usize) -> String {
    let (mut first, mut end) = (0, tokens.len());
    loop {
        // Parentheses around all of it.
        while end > first + 1 && is_symbol(tokens.get(first), '(') && closings[first] == end - 1 {
            (first, end) = (first + 1, end - 1);
        }
        let (mut from, mut to, mut place) = (first, end, first);
        while place < end {
            if is_symbol(tokens.get(place), '(') {
                place = closings[place] + 1;
                continue;
            }
            if is_word(tokens.get(place), &["OR"]) {
                if place > at {
                    to = place;
                    break;
                }
                from = place + 1;
            }
            place += 1;
        }
        if (from, to) == (first, end) {
            break;
        }
        (first, end) = (from, to);
    }
    let text = tokens.get(first).zip(tokens.get(end - 1)).map(|(first, last)| &condition[first.1..last.2]);
    format!("({})", text.unwrap_or(condition))
}

#[cfg(test)]
mod tests {
    use super::{names_any, part_of};
    use std::collections::BTreeSet;

    #[track_caller]
    fn part(condition: &str, part: &str) {
        assert_eq!(part_of(condition, "m").as_deref(), Some(part), "{condition}");
    }

    #[test]
    fn what_is_read_once_and_positively_is_found() {
        let exists = "EXISTS (SELECT 1 FROM m WHERE m.p = t.p AND m.u = auth_userid())";
        part(exists, &format!("({exists})"));
        part(&format!("(({exists}))"), &format!("({exists})"));
        part(&format!("(owner = auth_userid() OR {exists} OR x = 1)"), &format!("({exists})"));
        part("p IN (SELECT p FROM \"M\" AS q WHERE u = 1)", "(p IN (SELECT p FROM \"M\" AS q WHERE u = 1))");
        part("a = 1 AND (b OR p IN (SELECT p FROM m))", "(a = 1 AND (b OR p IN (SELECT p FROM m)))");
        part("(a OR (b OR p IN (SELECT p FROM m)))", "(p IN (SELECT p FROM m))");
        part("(a) OR (p IN (SELECT p FROM m))", "(p IN (SELECT p FROM m))");
        let nested = "EXISTS (SELECT 1 FROM g JOIN m ON m.g = g.id WHERE g.t = t.id)";
        part(nested, &format!("({nested})"));
        let deep = "g IN (SELECT id FROM g WHERE EXISTS (SELECT 1 FROM m WHERE m.g = g.id))";
        part(deep, &format!("({deep})"));
    }

    #[test]
    fn everything_else_goes_the_long_way() {
        for condition in [
            "NOT EXISTS (SELECT 1 FROM m)",
            "p NOT IN (SELECT p FROM m)",
            "EXISTS (SELECT 1 FROM m) = 0",
            "EXISTS (SELECT 1 FROM m) IS FALSE",
            "0 = EXISTS (SELECT 1 FROM m)",
            "- EXISTS (SELECT 1 FROM m)",
            "(p IN (SELECT p FROM m)) < 1",
            "p IN (SELECT p FROM m) IS NULL",
            "abs(EXISTS (SELECT 1 FROM m))",
            "abs((EXISTS (SELECT 1 FROM m)) AND 1) = 0",
            "(SELECT r FROM m WHERE u = 1) = 'admin'",
            "EXISTS (SELECT 1 FROM m a JOIN m b)",
            "EXISTS (SELECT 1 FROM m) AND EXISTS (SELECT 1 FROM m)",
            "EXISTS (SELECT count(*) FROM m)",
            "p IN (SELECT p FROM m LIMIT 1)",
            "p IN (SELECT p FROM g LEFT JOIN m)",
            "p IN (SELECT p FROM g EXCEPT SELECT p FROM m)",
            "EXISTS (SELECT 1 FROM main.m)",
            "EXISTS (SELECT 1 FROM aux.m)",
            "EXISTS (SELECT 1 FROM g WHERE g.m = 1)",
            "(SELECT r FROM m WHERE u = 1)",
            "a = 1 AND (SELECT r FROM m)",
            "p IN (m)",
            "p IN m",
            "CASE WHEN EXISTS (SELECT 1 FROM m) THEN 0 ELSE 1 END",
            "x BETWEEN 0 AND EXISTS (SELECT 1 FROM m)",
            "EXISTS (SELECT 1 FROM g WHERE (SELECT r FROM m) = 1)",
            "p IN (SELECT abs(EXISTS (SELECT 1 FROM m)) FROM g)",
            "owner = auth_userid()",
        ] {
            assert_eq!(part_of(condition, "m"), None, "{condition}");
        }
    }

    #[test]
    fn views_are_found_by_their_names() {
        let views = BTreeSet::from(["v".to_owned()]);
        for condition in ["p IN (SELECT p FROM V)", "p IN (SELECT p FROM [v])", "'no end"] {
            assert!(names_any(condition, &views), "{condition}");
            assert!(!names_any(condition, &BTreeSet::new()), "{condition}");
        }
        assert!(!names_any("p IN (SELECT w FROM m WHERE x = 'v')", &views));
    }
}
