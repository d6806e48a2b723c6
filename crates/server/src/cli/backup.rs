//! `cloudsync db backup`, `restore`, `delete`, `pause` and `resume`, and `cloudsync control backup` and `restore`.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;

use super::{Place, db};
use crate::backup::{self, remove, take_alone, with_suffix};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::folder::{DatabaseName, Folder, FolderLock};
use crate::http::now_ms;
use crate::store::sqlite;

/// What the file of before is called after another one took its place.
const ASIDE: &str = ".before-restore";
/// What a file is called until it takes the place.
const COMING: &str = ".restoring";

/// `cloudsync control`.
#[derive(Debug, Subcommand)]
pub(super) enum ControlCommand {
    /// Copy the register of databases, keys, tokens and issuers to a new file, while a server runs or not
    Backup {
        /// The file to write
        file: PathBuf,
    },
    /// Put a copy of the register in its place; no server may run
    Restore {
        /// The copy
        file: PathBuf,
    },
}

impl ControlCommand {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        match self {
            Self::Backup { file } => {
                let (folder, _) = place.open()?;
                let bytes = backup::copy(&folder.control_path(), &file, &mut shown(place))?;
                print_copy(place, &file, bytes)
            }
            Self::Restore { file } => {
                let folder = Folder::create(&place.data_dir)?;
                let _lock = folder.lock()?;
                let path = folder.control_path();
                let coming = with_suffix(&path, COMING);
                remove(&coming);
                backup::copy(&file, &coming, &mut shown(place))?;
                let checked = if Control::is_at(&coming) {
                    // Refuses what is of a newer version.
                    Control::open_at(coming.clone()).map(drop)
                } else {
                    Err(Error::NotControl(file.clone()))
                };
                let aside = checked.and_then(|()| put(&coming, &path));
                remove(&coming);
                print_restored(place, &path, aside?)
            }
        }
    }
}

pub(super) fn backup(place: &Place, name: &str, file: &Path) -> Result<()> {
    let bytes = backup::copy(&place.database(name)?, file, &mut shown(place))?;
    print_copy(place, file, bytes)
}

/// Puts a copy in the place of a database, which begins a new epoch there.
pub(super) fn restore(place: &Place, name: &str, file: &Path, while_serving: bool) -> Result<()> {
    let name = DatabaseName::new(name)?;
    let (folder, control) = place.create()?;
    let _lock = require_alone(&folder, while_serving)?;
    let path = folder.database_path(&name);
    let coming = with_suffix(&path, COMING);
    remove(&coming);
    backup::copy(file, &coming, &mut shown(place))?;
    let restored = restore_copy(&control, &name, &coming, &path);
    remove(&coming);
    print_restored(place, &path, restored?)
}

fn restore_copy(
    control: &Control,
    name: &DatabaseName,
    coming: &Path,
    path: &Path,
) -> Result<Option<PathBuf>> {
    let store_error = |source| Error::Store { database: name.to_string(), source };
    let is_known = control.is_paused(name)?;
    let before = if path.is_file() { sqlite::epoch(path).unwrap_or(0) } else { 0 };
    sqlite::begin_epoch(coming, before).map_err(store_error)?;
    if is_known.is_none() {
        let aside = put(coming, path)?;
        control.create_database(name, now_ms())?;
        return Ok(aside);
    }
    control.set_paused(name, Some(now_ms()))?;
    let aside = put(coming, path);
    // It is served again also when nothing came of it, unless somebody had paused it before.
    if is_known == Some(false) {
        control.set_paused(name, None)?;
    }
    aside
}

/// Puts a file in its place, and what is there aside.
fn put(coming: &Path, path: &Path) -> Result<Option<PathBuf>> {
    if path.is_file() {
        let aside = with_suffix(path, ASIDE);
        take_alone(path)?.replace(Some(coming), Some(&aside))?;
        return Ok(Some(aside));
    }
    let fail = |error: std::io::Error| Error::Backup { path: path.to_owned(), why: error.to_string() };
    std::fs::rename(coming, path).map_err(fail)?;
    crate::folder::sync_directory(path).map_err(fail)?;
    Ok(None)
}

/// Removes a database, with what opens it.
pub(super) fn delete(place: &Place, name: &str, is_said: bool) -> Result<()> {
    let path = place.database(name)?;
    if !is_said {
        return Err(Error::Unsaid(name.to_owned()));
    }
    let name = DatabaseName::new(name)?;
    let (_, control) = place.open()?;
    let was_paused = control.is_paused(&name)? == Some(true);
    control.set_paused(&name, Some(now_ms()))?;
    if path.exists() {
        let removed = take_alone(&path).and_then(|alone| alone.replace(None, None));
        if removed.is_err() && !was_paused {
            control.set_paused(&name, None)?;
        }
        removed?;
    }
    control.delete_database(&name)?;
    place.print(&json!({ "database": name.as_str(), "deleted": true }), |_| format!("{name} is deleted"))
}

/// Makes a running server leave a database alone, or serve it again.
pub(super) fn pause(place: &Place, name: &str, is_paused: bool) -> Result<()> {
    let name = DatabaseName::new(name)?;
    let (_, control) = place.open()?;
    control.set_paused(&name, is_paused.then(now_ms))?;
    place.print(&json!({ "database": name.as_str(), "paused": is_paused }), |_| {
        if is_paused {
            format!("{name} is not served until `db resume`")
        } else {
            format!("{name} is served")
        }
    })
}

/// The lock of the folder, or leave to go on beside a server that lets the database go.
fn require_alone(folder: &Folder, while_serving: bool) -> Result<Option<FolderLock>> {
    match folder.lock() {
        Ok(lock) => Ok(Some(lock)),
        Err(Error::Locked(_)) if while_serving => Ok(None),
        Err(Error::Locked(path)) => Err(Error::Serving(path)),
        Err(error) => Err(error),
    }
}

/// Shows on a terminal how far a copy is.
fn shown(place: &Place) -> impl FnMut(&str, u64, u64) + use<> {
    let is_shown = !place.json && std::io::stderr().is_terminal();
    move |what, done, total| {
        if is_shown {
            let end = if done == total { "\n" } else { "" };
            eprint!("\r{what}: {} %{end}", (done * 100).checked_div(total).unwrap_or(100));
        }
    }
}

fn print_copy(place: &Place, file: &Path, bytes: u64) -> Result<()> {
    let file = db::absolute(file);
    let told = json!({ "file": file, "bytes": bytes, "integrity": "ok" });
    place.print(&told, |_| format!("{}: {bytes} bytes, checked", file.display()))
}

fn print_restored(place: &Place, path: &Path, aside: Option<PathBuf>) -> Result<()> {
    let (path, aside) = (db::absolute(path), aside.as_deref().map(db::absolute));
    place.print(&json!({ "path": path, "before": aside }), |_| match &aside {
        Some(aside) => {
            format!("{} is restored; what was there is {}", path.display(), aside.display())
        }
        None => format!("{} is restored", path.display()),
    })
}
