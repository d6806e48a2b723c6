//! A server's folder.

use std::path::Path;

use serde_json::json;

use super::{Examination, Report, file};
use crate::config::ConfigFile;
use crate::control::{Control, DatabaseRecord};
use crate::error::{Error, Result};
use crate::file_limit::FileLimit;
use crate::folder::{DatabaseName, Folder};
use crate::schema_check::Severity;

/// Less free space than this is low.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// Ends of the names of what restores leave, and copies that broke off.
const LEFT: [&str; 3] = [".before-restore", ".part", ".restoring"];

pub(super) fn examine(path: &Path, examination: &mut Examination<'_>, report: &mut Report) -> Result<()> {
    let folder = Folder::open(path)?;
    rights(&folder, report);
    config(path, report);
    let runs = matches!(folder.lock(), Err(Error::Locked(_)));
    file::examine(&folder.control_path(), "control.db", examination, report);
    // It is no database of an app, and has nothing that syncs.
    report.findings.retain(|finding| finding.code != "nothing_syncs");
    let Some(control) = register(&folder, report) else {
        unregistered(&folder, examination, report);
        return Ok(());
    };
    let databases = control.databases()?;
    let mut largest = 0;
    for record in &databases {
        largest = database(&folder, record, examination, report)?.max(largest);
    }
    let known: Vec<_> = databases.iter().map(|record| format!("{}.db", record.name)).collect();
    strangers(&folder, &known, report);
    room(&folder, largest, report);
    files(report);
    report.facts.insert("folder".to_owned(), json!({ "server_runs": runs, "databases": databases.len() }));
    Ok(())
}

/// Whether the settings can be read, which the next start of the server needs.
fn config(path: &Path, report: &mut Report) {
    if let Err(error) = ConfigFile::of_folder(path) {
        let remedy = "mend it before the server starts again";
        report.add(Severity::Error, "config", "cloudsync.toml", error.to_line(), remedy);
    }
}

/// The register of databases, opened without bringing it up to date; `None`, and said why, if that cannot be.
fn register(folder: &Folder, report: &mut Report) -> Option<Control> {
    match Control::open_as_it_is(folder) {
        Ok(Some(control)) => Some(control),
        Ok(None) => {
            let text = "it is of an older format";
            let remedy = "the next start of the server brings it up to date; copy the folder before, since older versions cannot read it then";
            report.add(Severity::Advice, "older_format", "control.db", text, remedy);
            None
        }
        Err(error) => {
            let is_newer = matches!(error, Error::NewerFormat { .. });
            let remedy = if is_newer { "" } else { "restore a copy: `cloudsync control restore`" };
            report.add(Severity::Error, "control", "control.db", error.to_line(), remedy);
            None
        }
    }
}

/// Looks at a database of the register. Gives how large its file is, in bytes.
fn database(
    folder: &Folder,
    record: &DatabaseRecord,
    examination: &mut Examination<'_>,
    report: &mut Report,
) -> Result<u64> {
    let path = folder.database_path(&DatabaseName::new(&record.name)?);
    if record.paused.is_some() {
        let (text, remedy) =
            ("the database is paused, and not served", "`cloudsync db resume`, unless somebody works on it");
        report.add(Severity::Warning, "paused", &*record.name, text, remedy);
    }
    if !path.is_file() {
        let text = format!("its file {} is missing", path.display());
        let remedy = "put it back, restore a backup with `cloudsync db restore`, or `cloudsync db delete`";
        report.add(Severity::Error, "file_missing", &*record.name, text, remedy);
        return Ok(0);
    }
    let bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    file::examine(&path, &record.name, examination, report);
    Ok(bytes)
}

/// Whether a server started from here could open as many files as its databases and devices take.
fn files(report: &mut Report) {
    let limit = FileLimit::look();
    if limit.is_short() {
        let remedy = "that of the server's own service counts";
        report.add(Severity::Advice, "file_limit", "this process", limit.to_string(), remedy);
    }
}

/// Looks at the files of databases when the register that names them cannot be read.
fn unregistered(folder: &Folder, examination: &mut Examination<'_>, report: &mut Report) {
    let mut names: Vec<_> = names(&folder.databases_path()).collect();
    names.sort();
    for name in names.iter().filter_map(|name| name.strip_suffix(".db")) {
        file::examine(&folder.databases_path().join(format!("{name}.db")), name, examination, report);
    }
}

fn names(path: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// Files that belong to no database, and what copies and restores of the register left.
fn strangers(folder: &Folder, known: &[String], report: &mut Report) {
    let is_left = |name: &String| LEFT.iter().any(|end| name.ends_with(end));
    for name in names(&folder.databases_path()).chain(names(folder.path()).filter(is_left)) {
        let owner = name.strip_suffix("-wal").or_else(|| name.strip_suffix("-shm")).unwrap_or(&name);
        if known.iter().any(|known| known == owner) || name.starts_with(".ready-") {
            continue;
        }
        let (code, text, remedy) = if name.ends_with(LEFT[0]) {
            (
                "before_restore",
                "is what was there before a restore",
                "remove it when it is not wanted any more",
            )
        } else if is_left(&name) {
            ("left_over", "was left over by a copy that broke off", "remove it, unless a copy is being made")
        } else {
            (
                "stranger",
                "belongs to no database",
                "register it by `cloudsync db restore NAME FILE`, or remove it",
            )
        };
        report.add(Severity::Advice, code, name, text, remedy);
    }
}

/// How much room the disk has.
#[cfg(unix)]
fn room(folder: &Folder, largest: u64, report: &mut Report) {
    let Ok(disk) = rustix::fs::statvfs(folder.path()) else { return };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    report.facts.insert("disk".to_owned(), json!({ "free_bytes": free }));
    if free < FREE_BYTES_MIN.max(largest) {
        let text = format!(
            "{free} bytes are free; copies and the WAL need room, the largest database has {largest}"
        );
        report.add(Severity::Warning, "low_disk", "disk", text, "make room before writes fail");
    }
}

#[cfg(not(unix))]
fn room(_folder: &Folder, _largest: u64, _report: &mut Report) {}

/// Who may read what only the server should.
#[cfg(unix)]
fn rights(folder: &Folder, report: &mut Report) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode =
        |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode() & 0o777);
    let is_open = mode(folder.path()) & 0o077 != 0;
    if is_open {
        let text = format!("others may look into the folder (mode {:o})", mode(folder.path()));
        report.add(Severity::Warning, "rights", folder.path().display().to_string(), text, "chmod 700");
    }
    for path in [folder.control_path(), folder.dev_key_path()] {
        // In a folder that is closed to others a file need not be.
        let reach = if path.ends_with("control.db") && !is_open { 0 } else { 0o077 };
        if mode(&path) & reach != 0 {
            let text = format!("others may read it (mode {:o}), and it has secrets", mode(&path));
            report.add(Severity::Warning, "rights", path.display().to_string(), text, "chmod 600");
        }
    }
}

#[cfg(not(unix))]
fn rights(_folder: &Folder, _report: &mut Report) {}
