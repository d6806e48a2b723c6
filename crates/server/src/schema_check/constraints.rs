//! Constraints between rows: what one device cannot keep alone.

use std::collections::BTreeMap;

use cloudsync_replica::quote_identifier;

use super::{Finding, Severity, Subject};

/// One foreign key.
struct ForeignKey {
    parent: String,
    columns: Vec<String>,
    on_delete: String,
}

pub(super) fn foreign_keys(subject: &Subject<'_>) -> rusqlite::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for key in read_foreign_keys(subject)? {
        let place = subject.column(&key.columns.join(", "));
        let parent = &key.parent;
        if parent.eq_ignore_ascii_case(subject.table) {
            continue;
        }
        // language=SQLite
        let exists = "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE)";
        if !subject.connection.query_row(exists, [parent], |row| row.get::<_, bool>(0))? {
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
        if subject.policies.select_of(parent).is_some() {
            let deletes = if key.on_delete == "NO ACTION" || key.on_delete == "RESTRICT" {
                String::new()
            } else {
                format!("; ON DELETE {} acts on rows that the user does not see", key.on_delete)
            };
            findings.push(Finding::new(
                Severity::Advice,
                "parent_policy",
                place,
                format!("rows of {parent} may be invisible to a user who sees the child{deletes}"),
                format!(
                    "let the SELECT policy of {} ask for the parent, or let the app do without it",
                    subject.table
                ),
            ));
        }
    }
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

fn read_foreign_keys(subject: &Subject<'_>) -> rusqlite::Result<Vec<ForeignKey>> {
    // language=SQLite
    let sql =
        "SELECT id, \"table\", \"from\", on_delete FROM pragma_foreign_key_list(?1, 'main') ORDER BY id, seq";
    let mut statement = subject.connection.prepare(sql)?;
    let mut rows = statement.query([subject.table])?;
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
pub(super) fn uniques(subject: &Subject<'_>) -> rusqlite::Result<Vec<Finding>> {
    // language=SQLite
    let sql = "SELECT name FROM pragma_index_list(?1, 'main') WHERE \"unique\" AND origin <> 'pk' ORDER BY seq DESC";
    let mut statement = subject.connection.prepare(sql)?;
    let indexes = statement.query_map([subject.table], |row| row.get::<_, String>(0))?;
    let indexes: Vec<String> = indexes.collect::<rusqlite::Result<_>>()?;
    let policy = subject.policies.select_of(subject.table);
    let mut findings = Vec::new();
    for index in indexes {
        // language=SQLite
        let sql = "SELECT coalesce(name, '(expression)') FROM pragma_index_xinfo(?1, 'main') WHERE key ORDER BY seqno";
        let mut statement = subject.connection.prepare(sql)?;
        let columns = statement.query_map([&index], |row| row.get::<_, String>(0))?;
        let columns: Vec<String> = columns.collect::<rusqlite::Result<_>>()?;
        let list = columns.iter().map(|column| quote_if_odd(column)).collect::<Vec<_>>().join(", ");
        let place = format!("{} UNIQUE ({list})", subject.table);
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
                "where tenants share the table, let it carry the tenant's column",
            ));
        }
    }
    Ok(findings)
}

fn quote_if_odd(name: &str) -> String {
    let is_plain = name.chars().all(|character| character.is_ascii_alphanumeric() || character == '_');
    if is_plain || name == "(expression)" { name.to_owned() } else { quote_identifier(name) }
}
