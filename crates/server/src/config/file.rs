//! The file of a configuration.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::settings::{PATHS, Settings};
use crate::error::{Error, Result};

/// What the file in a data folder is called.
pub const FILE_NAME: &str = "cloudsync.toml";
/// The key that names the data folder, in a file that does not lie in it.
const DATA_DIR: &str = "data_dir";
/// How many slips a key may have to be taken for another one.
const SLIPS_MAX: usize = 3;
/// Longest file, in bytes.
const BYTES_MAX: u64 = 1 << 20;

/// A file that was read, and has no key that is none.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigFile {
    path: PathBuf,
    table: Table,
}

impl ConfigFile {
    /// Reads the file at `path`. `may_name_folder` says whether `data_dir` may stand in it.
    ///
    /// # Errors
    /// [`Error::Config`] when it cannot be read, is not TOML, or has a key that is no setting.
    pub fn read(path: &Path, may_name_folder: bool) -> Result<Self> {
        let fail = |text: String| Error::Config(format!("{}: {text}", path.display()));
        let metadata = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?;
        if metadata.len() > BYTES_MAX {
            return Err(fail(format!("more than {BYTES_MAX} bytes are no configuration")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            fail(format!("line {}: {}", before.matches('\n').count() + 1, error.message()))
        })?;
        let mut names = Settings::names();
        if may_name_folder {
            names.push(DATA_DIR.to_owned());
        }
        if let Some(unknown) = table.keys().find(|key| !names.contains(key)) {
            let near = nearest(unknown, &names).map(|name| format!(": did you mean {name}?"));
            let hint = near.unwrap_or_else(|| ": `cloudsync config show` lists them".to_owned());
            return Err(fail(format!("there is no setting {unknown}{hint}")));
        }
        Ok(Self { path: path.to_owned(), table })
    }

    /// Reads the file of a data folder, if it has one.
    ///
    /// # Errors
    /// As [`ConfigFile::read`].
    pub fn of_folder(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE_NAME);
        match std::fs::metadata(&path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            _ => Self::read(&path, false).map(Some),
        }
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file sets.
    pub(super) fn settings(&self) -> Result<Table> {
        let mut table = self.table.clone();
        table.remove(DATA_DIR);
        if let Err(error) = table.clone().try_into::<Settings>() {
            return Err(Error::Config(format!("{}: {error}", self.path.display())));
        }
        for name in PATHS {
            if let Some(Value::String(path)) = table.get_mut(name) {
                *path = self.beside(path).display().to_string();
            }
        }
        Ok(table)
    }

    /// The data folder that the file names.
    pub(super) fn data_dir(&self) -> Result<Option<PathBuf>> {
        match self.table.get(DATA_DIR) {
            None => Ok(None),
            Some(Value::String(path)) => Ok(Some(self.beside(path))),
            Some(_) => Err(Error::Config(format!("{}: data_dir must be a text", self.path.display()))),
        }
    }

    /// A path that is meant from the file's folder on.
    fn beside(&self, path: &str) -> PathBuf {
        let folder = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        folder.parent().map_or_else(|| PathBuf::from(path), |folder| folder.join(path))
    }
}

/// The name that is most like a word, if any is like it.
fn nearest<'n>(word: &str, names: &'n [String]) -> Option<&'n str> {
    let ranked = names.iter().map(|name| (slips(word, name), name.as_str()));
    ranked.filter(|(slips, _)| *slips <= SLIPS_MAX.min(word.len() / 2)).min().map(|(_, name)| name)
}

/// How many letters must be changed, added, left out or exchanged with their neighbour to make one word of another.
fn slips(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let same = a[i - 1] == b[j - 1];
            let mut least =
                (rows[i - 1][j - 1] + usize::from(!same)).min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_counted() {
        let cases =
            [("", "", 0), ("addr", "addr", 0), ("adr", "addr", 1), ("idel", "idle", 1), ("abc", "", 3)];
        for (a, b, expected) in cases {
            assert_eq!((slips(a, b), slips(b, a)), (expected, expected), "{a} {b}");
        }
        let names = Settings::names();
        assert_eq!(nearest("user_listener", &names), Some("user_listeners"));
        assert_eq!(nearest("log-format", &names), Some("log_format"));
        assert_eq!(nearest("q", &names), None);
    }

    #[test]
    fn only_a_file_that_lies_elsewhere_names_the_folder() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(FILE_NAME);
        std::fs::write(&path, "data_dir = \"data\"\naddr = \"127.0.0.1:1\"").unwrap();
        let file = ConfigFile::read(&path, true).unwrap();
        assert_eq!(file.data_dir().unwrap(), Some(temp.path().join("data")));
        assert_eq!(file.settings().unwrap().len(), 1);
        assert!(ConfigFile::of_folder(temp.path()).is_err());
        assert_eq!(ConfigFile::of_folder(&temp.path().join("none")).unwrap(), None);
    }
}
