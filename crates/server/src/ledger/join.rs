//! A condition as a join, so that its rows are found from the table that it reads.
//!
//! SQLite evaluates `EXISTS (SELECT 1 FROM m WHERE m.p = t.p AND m.u = auth_userid())` row by row of `t`, and with a list
//! after IN it goes through `t` unless there is an index on `t.p`. Where `m` is a single row, and for most users not one
//! of theirs, that is a walk through a million rows for nothing. So the tables of the subquery in which `m` is read are
//! put before `t`, and the subquery's WHERE among the conditions:
//!
//! ```text
//! FROM m CROSS JOIN t WHERE (m.p = t.p) AND (m.u = auth_userid())
//! ```
//!
//! CROSS JOIN keeps the order. EXISTS is gone then; IN stays beside what is joined, which is true wherever IN is. Rows can
//! come more than once. Names mean what they meant: one that is found among the tables of the subquery alone, or among
//! those around it alone, is the same column. In a subquery that reads `m` alone, bare names of its columns get its name
//! before them; any other that is found in both is an error when the statement is prepared, and the caller then asks
//! in the plain form. What could mean something else without an error is not taken: a subquery that names its results,
//! which its WHERE could use.

use super::monotone::{Placed, Token, closings, is_symbol, is_word, only_reading, tokens};
use std::collections::BTreeMap;
use std::ops::Range;

/// Where the rows of a condition are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Join {
    /// The tables before the one whose rows are wanted.
    pub(super) beside: String,
    pub(super) condition: String,
    /// Whether rows may come as often as other tables have rows for them.
    pub(super) repeats: bool,
}

/// The join by which the rows of a condition are found from the one place where it reads a table; `None` where that is not
/// in a subquery of a plain kind. The condition is one that can be [asked](super::monotone::part_of) about single rows;
/// `columns` are those of the table that anything reads, in small letters.
pub(super) fn join(condition: &str, table: &str, columns: &[String]) -> Option<Join> {
    let tokens = tokens(condition)?;
    let closings = closings(&tokens)?;
    let at = only_reading(&tokens, table)?;
    let mut text = Text { condition, tokens, closings, qualifiers: BTreeMap::new() };
    let (mut beside, mut terms) = (Vec::new(), Vec::new());
    let mut rest = Some(0..text.tokens.len());
    while let Some(range) = rest.take() {
        let range = text.without_parentheses(range);
        let Some(conjuncts) = text.conjuncts(range.clone()) else {
            terms.push(text.of(range)?);
            break;
        };
        let (own, others): (Vec<_>, Vec<_>) = conjuncts.into_iter().partition(|part| part.contains(&at));
        for other in others {
            terms.push(text.of(other)?);
        }
        let own = own.into_iter().next()?;
        let inner = text.without_parentheses(own.clone());
        if inner != own {
            rest = Some(inner);
            continue;
        }
        let Some(query) = text.query(own.clone()) else {
            terms.push(text.of(own)?);
            break;
        };
        if let (Some(name), Some(condition)) = (text.only_table(query.from.clone(), at), &query.condition) {
            text.qualify(condition.clone(), columns, &name);
        }
        if query.is_list {
            terms.push(text.of(own)?);
        }
        beside.insert(0, text.of(query.from.clone())?);
        match query.condition {
            Some(condition) if condition.contains(&at) => rest = Some(condition),
            Some(condition) => terms.push(text.of(condition)?),
            None => {}
        }
    }
    if beside.is_empty() {
        return None;
    }
    let repeats = beside.len() > 1 || reads_more(&beside[0]);
    let terms: Vec<_> = terms.into_iter().map(|term| format!("({term})")).collect();
    let condition = if terms.is_empty() { "1".to_owned() } else { terms.join(" AND ") };
    Some(Join { beside: beside.join(" CROSS JOIN "), condition, repeats })
}

struct Text<'t> {
    condition: &'t str,
    tokens: Vec<Placed>,
    closings: Vec<usize>,
    /// What is put before bare names, by where these begin.
    qualifiers: BTreeMap<usize, String>,
}

/// A subquery after EXISTS or IN.
struct Query {
    from: Range<usize>,
    condition: Option<Range<usize>>,
    /// After IN.
    is_list: bool,
}

