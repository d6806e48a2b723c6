//! The data folder: where its files are, and the lock that keeps a second server out.
//!
//! ```text
//! cloudsync.lock      held by the running server
//! control.db          databases and keys
//! dev-key             the readable key of `serve --dev`, if there is one
//! databases/NAME.db   one ordinary SQLite file per database
//! ```

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The name of a database, which is also the name of its file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatabaseName(String);

impl DatabaseName {
    /// Longest name, in bytes.
    pub const BYTES_MAX: usize = 64;

    /// The name, if it is one: `[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}`. Such a name is safe in a path and in a URL.
    ///
    /// # Errors
    /// [`Error::DatabaseName`] when it is not.
    pub fn new(name: &str) -> Result<Self> {
        let is_first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let is_later = |byte: u8| is_first(byte) || byte == b'.' || byte == b'-';
        let fits = name.len() <= Self::BYTES_MAX
            && name.bytes().next().is_some_and(is_first)
            && name.bytes().all(is_later);
        if fits { Ok(Self(name.to_owned())) } else { Err(Error::DatabaseName(name.to_owned())) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DatabaseName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A data folder that exists.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

/// Proof that this process is the folder's only server. Dropping it lets the next one in.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl Folder {
    /// The folder at `path`, created when missing, readable by its owner only.
    ///
    /// # Errors
    /// [`Error::Folder`] when it cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        let folder = Self { path: path.to_owned() };
        for path in [path, &folder.databases_path()] {
            private_directory().create(path).map_err(|source| folder_error(path, source))?;
        }
        Ok(folder)
    }

    /// The folder at `path`, which must exist.
    ///
    /// # Errors
    /// [`Error::NoFolder`] when there is no control database in it.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = Self { path: path.to_owned() };
        if folder.control_path().is_file() { Ok(folder) } else { Err(Error::NoFolder(path.to_owned())) }
    }

    /// Where the folder is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the control database is.
    #[must_use]
    pub fn control_path(&self) -> PathBuf {
        self.path.join("control.db")
    }

    /// Where the readable key of `serve --dev` is.
    #[must_use]
    pub fn dev_key_path(&self) -> PathBuf {
        self.path.join("dev-key")
    }

    /// Where the file of a database is.
    #[must_use]
    pub fn database_path(&self, name: &DatabaseName) -> PathBuf {
        self.databases_path().join(format!("{name}.db"))
    }

    /// Where the files of the databases are.
    #[must_use]
    pub fn databases_path(&self) -> PathBuf {
        self.path.join("databases")
    }

    /// Takes the folder for one server, without waiting. The system lets it go when the process ends, however it ends.
    ///
    /// # Errors
    /// [`Error::Locked`] when another server has it, [`Error::Folder`] when the folder cannot be written.
    pub fn lock(&self) -> Result<FolderLock> {
        let path = self.path.join("cloudsync.lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|source| folder_error(&path, source))?;
        match file.try_lock() {
            Ok(()) => Ok(FolderLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Error::Locked(self.path.clone())),
            Err(TryLockError::Error(source)) => Err(folder_error(&path, source)),
        }
    }

    /// Writes and removes a small file, to see whether the folder takes data.
    ///
    /// # Errors
    /// [`Error::Folder`] when it does not.
    pub fn check_writable(&self) -> Result<()> {
        let path = self.databases_path().join(format!(".ready-{}", std::process::id()));
        let written = File::create(&path).and_then(|mut file| file.write_all(b"ready"));
        let removed = std::fs::remove_file(&path);
        written.map_err(|source| folder_error(&path, source))?;
        match removed {
            // Another probe of this process may have been faster.
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(folder_error(&path, source)),
            _ => Ok(()),
        }
    }

    /// The text of the readable key of `serve --dev`, if there is one.
    ///
    /// # Errors
    /// [`Error::Folder`] when it cannot be read.
    pub fn read_dev_key(&self) -> Result<Option<String>> {
        let path = self.dev_key_path();
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
                Ok(None)
            }
            Err(source) => Err(folder_error(&path, source)),
        }
    }

    /// Stores the readable key of `serve --dev`, for the owner's eyes only.
    ///
    /// # Errors
    /// [`Error::Folder`] when it cannot be written.
    pub fn write_dev_key(&self, key: &str) -> Result<()> {
        let path = self.dev_key_path();
        // A file that exists keeps its mode, so that a wider one must go before the key is in it.
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(folder_error(&path, source));
            }
            _ => {}
        }
        private_file(&path)
            .and_then(|mut file| writeln!(file, "{key}"))
            .map_err(|source| folder_error(&path, source))
    }
}

fn folder_error(path: &Path, source: io::Error) -> Error {
    Error::Folder { path: path.to_owned(), source }
}

fn private_directory() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}

/// Makes the names of files in the folder of `path` as they are now last through a power cut.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Creates a file for its owner's eyes only; one that exists is an error.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_safe_in_paths() {
        for good in ["a", "_", "9", "my_database", "database.sqlite", "A-b.c", &"x".repeat(64)] {
            assert_eq!(DatabaseName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".a", "-a", "a/b", "a b", "a\0", "a\n", "\u{e4}", &"x".repeat(65)] {
            assert!(DatabaseName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn one_server_per_folder() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::create(&temp.path().join("data")).unwrap();
        let lock = folder.lock().unwrap();
        assert!(matches!(folder.lock(), Err(Error::Locked(_))));
        drop(lock);
        folder.lock().unwrap();
    }

    #[test]
    fn the_dev_key_is_private_and_replaceable() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::create(temp.path()).unwrap();
        assert_eq!(folder.read_dev_key().unwrap(), None);
        std::fs::write(folder.dev_key_path(), "old").unwrap();
        folder.write_dev_key("new").unwrap();
        assert_eq!(folder.read_dev_key().unwrap().as_deref(), Some("new"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(folder.dev_key_path()).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        folder.check_writable().unwrap();
    }

    #[test]
    fn a_folder_below_a_file_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(Folder::create(&file.join("data")), Err(Error::Folder { .. })));
        assert!(matches!(Folder::open(&file), Err(Error::NoFolder(_))));
    }
}
