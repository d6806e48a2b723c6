//! One database file.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use serde_json::json;

use super::{Examination, Report};
use crate::backup::{check, with_suffix};
use crate::http::now_ms;
use crate::schema_check::Severity;
use crate::store::sqlite;
use cloudsync_protocol::limits::STAGED_MS_MAX;
use cloudsync_replica::{Checkup, quote_identifier};

/// A WAL of more bytes is not put into its file, for some reason.
const WAL_BYTES_LARGE: u64 = 256 << 20;
/// The tables in which things wait for people, with what they mean.
const JOURNALS: [(&str, &str, &str); 3] = [
    (
        "quarantine",
        "wait for something that this database does not have",
        "`SELECT * FROM cloudsync_quarantine` says why",
    ),
    (
        "rejected",
        "were refused by the server",
        "`SELECT * FROM cloudsync_rejected` says why: edit the rows and sync again",
    ),
    ("conflicts", "lost against edits of others", "`SELECT * FROM cloudsync_conflicts` has the values"),
];

/// Looks at the file, which exists. What it is called in findings is `name`.
pub(super) fn examine(path: &Path, name: &str, examination: &mut Examination<'_>, report: &mut Report) {
    (examination.progress)(name);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags).and_then(|connection| {
        connection.busy_timeout(std::time::Duration::from_secs(10))?;
        // language=SQLite
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        Ok((connection, tables))
    });
    let (connection, tables) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            let remedy =
                "check that it is a SQLite database, and the rights of the file, its -wal and its folder";
            return report.add(Severity::Error, "cannot_open", name, error.to_string(), remedy);
        }
    };
    if !examination.quick {
        whole(&connection, name, report);
    }
    let wal = std::fs::metadata(with_suffix(path, "-wal")).map_or(0, |metadata| metadata.len());
    if wal > WAL_BYTES_LARGE {
        let text = format!("its WAL has {wal} bytes, which should have been put into the file");
        let remedy = "end whoever reads for so long, then run `PRAGMA wal_checkpoint(TRUNCATE)`";
        report.add(Severity::Warning, "large_wal", name, text, remedy);
    }
    let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let mut facts = json!({ "bytes": bytes, "wal_bytes": wal });
    // language=SQLite
    let has = "SELECT 1 FROM sqlite_schema WHERE name = 'cloudsync_settings' AND type = 'table'";
    let syncs = connection.query_row(has, [], |_| Ok(())).optional();
    match syncs {
        Ok(Some(())) => {
            synced(path, name, &connection, examination, report, &mut facts);
        }
        Ok(None) if tables > 0 => {
            let text = "none of its tables syncs";
            let remedy = "that is right if it is not meant to; else call cloudsync_init";
            report.add(Severity::Advice, "nothing_syncs", name, text, remedy);
        }
        Ok(None) | Err(_) => {}
    }
    report.facts.insert(name.to_owned(), facts);
}

/// Reads all of the file.
fn whole(connection: &Connection, name: &str, report: &mut Report) {
    if let Err(why) = check(connection) {
        let remedy = "restore a backup; devices bring it up to date";
        report.add(Severity::Error, "damaged", name, why, remedy);
    }
    // language=SQLite
    let orphans = "SELECT count(*), min(\"table\") FROM pragma_foreign_key_check";
    let found = connection
        .query_row(orphans, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<String>>(1)?)));
    match found {
        Ok((0, _)) => {}
        Ok((count, table)) => {
            let text = format!("{count} rows have no parent, in {} for one", table.unwrap_or_default());
            let remedy = "`PRAGMA foreign_key_check` lists them; where a user does not see the parents that is as it must be";
            report.add(Severity::Advice, "orphans", name, text, remedy);
        }
        Err(error) => {
            let remedy =
                "let the foreign key name the primary key, or columns with a UNIQUE index, of its parent";
            report.add(Severity::Advice, "foreign_keys", name, error.to_string(), remedy);
        }
    }
}