impl Text<'_> {
    fn of(&self, range: Range<usize>) -> Option<String> {
        let (first, last) = (self.tokens.get(range.start)?, self.tokens.get(range.end.checked_sub(1)?)?);
        let (mut text, mut from) = (String::new(), first.1);
        for (at, qualifier) in self.qualifiers.range(first.1..last.2) {
            text += self.condition.get(from..*at)?;
            text += qualifier;
            from = *at;
        }
        Some(text + self.condition.get(from..last.2)?)
    }

    /// What the table at this place is called, where nothing else follows a FROM.
    fn only_table(&self, from: Range<usize>, at: usize) -> Option<String> {
        let is_name = |token: &Token| matches!(token, Token::Word(_) | Token::Quoted(_));
        if from.start != at {
            return None;
        }
        let name = match self.tokens.get(from)? {
            [_] => at,
            [_, (alias, ..)] if is_name(alias) => at + 1,
            [_, (Token::Word(word), ..), (alias, ..)] if word == "AS" && is_name(alias) => at + 2,
            _ => return None,
        };
        self.of(name..name + 1)
    }

    /// Puts a table's name before those of its columns that stand bare in a condition, outside of subqueries in it.
    fn qualify(&mut self, condition: Range<usize>, columns: &[String], name: &str) {
        let mut place = condition.start;
        while place < condition.end {
            let is_symbol_at = |place: usize, symbol| is_symbol(self.tokens.get(place), symbol);
            if is_symbol_at(place, '(') && is_word(self.tokens.get(place + 1), &["SELECT"]) {
                place = self.closings[place];
            }
            let is_bare = !is_symbol_at(place - 1, '.')
                && !['.', '('].iter().any(|symbol| is_symbol_at(place + 1, *symbol));
            if let Some((Token::Word(column) | Token::Quoted(column), from, _)) = self.tokens.get(place)
                && is_bare
                && columns.contains(&column.to_ascii_lowercase())
            {
                self.qualifiers.insert(*from, format!("{name}."));
            }
            place += 1;
        }
    }

    fn without_parentheses(&self, mut range: Range<usize>) -> Range<usize> {
        while range.len() > 1
            && is_symbol(self.tokens.get(range.start), '(')
            && self.closings[range.start] == range.end - 1
            && !is_word(self.tokens.get(range.start + 1), &["SELECT"])
        {
            range = range.start + 1..range.end - 1;
        }
        range
    }

    /// The places of a range that are in no parentheses of it.
    fn outside(&self, range: Range<usize>) -> Vec<usize> {
        let (mut places, mut place) = (Vec::new(), range.start);
        while place < range.end {
            places.push(place);
            let opens = is_symbol(self.tokens.get(place), '(');
            place = if opens { self.closings[place] + 1 } else { place + 1 };
        }
        places
    }

    /// The parts of a range between its ANDs; `None` if it has an OR.
    fn conjuncts(&self, range: Range<usize>) -> Option<Vec<Range<usize>>> {
        let (mut parts, mut from) = (Vec::new(), range.start);
        for place in self.outside(range.clone()) {
            if is_word(self.tokens.get(place), &["OR"]) {
                return None;
            }
            if is_word(self.tokens.get(place), &["AND"]) {
                parts.push(from..place);
                from = place + 1;
            }
        }
        parts.push(from..range.end);
        Some(parts)
    }

    /// The subquery at the end of a range, if it is one of a plain kind.
    fn query(&self, range: Range<usize>) -> Option<Query> {
        let open = self.outside(range.clone()).into_iter().next_back()?;
        let is_last = is_symbol(self.tokens.get(open), '(') && self.closings[open] == range.end - 1;
        let before = self.tokens.get(open.checked_sub(1)?);
        let is_list = is_word(before, &["IN"]);
        let is_exists = is_word(before, &["EXISTS"]) && open == range.start + 1;
        if !is_last || !(is_list || is_exists) || !is_word(self.tokens.get(open + 1), &["SELECT"]) {
            return None;
        }
        let places = self.outside(open + 2..range.end - 1);
        let find =
            |words: &[&str]| places.iter().copied().find(|place| is_word(self.tokens.get(*place), words));
        if find(&["ORDER"]).is_some() {
            return None;
        }
        let (from, condition) = (find(&["FROM"])?, find(&["WHERE"]));
        if !self.is_plain(open + 2..from) {
            return None;
        }
        let end = condition.unwrap_or(range.end - 1);
        Some(Query {
            from: from + 1..end,
            condition: condition.map(|place| place + 1..range.end - 1),
            is_list,
        })
    }

    /// Whether results are columns, `*` and literals, and have no names of their own.
    fn is_plain(&self, results: Range<usize>) -> bool {
        let results = self.tokens.get(results).unwrap_or_default();
        let mut parts = results.split(|(token, ..)| *token == Token::Symbol(','));
        parts.all(|part| {
            let name = |token: &Token| matches!(token, Token::Word(_) | Token::Quoted(_));
            match part {
                [(only, ..)] => name(only) || matches!(only, Token::Literal | Token::Symbol('*')),
                [(of, ..), (Token::Symbol('.'), ..), (column, ..)] => {
                    name(of) && (name(column) || *column == Token::Symbol('*'))
                }
                _ => false,
            }
        })
    }
}

