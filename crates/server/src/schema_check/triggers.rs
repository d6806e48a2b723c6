//! What the app's triggers on a table will do when changes of other devices arrive.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use cloudsync_replica::quote_identifier;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use crate::sql_text::token_bytes;

use super::{Finding, Severity, Subject};

/// Triggers, and the tables to which they write.
type Writes = BTreeSet<(String, String)>;

pub(super) fn check(subject: &mut Subject<'_>) -> rusqlite::Result<Vec<Finding>> {
    // language=SQLite
    let sql = "SELECT name, sql FROM main.sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE \
               AND name NOT LIKE 'cloudsync\\_%' ESCAPE '\\' ORDER BY name";
    let triggers: Vec<(String, String)> = {
        let mut statement = subject.connection.prepare(sql)?;
        let found = statement.query_map([subject.table], |row| Ok((row.get(0)?, row.get(1)?)))?;
        found.collect::<rusqlite::Result<_>>()?
    };
    let mut findings = Vec::new();
    for (name, sql) in &triggers {
        if raises(sql) {
            findings.push(Finding::new(
                Severity::Warning,
                "trigger_raises",
                format!("trigger {name}"),
                "it raises: a change that is good on the device where it was made is refused or waits elsewhere",
                "let it look at nothing but the row itself, or check in the app or by a policy",
            ));
        }
    }
    if triggers.is_empty() {
        return Ok(findings);
    }
    let (writes, faults) = what_they_write(subject)?;
    for (trigger, table) in writes {
        if subject.syncs(&table) && !trigger.to_ascii_lowercase().starts_with("cloudsync_") {
            findings.push(Finding::new(
                Severity::Warning,
                "trigger_writes",
                format!("trigger {trigger}"),
                format!(
                    "it writes to {table}, which syncs: when a change arrives that is left out, since the author's own effects come by sync"
                ),
                "let it give the same wherever it runs, or write to tables that do not sync",
            ));
        }
    }
    findings.extend(faults.into_iter().map(|fault| {
        Finding::new(
            Severity::Warning,
            "trigger_broken",
            subject.table,
            format!("its triggers cannot run on the server: {fault}"),
            "mend the trigger, or drop it here: rows that arrive are refused by it",
        )
    }));
    Ok(findings)
}

/// Which trigger writes to which table, and what keeps statements on the table from being prepared.
fn what_they_write(subject: &mut Subject<'_>) -> rusqlite::Result<(Writes, BTreeSet<String>)> {
    let table = format!("main.{}", quote_identifier(subject.table));
    let set: Vec<_> = subject.columns.iter().map(|column| quote_identifier(&column.name)).collect();
    let set = set.iter().map(|name| format!("{name} = {name}")).collect::<Vec<_>>().join(", ");
    let statements = [
        format!("INSERT INTO {table} DEFAULT VALUES"),
        format!("UPDATE {table} SET {set}"),
        format!("DELETE FROM {table}"),
    ];
    let found = Arc::new(Mutex::new(Writes::new()));
    let seen = Arc::clone(&found);
    subject.connection.authorizer(Some(move |context: AuthContext<'_>| {
        let written = match context.action {
            AuthAction::Insert { table_name }
            | AuthAction::Delete { table_name }
            | AuthAction::Update { table_name, .. } => Some(table_name),
            _ => None,
        };
        if let (Some(table), Some(trigger)) = (written, context.accessor) {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.insert((trigger.to_owned(), table.to_owned()));
        }
        Authorization::Allow
    }))?;
    // Prepared, never run.
    let faults = statements.iter().filter_map(|sql| subject.connection.prepare(sql).err());
    let faults = faults.map(|error| match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg,
        error => error.to_string(),
    });
    let faults = faults.collect();
    subject.connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
    let writes = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((writes, faults))
}

/// Whether the text of a trigger calls RAISE, outside of quotes and comments.
fn raises(sql: &str) -> bool {
    let mut rest = sql;
    while let Some(character) = rest.chars().next() {
        let (token, after) = rest.split_at(token_bytes(rest, character));
        if token.eq_ignore_ascii_case("raise") && after.trim_start().starts_with('(') {
            return true;
        }
        rest = after;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raise_is_told_from_what_looks_like_it() {
        assert!(raises("BEGIN SELECT raise (ABORT, 'no'); END"));
        assert!(raises("BEGIN SELECT CASE WHEN NEW.a THEN RAISE(IGNORE) END; END"));
        for sql in
            ["SELECT 'RAISE(ABORT)'", "-- RAISE(\nSELECT 1", "SELECT praise(1), \"raise\"(2)", "SELECT raise"]
        {
            assert!(!raises(sql), "{sql}");
        }
    }
}
