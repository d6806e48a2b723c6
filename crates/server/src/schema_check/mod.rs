//! What stands in the way of a table's syncing, or will surprise its owner later, each with the remedy.
//!
//! Whether a table can sync at all is the replica's own rule, asked first. The rest reads the schema, and asks SQLite's
//! authorizer what triggers do. `docs/schema.md` gives the same advice with examples.

mod constraints;
mod policies;
mod triggers;

pub use self::policies::of_policies;

use rusqlite::Connection;
use serde::Serialize;

use crate::policy::Policies;
use cloudsync_protocol::schema::{Affinity, ColumnSchema};
use cloudsync_replica::quote_identifier;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The table cannot sync.
    Error,
    /// Rows will be refused, or wait, or differ, unless something is done.
    Warning,
    /// Good to know.
    Advice,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is, for programs.
    pub code: &'static str,
    /// What it concerns: a table, a column, an index or a trigger.
    pub subject: String,
    /// What is so.
    pub text: String,
    /// What to do.
    pub remedy: String,
}

impl Finding {
    fn new(
        severity: Severity,
        code: &'static str,
        subject: impl Into<String>,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { severity, code, subject: subject.into(), text: text.into(), remedy: remedy.into() }
    }

    /// That a table cannot sync. The text has the remedy.
    #[must_use]
    pub fn cannot_sync(table: &str, text: String) -> Self {
        Self::new(Severity::Error, "cannot_sync", table, text, "")
    }

    /// The finding as a line for people.
    #[must_use]
    pub fn to_line(&self) -> String {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Advice => "advice",
        };
        let remedy = if self.remedy.is_empty() { String::new() } else { format!(": {}", self.remedy) };
        format!("{severity}: {}: {}{remedy}", self.subject, self.text)
    }
}

/// What is known of the table that is looked at.
pub struct Subject<'s> {
    /// The connection to its database.
    pub connection: &'s mut Connection,
    /// Its name, as the schema writes it.
    pub table: &'s str,
    /// Its stored columns.
    pub columns: &'s [ColumnSchema],
    /// The tables that sync.
    pub synced: &'s [String],
    /// The policies of the database.
    pub policies: &'s Policies,
}

/// What findings about more than one table depend on.
#[derive(Clone, Copy)]
pub struct Scene<'s> {
    /// The connection to the database.
    pub connection: &'s Connection,
    /// The tables that sync.
    pub synced: &'s [String],
    /// The policies of the database.
    pub policies: &'s Policies,
}

impl Scene<'_> {
    fn syncs(&self, table: &str) -> bool {
        self.synced.iter().any(|name| name.eq_ignore_ascii_case(table))
    }
}

impl Subject<'_> {
    fn scene(&self) -> Scene<'_> {
        Scene { connection: self.connection, synced: self.synced, policies: self.policies }
    }

    fn syncs(&self, table: &str) -> bool {
        self.scene().syncs(table)
    }

    fn column(&self, name: &str) -> String {
        format!("{}.{name}", self.table)
    }
}

/// Everything that is found of a table that can sync, the worst first.
///
/// # Errors
/// When SQLite cannot read the schema.
pub fn check(subject: &mut Subject<'_>) -> rusqlite::Result<Vec<Finding>> {
    let mut findings = keys(subject)?;
    findings.extend(columns(subject)?);
    findings.extend(constraints::foreign_keys(subject)?);
    findings.extend(constraints::uniques(subject.scene(), subject.table)?);
    findings.extend(triggers::check(subject)?);
    findings.sort_by_key(|finding| finding.severity);
    Ok(findings)
}

fn keys(subject: &Subject<'_>) -> rusqlite::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if let Some(finding) = integer_key(subject.scene(), subject.table)? {
        return Ok(vec![finding]);
    }
    let key = subject.columns.iter().filter(|column| column.key_place > 0);
    for column in key.filter(|column| !column.not_null) {
        let count = format!(
            "SELECT count(*) FROM main.{} WHERE {} IS NULL",
            quote_identifier(subject.table),
            quote_identifier(&column.name)
        );
        let count: i64 = subject.connection.query_row(&count, [], |row| row.get(0))?;
        let (severity, held) = match count {
            // In a table WITHOUT ROWID, or a STRICT one, there can be none whatever is declared.
            0 => (Severity::Advice, String::new()),
            count => (Severity::Warning, format!("; {count} rows have one now")),
        };
        findings.push(Finding::new(
            severity,
            "nullable_key",
            subject.column(&column.name),
            format!("a key column that may be NULL: such rows stay where they are{held}"),
            "declare it NOT NULL",
        ));
    }
    Ok(findings)
}

fn integer_key(scene: Scene<'_>, table: &str) -> rusqlite::Result<Option<Finding>> {
    // language=SQLite
    let sql = "SELECT name, type FROM pragma_table_info(?1, 'main') WHERE pk > 0";
    let mut select = scene.connection.prepare(sql)?;
    let key = select.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let key: Vec<(String, String)> = key.collect::<rusqlite::Result<_>>()?;
    let finding = |name: &str| {
        Finding::new(
            Severity::Warning,
            "integer_key",
            format!("{table}.{name}"),
            "a lone INTEGER key, for which two devices that do not see each other's rows choose the same number: their rows \
             become one, or one of two users is refused",
            "use a TEXT key that cloudsync_uuid() fills",
        )
    };
    Ok(match &key[..] {
        [(name, declared)] if Affinity::of(declared) == Affinity::Integer => Some(finding(name)),
        _ => None,
    })
}

fn columns(subject: &Subject<'_>) -> rusqlite::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let known = |collation: &str| {
        ["BINARY", "NOCASE", "RTRIM"].iter().any(|known| known.eq_ignore_ascii_case(collation))
    };
    for column in subject.columns {
        if !known(&column.collation) {
            findings.push(Finding::new(
                Severity::Warning,
                "unknown_collation",
                subject.column(&column.name),
                format!("the collation {} is not built into SQLite", column.collation),
                "use BINARY, NOCASE or RTRIM, since the server and the tools on it do not know others",
            ));
        }
        if column.not_null && column.default.is_none() && column.key_place == 0 {
            findings.push(Finding::new(
                Severity::Advice,
                "bare_not_null",
                subject.column(&column.name),
                "NOT NULL without a DEFAULT: while there are devices that do not have the column, their rows are refused",
                "give columns that are added later a DEFAULT",
            ));
        }
    }
    // language=SQLite
    let sql = "SELECT name FROM pragma_table_xinfo(?1, 'main') WHERE hidden >= 2";
    let mut statement = subject.connection.prepare(sql)?;
    let generated = statement.query_map([subject.table], |row| row.get::<_, String>(0))?;
    for name in generated {
        findings.push(Finding::new(
            Severity::Advice,
            "generated",
            subject.column(&name?),
            "a generated column is never sent: each side computes it",
            "let its expression give the same everywhere",
        ));
    }
    Ok(findings)
}
