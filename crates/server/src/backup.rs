//! Copies of a database while it is written, and putting one in its place.
//!
//! A copy is taken by SQLite's backup API within one read transaction: it is the database as it was at one commit, whatever
//! is written meanwhile, and nobody waits for it. It goes to a file beside its place first, is checked there, and is
//! renamed when it is on disk. What takes the place of a database does so only while no other process has that open.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use crate::error::{Error, Result};
use crate::folder::{private_file, sync_directory};

/// Pages that are copied between two looks at the progress: 4 MiB of the usual ones.
const STEP_PAGES: i32 = 1024;
/// How long SQLite waits for a lock at one go.
const BUSY: Duration = Duration::from_secs(10);
/// How long a database may take to be let go by whoever has it open.
const RELEASE_WAIT: Duration = Duration::from_secs(30);
/// How often it is tried meanwhile.
const RELEASE_TRY: Duration = Duration::from_millis(50);
/// What SQLite appends to the names of a database's other files.
const SUFFIXES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// What is told of a copy on its way: what is done, of how much, and of what.
pub type Progress<'p> = &'p mut dyn FnMut(&str, u64, u64);

/// Copies the database at `from` to a new file at `to`, readable by its owner only. Gives its bytes.
///
/// # Errors
/// [`Error::Backup`] when one of the files cannot be used, there is one at `to`, or the copy is damaged.
pub fn copy(from: &Path, to: &Path, progress: Progress<'_>) -> Result<u64> {
    if to.exists() {
        return Err(Error::Backup { path: to.to_owned(), why: "it exists: name another file".to_owned() });
    }
    let part = with_suffix(to, ".part");
    let copied = copy_part(from, &part, progress).and_then(|bytes| {
        let fail = |error: io::Error| Error::Backup { path: to.to_owned(), why: error.to_string() };
        File::open(&part).and_then(|file| file.sync_all()).map_err(fail)?;
        fs::rename(&part, to).map_err(fail)?;
        sync_directory(to).map_err(fail)?;
        Ok(bytes)
    });
    if copied.is_err() {
        remove(&part);
    }
    copied
}

fn copy_part(from: &Path, part: &Path, progress: Progress<'_>) -> Result<u64> {
    let source_error =
        |error: rusqlite::Error| Error::Backup { path: from.to_owned(), why: error.to_string() };
    let part_error = |why: String| Error::Backup { path: part.to_owned(), why };
    let source = open(from).map_err(source_error)?;
    // Held to the end: SQLite would begin again whenever another process writes.
    // language=SQLite
    source.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema").map_err(source_error)?;
    remove(part);
    private_file(part).map_err(|error| part_error(error.to_string()))?;
    let mut copy = open(part).map_err(|error| part_error(error.to_string()))?;
    {
        let backup = Backup::new(&source, &mut copy).map_err(source_error)?;
        loop {
            let stepped = backup.step(STEP_PAGES).map_err(|error| part_error(error.to_string()))?;
            let at = backup.progress();
            let total = u64::try_from(at.pagecount).unwrap_or(0);
            progress("copied", total.saturating_sub(u64::try_from(at.remaining).unwrap_or(0)), total);
            if matches!(stepped, StepResult::Done) {
                break;
            }
        }
    }
    // One file, whatever the mode of the database is.
    set_plain(&copy).map_err(|error| part_error(error.to_string()))?;
    progress("checked", 0, 1);
    check(&copy).map_err(part_error)?;
    progress("checked", 1, 1);
    drop(copy);
    fs::metadata(part).map(|metadata| metadata.len()).map_err(|error| part_error(error.to_string()))
}

/// Looks whether all of a database can be read and fits together.
///
/// # Errors
/// What SQLite found, its first lines.
pub fn check(connection: &Connection) -> std::result::Result<(), String> {
    let lines = |sql: &str| -> rusqlite::Result<Vec<String>> {
        connection.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
    };
    let found = lines("PRAGMA integrity_check(5)").unwrap_or_else(|error| vec![error.to_string()]);
    if found == ["ok"] { Ok(()) } else { Err(format!("it is damaged: {}", found.join("; "))) }
}

/// Waits until no other process has the database open, and keeps it so.
///
/// # Errors
/// [`Error::Backup`] when somebody does not let it go.
pub fn take_alone(path: &Path) -> Result<Alone> {
    let end = Instant::now() + RELEASE_WAIT;
    loop {
        match try_alone(path) {
            Ok(connection) => return Ok(Alone { path: path.to_owned(), _connection: connection }),
            Err(error) if Instant::now() >= end => {
                let why = format!(
                    "another process has it open and does not let it go ({error}): end what uses it, a shell perhaps"
                );
                return Err(Error::Backup { path: path.to_owned(), why });
            }
            // A lock in another process cannot be waited for, only tried again.
            Err(_) => std::thread::sleep(RELEASE_TRY),
        }
    }
}

