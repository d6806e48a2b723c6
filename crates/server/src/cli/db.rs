//! `cloudsync db`: the databases of the folder.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use rusqlite::Connection;
use serde::Serialize;

use super::{Place, backup, sql};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::folder::{DatabaseName, Folder};
use crate::http::now_ms;

#[derive(Debug, Subcommand)]
pub(super) enum Db {
    /// Create an empty database
    Create {
        /// 1 to 64 of A-Z a-z 0-9 _ . -
        name: String,
    },
    /// List the databases
    List,
    /// Print where the file of a database is: an ordinary SQLite file
    Path {
        /// The database
        name: String,
    },
    /// Run SQL on a database and print the rows; all of it or nothing, unless the text has transactions of its own
    Sql {
        /// The database
        name: String,
        /// File with the SQL, or - for standard input
        file: PathBuf,
    },
    /// Copy a database to a new file, as it is at this moment, while a server runs or not; the copy is checked
    Backup {
        /// The database
        name: String,
        /// The file to write
        file: PathBuf,
    },
    /// Put a copy in the place of a database, or make one of it; devices then bring it up to date
    Restore {
        /// The database
        name: String,
        /// The copy
        file: PathBuf,
        /// Do it while a server runs: it lets the database go, and answers that it is busy meanwhile
        #[arg(long)]
        while_serving: bool,
    },
    /// Delete a database with its keys, tokens and issuers; a running server lets it go
    Delete {
        /// The database
        name: String,
        /// Do it: there is no way back
        #[arg(long)]
        yes: bool,
    },
    /// Make a running server let the database go, and leave it alone until it is resumed
    Pause {
        /// The database
        name: String,
    },
    /// Serve a paused database again
    Resume {
        /// The database
        name: String,
    },
}

#[derive(Serialize)]
struct Listed {
    name: String,
    created: String,
    paused: Option<String>,
    bytes: u64,
    path: PathBuf,
}

impl Db {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        match self {
            Self::Create { name } => {
                let name = DatabaseName::new(&name)?;
                let (folder, control) = place.create()?;
                if !create(&folder, &control, &name)? {
                    return Err(Error::DatabaseExists(name.to_string()));
                }
                print_path(place, &folder.database_path(&name))
            }
            Self::List => list(place),
            Self::Path { name } => print_path(place, &place.database(&name)?),
            Self::Sql { name, file } => {
                let path = place.database(&name)?;
                sql::run(place, &name, &path, &read(&file)?)
            }
            Self::Backup { name, file } => backup::backup(place, &name, &file),
            Self::Restore { name, file, while_serving } => {
                backup::restore(place, &name, &file, while_serving)
            }
            Self::Delete { name, yes } => backup::delete(place, &name, yes),
            Self::Pause { name } => backup::pause(place, &name, true),
            Self::Resume { name } => backup::pause(place, &name, false),
        }
    }
}

/// Creates a database, file first; false if it existed.
pub(super) fn create(folder: &Folder, control: &Control, name: &DatabaseName) -> Result<bool> {
    if control.has_database(name)? {
        return Ok(false);
    }
    let path = folder.database_path(name);
    let created = Connection::open(&path).and_then(|connection| {
        connection.busy_timeout(sql::BUSY)?;
        connection.pragma_update(None, "journal_mode", "wal")
    });
    created.map_err(|source| Error::DatabaseFile { path, source })?;
    control.create_database(name, now_ms())
}

fn list(place: &Place) -> Result<()> {
    let (folder, control) = place.open()?;
    let mut databases = Vec::new();
    for record in control.databases()? {
        let path = absolute(&folder.database_path(&DatabaseName::new(&record.name)?));
        let bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        databases.push(Listed {
            name: record.name,
            created: record.created,
            paused: record.paused,
            bytes,
            path,
        });
    }
    place.print_list(&databases, ["NAME", "CREATED", "PAUSED", "BYTES", "PATH"], |listed| {
        let Listed { name, created, paused, bytes, path } = listed;
        let paused = paused.clone().unwrap_or_default();
        [name.clone(), created.clone(), paused, bytes.to_string(), path.display().to_string()]
    })
}

fn print_path(place: &Place, path: &Path) -> Result<()> {
    place.print(&serde_json::json!({ "path": absolute(path) }), |_| absolute(path).display().to_string())
}

pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn read(file: &Path) -> Result<String> {
    let read = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    read.map_err(|source| Error::Input { path: file.to_owned(), source })
}
