//! A file at rest: it is whole, and nothing is left over in it.

use crate::device::Process;
use crate::oracle::Clocks;
use crate::{disk, host, renames, workload};
use anyhow::{Result, bail};
use rusqlite::Connection;

/// How far a stamp may be ahead of the world's clock, in milliseconds: more than the clock of any machine in it is.
const AHEAD_MS_MAX: i64 = 24 * 3_600_000;
/// The origin of what came by file.
const BY_FILE: i64 = -2;

/// Nothing may be left over in a file that is at rest.
pub(crate) fn check_at_rest(process: &mut Process, name: &str, known: &Clocks) -> Result<()> {
    check_file(&process.db, name, known)?;
    check_clock(&process.db, name)?;
    if process.replica.has_unsent()? {
        bail!("{name} has unsent changes after all syncs");
    }
    // language=SQLite
    let sql = "SELECT count(*) FROM cloudsync_settings WHERE key IN ('round', 'position', 'resend', 'unsent_position')";
    let open: i64 = process.db.query_row(sql, [], |row| row.get(0))?;
    let staged: i64 = process.db.query_row("SELECT count(*) FROM cloudsync_inbox", [], |row| row.get(0))?;
    if open + staged > 0 {
        bail!("{name} has an open round or download after all syncs");
    }
    Ok(())
}

/// The latest stamp and the last version of a file are not far ahead of the world's clock. Else somebody asked the clock of the
/// machine on which the world runs, which is later than all that happens in a world.
pub(crate) fn check_clock(db: &Connection, name: &str) -> Result<()> {
    let latest = latest_time(db)?;
    let now = disk::now_ms() as i64;
    if latest > now + AHEAD_MS_MAX {
        bail!("{name} has a stamp or version of {latest} ms, and the clock of its world says {now}")
    }
    Ok(())
}

/// The later one of the latest stamp and the last version.
pub(crate) fn latest_time(db: &Connection) -> Result<i64> {
    // language=SQLite
    let sql = "SELECT max(ifnull((SELECT value FROM cloudsync_settings WHERE key = 'floor'), 0), \
               ifnull((SELECT max(version) FROM cloudsync_versions), 0))";
    Ok(host::kept(db, sql)?.query_row([], |row| row.get(0))?)
}

/// The file is sound.
pub(crate) fn check_integrity(db: &Connection, name: &str) -> Result<()> {
    let check: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    if check != "ok" {
        bail!("{name}: {check}");
    }
    Ok(())
}

/// The file is sound and nothing waits in its quarantine. What came by file for a UNIQUE value that is taken may wait: the
/// server refused it to its author, who has it in `cloudsync_rejected`, and nobody else tells the device that got the file.
/// What waits for its parent may wait, and with it the parts of the row that came before and after: they find the row once the
/// parent lets it in. A part that came by file may wait for the rest of a row that is not among `known`, the clocks of the
/// server: its author lost the row before anybody had it.
pub(crate) fn check_file(db: &Connection, name: &str, known: &Clocks) -> Result<()> {
    check_integrity(db, name)?;
    let colliding =
        workload::tables().filter(|table| table.collides).map(|table| format!("'{}'", table.name));
    let waiting = format!(
        "SELECT tbl, lower(hex(pk)), reason, origin FROM cloudsync_quarantine AS q \
         WHERE NOT (origin = {BY_FILE} AND tbl IN ({})) AND reason NOT LIKE '%FOREIGN KEY%' AND NOT EXISTS( \
         SELECT 1 FROM cloudsync_quarantine AS whole \
         WHERE whole.tbl = q.tbl AND whole.pk = q.pk AND whole.reason LIKE '%FOREIGN KEY%')",
        colliding.collect::<Vec<_>>().join(", ")
    );
    let mut select = db.prepare(&waiting)?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (table, key, reason): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let is_part = row.get::<_, i64>(3)? == BY_FILE && reason == "waits for the rest of the row";
        let names = match renames::NAMES.contains(&&*table) {
            true => renames::NAMES.to_vec(),
            false => vec![&*table],
        };
        let is_alive =
            |name: &&str| known.get(&format!("{name}:{key}")).is_some_and(|clock| !clock.is_dead());
        if !is_part || names.iter().any(is_alive) {
            bail!("{name}: a row waits in the quarantine, {table} {key}: {reason}");
        }
    }
    Ok(())
}