/// A database that nobody else has open, and that nobody can open until this is dropped.
pub struct Alone {
    path: PathBuf,
    _connection: Connection,
}

impl Alone {
    /// Moves the file away, if `aside` is given to there, and puts another one in its place.
    ///
    /// # Errors
    /// [`Error::Backup`] when the system does not rename.
    pub fn replace(self, by: Option<&Path>, aside: Option<&Path>) -> Result<()> {
        let fail = |error: io::Error| Error::Backup { path: self.path.clone(), why: error.to_string() };
        match aside {
            Some(aside) => fs::rename(&self.path, aside).map_err(fail)?,
            None if by.is_none() => fs::remove_file(&self.path).map_err(fail)?,
            None => {}
        }
        if let Some(by) = by {
            fs::rename(by, &self.path).map_err(fail)?;
        }
        sync_directory(&self.path).map_err(fail)?;
        // They belong to the file that went; SQLite removed what was in use.
        SUFFIXES.iter().for_each(|suffix| remove(&with_suffix(&self.path, suffix)));
        Ok(())
    }
}

fn try_alone(path: &Path) -> rusqlite::Result<Connection> {
    let connection = open(path)?;
    connection.busy_timeout(Duration::ZERO)?;
    // Leaving the WAL needs that nobody else has the file open, in whatever state.
    set_plain(&connection)?;
    connection.execute_batch("BEGIN EXCLUSIVE")?;
    Ok(connection)
}

/// Leaves the WAL, if there is one.
fn set_plain(connection: &Connection) -> rusqlite::Result<()> {
    // language=SQLite
    let mode: String = connection.query_row("PRAGMA journal_mode = delete", [], |row| row.get(0))?;
    if mode == "delete" || mode == "off" {
        return Ok(());
    }
    let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
    Err(rusqlite::Error::SqliteFailure(busy, Some(format!("its journal stays in mode {mode}"))))
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

/// A path with something at the end of its name.
#[must_use]
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Removes a file that may be missing; one that cannot be removed is in the way of the next step, which says so.
pub fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::debug!(%error, "a file cannot be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(path: &Path) -> Connection {
        let connection = Connection::open(path).unwrap();
        connection
            .execute_batch(
                "PRAGMA journal_mode = wal; CREATE TABLE t (v); CREATE TABLE pair (a, b);
                 INSERT INTO pair VALUES (0, 0); INSERT INTO t SELECT randomblob(4000) FROM
                 (WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 3000) SELECT n FROM n)",
            )
            .unwrap();
        connection
    }

    #[test]
    fn a_copy_is_one_commit_whatever_is_written_meanwhile() {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("d.db"), temp.path().join("copy"));
        let writer = database(&from);
        let mut steps = 0;
        let bytes = copy(&from, &to, &mut |_, _, _| {
            steps += 1;
            writer.execute_batch("UPDATE pair SET a = a + 1, b = b + 1; INSERT INTO t VALUES (1)").unwrap();
        });
        assert_eq!(bytes.unwrap(), fs::metadata(&to).unwrap().len());
        assert!(steps > 4, "{steps}");
        let copied = Connection::open(&to).unwrap();
        let counts: (i64, i64) = copied
            .query_row("SELECT a - b, (SELECT count(*) FROM t) FROM pair", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        assert_eq!(counts, (0, 3000));
        assert!(
            matches!(copy(&from, &to, &mut |_, _, _| {}), Err(Error::Backup { why, .. }) if why.contains("exists"))
        );
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_damaged_database_is_not_copied_as_if_it_were_whole() {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("d.db"), temp.path().join("copy"));
        drop(database(&from));
        let mut bytes = fs::read(&from).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 8192].fill(7);
        fs::write(&from, bytes).unwrap();
        let error = copy(&from, &to, &mut |_, _, _| {}).unwrap_err().to_line();
        assert!(error.contains("damaged"), "{error}");
        assert!(!to.exists() && !with_suffix(&to, ".part").exists());
    }

    #[test]
    fn what_somebody_has_open_is_not_taken() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("d.db");
        let other = database(&path);
        assert!(try_alone(&path).is_err());
        drop(other);
        let alone = take_alone(&path).unwrap();
        let late = Connection::open(&path).unwrap();
        late.busy_timeout(Duration::ZERO).unwrap();
        assert!(late.query_row("SELECT count(*) FROM t", [], |_| Ok(())).is_err());
        drop(late);
        alone.replace(None, None).unwrap();
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    }
}
