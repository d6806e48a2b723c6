//! One database file.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use serde_json::json;

use super::{Examination, Report};
use crate::backup::{check, with_suffix};
use crate::http::now_ms;
use crate::schema_check::Severity;
use crate::store::{StoreError, sqlite};
use cloudsync_protocol::limits::STAGED_MS_MAX;
use cloudsync_replica::{Checkup, quote_identifier};

/// A WAL of more bytes is not put into its file, for some reason.
const WAL_BYTES_LARGE: u64 = 256 << 20;
const DAMAGE_REMEDY: &str = "restore a backup of the file; a device may also begin with a new file, and fetch from the server what was synced";
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
    match sqlite::internal_faults(path, examination.rows_max) {
        Ok(Some(faults)) if faults.is_empty() => {
            synced(path, name, &connection, examination, report, &mut facts);
        }
        Ok(Some(faults)) => {
            for fault in faults {
                report.add(Severity::Error, "internals", name, fault, DAMAGE_REMEDY);
            }
        }
        Ok(None) if tables > 0 => {
            let text = "none of its tables syncs";
            let remedy = "that is right if it is not meant to; else call cloudsync_init";
            report.add(Severity::Advice, "nothing_syncs", name, text, remedy);
        }
        Ok(None) => {}
        Err(error) => unreadable(name, &error, report),
    }
    report.facts.insert(name.to_owned(), facts);
}

/// Reads all of the file.
fn whole(connection: &Connection, name: &str, report: &mut Report) {
    if let Err(why) = check(connection) {
        report.add(Severity::Error, "damaged", name, why, DAMAGE_REMEDY);
        // What else is read of it says nothing.
        return;
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
                    "what was evicted or deleted is still in the file's free pages",
                    remedy,
                );
            }
        }
        Err(error) => unreadable(name, &error, report),
    }
    gone(name, connection, report);
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

/// What keeps our own tables from being read. A file of a newer version says so, with what to do.
fn unreadable(name: &str, error: &StoreError, report: &mut Report) {
    let text = error.to_string();
    let remedy = if text.contains("newer cloudsync") {
        ""
    } else {
        "end what uses the file, and try again; if that does not help, restore a backup"
    };
    report.add(Severity::Error, "cannot_read", name, text, remedy);
}

/// Tables that sync and are not there.
fn gone(name: &str, connection: &Connection, report: &mut Report) {
    // language=SQLite
    let sql = "SELECT name FROM cloudsync_tables WHERE enabled AND NOT EXISTS(SELECT 1 FROM sqlite_schema AS s \
               WHERE s.type = 'table' AND s.name = cloudsync_tables.name COLLATE NOCASE)";
    let found = connection.prepare(sql).and_then(|mut select| {
        let names = select.query_map([], |row| row.get::<_, String>(0))?;
        names.collect::<Result<Vec<_>, _>>()
    });
    // What cannot be read is told of already.
    for table in found.unwrap_or_default() {
        let remedy = "make it again, and its rows are fetched, or say `SELECT cloudsync_cleanup('...')`";
        let subject = format!("{name}: {table}");
        report.add(Severity::Advice, "table_gone", subject, "it syncs, and is not there", remedy);
    }
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
    let compared = [
        (
            checkup.clocks_without_row,
            "rows_missing",
            "known and not there",
            "they were deleted while triggers were off: call cloudsync_network_reset_sync_version() on a device, restore a backup of a server",
        ),
        (
            checkup.rows_without_clock,
            "rows_unknown",
            "there and not known",
            "they were written while triggers were off, and stay local: write them again, as by UPDATE t SET c = c",
        ),
    ];
    for (count, code, what, remedy) in compared.into_iter().filter(|(count, ..)| *count > 0) {
        let text = format!("of {} that were looked at, {} {what}", checkup.looked_at, rows(count));
        report.add(Severity::Warning, code, subject.clone(), text, remedy);
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
