//! Changes as bytes, for any transport: a BLOB, or a file.
//!
//! Files are read and written here by the system's own calls. That is never done to a database file of this
//! connection: closing it would drop the locks that SQLite holds on it in this process.

use crate::error::{Error, Result};
use crate::functions::Call;
use cloudsync_protocol::limits::MESSAGE_BYTES_MAX;
use cloudsync_replica::SiteId;
use cloudsync_sqlite_ffi::Output;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

const SITE: &str = "a site id: a BLOB of 16 bytes or 32 hexadecimal digits as text";

pub(super) fn encode(call: &Call<'_>) -> Result<Output> {
    let since = since(call, 0)?;
    let site = if call.has(1) { Some(site(call, 1)?) } else { None };
    Ok(Output::from(call.replica()?.payload_encode(since, site)?))
}

pub(super) fn apply(call: &Call<'_>) -> Result<Output> {
    let payload = call.blob(0, "a payload as BLOB")?;
    rows(call.replica()?.payload_apply(payload)?)
}

pub(super) fn save(call: &Call<'_>) -> Result<Output> {
    let path = path(call)?;
    let payload = call.replica()?.payload_encode(since(call, 1)?, None)?;
    write_file(call, path, &payload).map_err(|error| file_error("write", path, &error))?;
    rows(payload.len() as u64)
}

pub(super) fn load(call: &Call<'_>) -> Result<Output> {
    let path = path(call)?;
    let mut replica = call.replica()?;
    let payload = read_file(path).map_err(|error| file_error("read", path, &error))?;
    if payload.len() > MESSAGE_BYTES_MAX {
        return Err(Error::Limit(format!(
            "the file {path} is larger than a payload: {MESSAGE_BYTES_MAX} bytes"
        )));
    }
    rows(replica.payload_apply(&payload)?)
}

fn rows(count: u64) -> Result<Output> {
    Ok(Output::Integer(i64::try_from(count).unwrap_or(i64::MAX)))
}

fn since(call: &Call<'_>, index: usize) -> Result<u64> {
    if call.has(index) { call.count(index, i64::MAX as u64) } else { Ok(0) }
}

fn site(call: &Call<'_>, index: usize) -> Result<SiteId> {
    let bytes = match call.value(index, SITE)?.as_str() {
        Some(text) => decode_hex(text),
        None => call.blob(index, SITE)?.try_into().ok(),
    };
    bytes.map(SiteId).ok_or_else(|| call.wrong(index, SITE))
}

fn decode_hex(text: &str) -> Option<[u8; 16]> {
    let digits: Option<Vec<u8>> = text.chars().map(|char| char.to_digit(16)?.try_into().ok()).collect();
    let bytes: Vec<u8> =
        digits?.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
    (text.len() == 32).then(|| bytes.try_into().ok())?
}

/// The path of the argument, if it is not one of our own databases.
fn path<'c>(call: &Call<'c>) -> Result<&'c str> {
    let path = call.text(0, "the path of a file as text")?;
    if path.is_empty() {
        return Err(Error::usage("argument 1 (path) is empty: name a file"));
    }
    let mut databases = Vec::new();
    // language=SQLite
    let sql = "SELECT file FROM pragma_database_list WHERE file <> ''";
    call.connection().prepare(sql)?.for_each(&[], |row| -> Result<()> {
        databases.extend(row.column(0).as_str().map(str::to_owned));
        Ok(())
    })?;
    for database in databases {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            if is_same_file(Path::new(path), Path::new(&format!("{database}{suffix}"))) {
                return Err(Error::usage(format!(
                    "the file {path} belongs to this database: choose another one"
                )));
            }
        }
    }
    Ok(path)
}

/// Compares without opening: by what the file system says, and for files that are not there by their full names.
fn is_same_file(one: &Path, other: &Path) -> bool {
    #[cfg(unix)]
    if let (Ok(one), Ok(other)) = (fs::metadata(one), fs::metadata(other)) {
        use std::os::unix::fs::MetadataExt as _;
        return (one.dev(), one.ino()) == (other.dev(), other.ino());
    }
    full_name(one).is_some_and(|name| full_name(other) == Some(name))
}

fn full_name(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path)
        .ok()
        .or_else(|| Some(fs::canonicalize(folder_of(path)).ok()?.join(path.file_name()?)))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes the file as a whole or not at all: under a name of its own first, which then replaces what was there.
fn write_file(call: &Call<'_>, path: &str, payload: &[u8]) -> io::Result<()> {
    let path = Path::new(path);
    let Some(name) = path.file_name() else {
        return Err(io::Error::other("it names a folder"));
    };
    // A link is followed, so that the file behind it is replaced and not the link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if target.is_dir() {
        return Err(io::Error::other("it is a folder"));
    }
    // To replace a device or a pipe would take it away from everybody.
    if fs::metadata(&target).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(io::Error::other("it is not an ordinary file"));
    }
    let mut mark = [0; 8];
    call.state().environment.random(&mut mark);
    let mut draft_name = name.to_os_string();
    draft_name.push(format!(".{:016x}.part", u64::from_le_bytes(mark)));
    let draft = folder_of(&target).join(draft_name);
    let written = write_draft(&draft, payload).and_then(|()| fs::rename(&draft, &target));
    if written.is_err() {
        // Nothing more can be done about a draft that cannot be removed either.
        let _ = fs::remove_file(&draft);
    }
    written
}

fn write_draft(draft: &Path, payload: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(draft)?;
    file.write_all(payload)?;
    file.sync_all()
}

/// Reads at most one byte more than a payload may have, so that the caller sees what is too large.
fn read_file(path: &str) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not an ordinary file"));
    }
    let bound = MESSAGE_BYTES_MAX as u64 + 1;
    let mut payload = Vec::with_capacity(usize::try_from(metadata.len().min(bound)).unwrap_or(0));
    File::open(path)?.take(bound).read_to_end(&mut payload)?;
    Ok(payload)
}

fn file_error(act: &'static str, path: &str, error: &io::Error) -> Error {
    Error::File { act, path: path.to_owned(), reason: error.to_string() }
}