/// Whether the text after a FROM has more than one table.
fn reads_more(from: &str) -> bool {
    tokens(from).is_none_or(|tokens| {
        let joins = |token: &Placed| is_symbol(Some(token), ',') || is_word(Some(token), &["JOIN"]);
        tokens.iter().any(joins)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn joined(condition: &str, beside: &str, wanted: &str, repeats: bool) {
        let found = join(condition, "m", &["p".to_owned(), "u".to_owned()]).unwrap();
        let wanted = Join { beside: beside.to_owned(), condition: wanted.to_owned(), repeats };
        assert_eq!(found, wanted, "{condition}");
    }

    #[test]
    fn what_exists_is_joined() {
        joined(
            "(EXISTS (SELECT 1 FROM m AS x WHERE x.p = t.p AND x.u = f()))",
            "m AS x",
            "(x.p = t.p AND x.u = f())",
            false,
        );
        joined("a = 1 AND (EXISTS (SELECT * FROM m)) AND (b OR c)", "m", "(a = 1) AND ((b OR c))", false);
        joined(
            "EXISTS (SELECT g.a, 1 FROM g JOIN m ON m.g = g.id WHERE g.t = t.id)",
            "g JOIN m ON m.g = g.id",
            "(g.t = t.id)",
            true,
        );
        joined("EXISTS (SELECT 1 FROM m)", "m", "1", false);
        joined("(x) AND EXISTS (SELECT m.* FROM m)", "m", "((x))", false);
    }

    #[test]
    fn lists_stay_beside_what_is_joined() {
        joined(
            "p IN (SELECT q FROM m WHERE u = f())",
            "m",
            "(p IN (SELECT q FROM m WHERE m.u = f())) AND (m.u = f())",
            false,
        );
        let deep = "g IN (SELECT id FROM g WHERE x AND EXISTS (SELECT 1 FROM m WHERE m.g = g.id))";
        joined(deep, "m CROSS JOIN g", &format!("({deep}) AND (x) AND (m.g = g.id)"), true);
    }

    #[test]
    fn bare_names_of_the_table_are_told_from_those_around() {
        let bare =
            "EXISTS (SELECT 1 FROM m WHERE P = t.p AND u() = \"u\" AND x = 'u' AND t.u IN (SELECT u FROM g))";
        let told = "(m.P = t.p AND u() = m.\"u\" AND x = 'u' AND t.u IN (SELECT u FROM g))";
        joined(bare, "m", told, false);
        joined(
            "EXISTS (SELECT 1 FROM m [an m] WHERE abs(u) = u)",
            "m [an m]",
            "(abs([an m].u) = [an m].u)",
            false,
        );
        joined("EXISTS (SELECT 1 FROM m AS x WHERE u = 1)", "m AS x", "(x.u = 1)", false);
        joined("EXISTS (SELECT 1 FROM m 'x' WHERE u = 1)", "m 'x'", "(u = 1)", false);
        joined("EXISTS (SELECT 1 FROM m AS 'x' WHERE u = 1)", "m AS 'x'", "(u = 1)", false);
        joined("EXISTS (SELECT 1 FROM m, g WHERE u = x)", "m, g", "(u = x)", true);
        joined("EXISTS (SELECT 1 FROM m JOIN g WHERE u = x)", "m JOIN g", "(u = x)", true);
    }

    #[test]
    fn only_what_is_around_is_joined_where_alternatives_follow() {
        let some = "EXISTS (SELECT 1 FROM g WHERE (x OR g.a IN (SELECT a FROM m)))";
        joined(some, "g", "(x OR g.a IN (SELECT a FROM m))", false);
    }

    #[test]
    fn other_subqueries_are_left() {
        for condition in [
            "EXISTS (SELECT 1 FROM m) OR x",
            "EXISTS (SELECT u AS p FROM m WHERE p = 1)",
            "EXISTS (SELECT u p FROM m WHERE p = 1)",
            "EXISTS (SELECT group_concat(u) FROM m WHERE u = 1)",
            "EXISTS (SELECT DISTINCT u FROM m)",
            "p IN (SELECT q FROM m ORDER BY q)",
            "m = 1",
            "NOT EXISTS (SELECT 1 FROM m)",
            "p = (SELECT q FROM m WHERE u = 1)",
            "EXISTS (SELECT 'a'.b FROM m)",
            "(SELECT a FROM g WHERE x AND EXISTS (SELECT 1 FROM m))",
        ] {
            assert_eq!(join(condition, "m", &[]), None, "{condition}");
        }
    }
}