fn synced(
    path: &Path,
    name: &str,
    connection: &Connection,
    examination: &mut Examination<'_>,
    report: &mut Report,
    facts: &mut serde_json::Value,
) {
    if examination.fix {
        match sqlite::mend(path) {
            Ok(mended) => report.fixed.extend(mended.into_iter().map(|text| format!("{name}: {text}"))),
            Err(error) => {
                let remedy = "end what uses the file, and try again";
                report.add(Severity::Error, "cannot_fix", name, error.to_string(), remedy);
            }
        }
    }
    let progress = &mut *examination.progress;
    let looked =
        sqlite::checkup(path, examination.rows_max, &mut |table| progress(&format!("{name}: {table}")));
    match looked {
        Ok((checkups, is_scrub_due)) => {
            checkups.iter().for_each(|checkup| table(name, connection, checkup, report));
            if is_scrub_due {
                let remedy = "it goes when the file is idle and the library is used, or with --fix";
                report.add(
                    Severity::Advice,
                    "scrub_due",
                    name,
                    "what was evicted is still in the file's free pages",
                    remedy,
                );
            }
        }
        Err(error) => {
            report.add(Severity::Error, "cannot_read", name, error.to_string(), "see docs/operations.md")
        }
    }
    for (journal, meaning, remedy) in JOURNALS {
        let count = count(connection, &format!("cloudsync_{journal}"), "");
        facts[journal] = json!(count);
        if count > 0 {
            report.add(Severity::Advice, "journal", name, format!("{count} changes {meaning}"), remedy);
        }
    }
    facts["notes"] = json!(count(connection, "cloudsync_log", ""));
    facts["clocks"] = json!(count(connection, "cloudsync_clocks", ""));
    // Of a server only.
    let old = format!(" WHERE staged_at < {}", now_ms().saturating_sub(STAGED_MS_MAX));
    let (staged, old) = (
        count(connection, "cloudsync_server_staging", ""),
        count(connection, "cloudsync_server_staging", &old),
    );
    facts["staged"] = json!(staged);
    if old > 0 {
        let text = format!("{old} chunks of rounds that were never finished are more than a day old");
        report.add(Severity::Advice, "staging", name, text, "they go when the next round is committed");
    }
}

/// Rows of one of our tables; 0 if there is no such table.
fn count(connection: &Connection, table: &str, condition: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {}{condition}", quote_identifier(table));
    connection.query_row(&sql, [], |row| row.get(0)).unwrap_or(0)
}

fn rows(count: u64) -> String {
    if count == 1 { "1 row is".to_owned() } else { format!("{count} rows are") }
}

fn table(name: &str, connection: &Connection, checkup: &Checkup, report: &mut Report) {
    let subject = format!("{name}: {}", checkup.table);
    if let Some(fault) = checkup.triggers {
        let remedy = "the next use of the library mends that, or --fix";
        report.add(Severity::Warning, "triggers", subject.clone(), format!("its triggers {fault}"), remedy);
    }
    if checkup.clocks_without_row > 0 {
        let text = format!(
            "of {} that were looked at, {} known and not there",
            checkup.looked_at,
            rows(checkup.clocks_without_row)
        );
        let remedy = "they were deleted while triggers were off: call cloudsync_network_reset_sync_version() on a device, restore a backup of a server";
        report.add(Severity::Warning, "rows_missing", subject.clone(), text, remedy);
    }
    if checkup.rows_without_clock > 0 {
        let text = format!(
            "of {} that were looked at, {} there and not known",
            checkup.looked_at,
            rows(checkup.rows_without_clock)
        );
        let remedy = "they were written while triggers were off, and stay local: write them again, as by UPDATE t SET c = c";
        report.add(Severity::Warning, "rows_unknown", subject.clone(), text, remedy);
    }
    let table = quote_identifier(&checkup.table);
    for sql in [format!("INSERT INTO {table} DEFAULT VALUES"), format!("DELETE FROM {table}")] {
        if let Err(rusqlite::Error::SqlInputError { msg, .. }) = connection.prepare(&sql)
            // Functions of the app are known to the app.
            && !msg.contains("no such function") && !msg.contains("no such module")
        {
            let remedy = "mend or drop that trigger; ours are mended by --fix";
            return report.add(
                Severity::Warning,
                "writes_fail",
                subject,
                format!("writing to it fails: {msg}"),
                remedy,
            );
        }
    }
}
