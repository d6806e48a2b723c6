//! Constraints between rows: what one device cannot keep alone.

use std::collections::BTreeMap;

use cloudsync_replica::quote_identifier;

use rusqlite::Connection;

use super::{Finding, Scene, Severity, Subject};
use crate::policy::Policy;

/// One foreign key.
struct ForeignKey {
    parent: String,
    columns: Vec<String>,
    on_delete: String,
}

pub(super) fn foreign_keys(subject: &Subject<'_>) -> rusqlite::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for key in read_foreign_keys(subject.connection, subject.table)? {
        let place = subject.column(&key.columns.join(", "));
        let parent = &key.parent;
        if parent.eq_ignore_ascii_case(subject.table) {
            continue;
        }
        if !exists(subject.connection, parent)? {
            findings.push(Finding::new(
                Severity::Warning,
                "parent_missing",
                place,
                format!(
                    "the foreign key names the table {parent}, which does not exist: every row is refused"
                ),
                format!("create {parent}, or drop the foreign key"),
            ));
            continue;
        }
        if !subject.syncs(parent) {
            findings.push(Finding::new(
                Severity::Warning,
                "parent_not_synced",
                place.clone(),
                format!("the parent table {parent} does not sync: rows whose parent is not there are refused or wait"),
                format!("make {parent} sync too, before this one"),
            ));
        }
    }
    findings.extend(hidden_parents(subject.scene(), subject.table)?.into_iter().map(|(_, finding)| finding));
    // language=SQLite
    let orphans = "SELECT count(*) FROM pragma_foreign_key_check(?1, 'main')";
    // A key that fits no index of its parent is an error here, told as what it is.
    match subject.connection.query_row(orphans, [subject.table], |row| row.get::<_, i64>(0)) {
        Ok(0) => {}
        Ok(count) => findings.push(Finding::new(
            Severity::Warning,
            "orphans",
            subject.table,
            format!("{count} rows have no parent now"),
            "`PRAGMA foreign_key_check` lists them: delete them, or give them parents",
        )),
        Err(error) => findings.push(Finding::new(
            Severity::Warning,
            "foreign_key_mismatch",
            subject.table,
            format!("a foreign key cannot be checked: {error}"),
            "let it name the primary key, or columns with a UNIQUE index, of its parent",
        )),
    }
    Ok(findings)
}

fn exists(connection: &Connection, table: &str) -> rusqlite::Result<bool> {
    // language=SQLite
    let sql =
        "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE)";
    connection.query_row(sql, [table], |row| row.get(0))
}

/// Whether users see different rows by a policy.
pub(super) fn depends_on_rows(policy: &Policy) -> bool {
    !policy.own_columns().is_empty()
}

/// Parents of which a user may not see every row, though he sees the child: the parent's name, and what is to be said.
pub(super) fn hidden_parents(scene: Scene<'_>, table: &str) -> rusqlite::Result<Vec<(String, Finding)>> {
    // Of whom nothing is shown to anybody, nothing is missed.
    if scene.policies.select_of(table).is_none() {
        return Ok(Vec::new());
    }
    let mut findings = Vec::new();
    for key in read_foreign_keys(scene.connection, table)? {
        let parent = key.parent;
        let shows_all = scene.policies.select_of(&parent).is_some_and(|policy| !depends_on_rows(policy));
        if shows_all || !exists(scene.connection, &parent)? || !scene.syncs(&parent) {
            continue;
        }
        let deletes = if key.on_delete == "NO ACTION" || key.on_delete == "RESTRICT" {
            String::new()
        } else {
            format!("; ON DELETE {} acts on rows that the user does not see", key.on_delete)
        };
        let finding = Finding::new(
            Severity::Advice,
            "parent_policy",
            format!("{table}.{}", key.columns.join(", ")),
            format!(
                "rows of {parent} may be invisible to a user who sees the child, and then has it without{deletes}"
            ),
            format!("let the SELECT policy of {table} ask for the parent, or let the app do without it"),
        );
        findings.push((parent, finding));
    }
    Ok(findings)
}

fn read_foreign_keys(connection: &Connection, table: &str) -> rusqlite::Result<Vec<ForeignKey>> {
    // language=SQLite
    let sql =
        "SELECT id, \"table\", \"from\", on_delete FROM pragma_foreign_key_list(?1, 'main') ORDER BY id, seq";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([table])?;
    let mut keys: BTreeMap<i64, ForeignKey> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let key = keys.entry(row.get(0)?).or_insert(ForeignKey {
            parent: row.get(1)?,
            columns: Vec::new(),
            on_delete: row.get(3)?,
        });
        key.columns.push(row.get(2)?);
    }
    Ok(keys.into_values().collect())
}

/// UNIQUE beside the key. Two devices that are offline may both choose a value; among users who do not see each other's
/// rows one is then refused for a reason that it cannot see.
pub(super) fn uniques(scene: Scene<'_>, table: &str) -> rusqlite::Result<Vec<Finding>> {
    // language=SQLite
    let sql = "SELECT name FROM pragma_index_list(?1, 'main') WHERE \"unique\" AND origin <> 'pk' ORDER BY seq DESC";
    let mut statement = scene.connection.prepare(sql)?;
    let indexes = statement.query_map([table], |row| row.get::<_, String>(0))?;
    let indexes: Vec<String> = indexes.collect::<rusqlite::Result<_>>()?;
    let policy = scene.policies.select_of(table);
    let mut findings = Vec::new();
    for index in indexes {
        // language=SQLite
        let sql = "SELECT coalesce(name, '(expression)') FROM pragma_index_xinfo(?1, 'main') WHERE key ORDER BY seqno";
        let mut statement = scene.connection.prepare(sql)?;
        let columns = statement.query_map([&index], |row| row.get::<_, String>(0))?;
        let columns: Vec<String> = columns.collect::<rusqlite::Result<_>>()?;
        let list = columns.iter().map(|column| quote_if_odd(column)).collect::<Vec<_>>().join(", ");
        let place = format!("{table} UNIQUE ({list})");
        let own: Vec<&str> = policy
            .map(|policy| policy.own_columns().iter().map(String::as_str).collect())
            .unwrap_or_default();
        let carries = |column: &String| own.iter().any(|name| name.eq_ignore_ascii_case(column));
        if let Some(first) = own.first()
            && !columns.iter().any(carries)
        {
            findings.push(Finding::new(
                Severity::Warning,
                "unique_without_tenant",
                place,
                "users see different rows, but the value is taken for all of them: one is refused for a row that it may not see, and learns that it exists",
                format!("let it carry what the policy asks for: UNIQUE ({}, {list})", quote_if_odd(first)),
            ));
        } else {
            findings.push(Finding::new(
                Severity::Advice,
                "unique",
                place,
                "two devices that are offline may both take a value: the row of the later one is refused, and kept in cloudsync_rejected",
                if own.is_empty() {
                    "where tenants share the table, let it carry the tenant's column"
                } else {
                    "let the app edit such a row and sync again"
                },
            ));
        }
    }
    Ok(findings)
}

fn quote_if_odd(name: &str) -> String {
    let is_plain = name.chars().all(|character| character.is_ascii_alphanumeric() || character == '_');
    if is_plain || name == "(expression)" { name.to_owned() } else { quote_identifier(name) }
}
