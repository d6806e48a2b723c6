//! What can go wrong in the server and its commands, each with the remedy in its text.

use std::io;
use std::path::PathBuf;

use crate::store::StoreError;

/// A failure of a command or of starting the server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The data folder cannot be created or written.
    #[error(
        "cannot use the data folder {path}: {source}: choose a folder that you may write with --data-dir"
    )]
    Folder {
        /// The file or folder that failed.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no data folder, and the command does not create one.
    #[error(
        "no data folder at {0}: name the right one with --data-dir, or create it with `cloudsync db create`"
    )]
    NoFolder(PathBuf),
    /// Another server holds the folder.
    #[error("another server uses the data folder {0}: stop it, or choose another folder with --data-dir")]
    Locked(PathBuf),
    /// The folder was written by a later version.
    #[error(
        "{path} has format {found}, but this cloudsync knows formats up to {known}: use a newer cloudsync"
    )]
    NewerFormat {
        /// The control database.
        path: PathBuf,
        /// The format it has.
        found: i64,
        /// The newest format that this version reads.
        known: i64,
    },
    /// The file in the place of the control database is another SQLite database.
    #[error("{0} is not a cloudsync control database: choose another folder with --data-dir")]
    NotControl(PathBuf),
    /// The control database cannot be read or written.
    #[error("the control database {path} failed: {source}: check the disk and the rights of the file")]
    Control {
        /// The control database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A text is no database name.
    #[error(
        "{0:?} is not a database name: use 1 to 64 of A-Z a-z 0-9 _ . - and begin with a letter, digit or underscore"
    )]
    DatabaseName(String),
    /// A database of this name exists.
    #[error("the database {0} exists already: choose another name, which must differ by more than case")]
    DatabaseExists(String),
    /// There is no database of this name.
    #[error("there is no database {0}: create it with `cloudsync db create {0}`")]
    NoDatabase(String),
    /// No key or token fits what was asked for.
    #[error("there is no {0:?}: see `cloudsync key list` and `cloudsync token list`")]
    NoCredential(String),
    /// Several keys or tokens fit.
    #[error("{0:?} fits several: give the id that the list shows")]
    AmbiguousCredential(String),
    /// A word is no scope.
    #[error("{0:?} is no scope: use one or several of read, write, schema, admin")]
    Scope(String),
    /// A user is not described well.
    #[error("this is no user: {0}")]
    User(String),
    /// An issuer is not described well.
    #[error("the issuer cannot be added: {0}")]
    Issuer(String),
    /// There is no issuer of this id.
    #[error("there is no issuer {0}: see `cloudsync issuer list`")]
    NoIssuer(i64),
    /// A length of time cannot be read.
    #[error("{0:?} is no length of time: write 90s, 15m, 12h or 30d")]
    Duration(String),
    /// The system gave no random bytes.
    #[error("the system gives no random numbers for a key: {0}: try again")]
    Random(getrandom::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}: free the port, or choose another address with {option}")]
    Listen {
        /// The flag by which another one is chosen.
        option: &'static str,
        /// The address as it was given.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server's own machinery did not start.
    #[error("the server cannot run: {0}: check the limits on threads and open files")]
    Runtime(io::Error),
    /// A setting is wrong, or the file of settings.
    #[error("the configuration cannot be used: {0}: see `cloudsync config show --help`")]
    Config(String),
    /// A file named on the command line cannot be read.
    #[error("cannot read {path}: {source}: check the path, or use - for standard input")]
    Input {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A result cannot be printed.
    #[error("cannot print the result: {0}: check where the output goes")]
    Output(io::Error),
    /// The file of a database cannot be opened.
    #[error("the database file {path} cannot be opened: {source}: check the disk and the rights of the file")]
    DatabaseFile {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A copy cannot be made or put in its place.
    #[error("{path}: {why}")]
    Backup {
        /// The file.
        path: PathBuf,
        /// Why, with the remedy.
        why: String,
    },
    /// A command that changes files is given while a server uses them.
    #[error(
        "a server uses the data folder {0}: stop it, or add --while-serving, and it lets the database go meanwhile"
    )]
    Serving(PathBuf),
    /// A command that cannot be undone wants to be told so.
    #[error("`db delete {0}` removes its rows, keys and tokens for good: say so with --yes")]
    Unsaid(String),
    /// Something is wrong, as was printed.
    #[error("{database}: wrong: {count}; what was printed says what to do")]
    Found {
        /// The database, or what else was looked at.
        database: String,
        /// How many.
        count: usize,
    },
    /// A statement of `db sql` failed.
    #[error("{database}, statement {statement}: {source}: what was not committed before is rolled back")]
    Sql {
        /// The database.
        database: String,
        /// The statement's number, from 1.
        statement: usize,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The text of `db sql` began a transaction and did not end it.
    #[error("{0}: the text leaves its transaction open, which was rolled back: end it with COMMIT")]
    OpenTransaction(String),
    /// What is asked of policies makes no sense, or they failed.
    #[error("{0}")]
    Policy(String),
    /// A store failed.
    #[error("{database}: {source}")]
    Store {
        /// The database.
        database: String,
        /// What the store said.
        source: StoreError,
    },
}

impl From<crate::policy::PolicyError> for Error {
    fn from(error: crate::policy::PolicyError) -> Self {
        Self::Policy(error.to_string())
    }
}

impl Error {
    /// What it is, for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Folder { .. } => "CLOUDSYNC_FOLDER",
            Self::NoFolder(_) => "CLOUDSYNC_NO_FOLDER",
            Self::Locked(_) | Self::Serving(_) => "CLOUDSYNC_IN_USE",
            Self::NewerFormat { .. } => "CLOUDSYNC_NEWER_FORMAT",
            Self::NotControl(_) | Self::Control { .. } => "CLOUDSYNC_CONTROL",
            Self::DatabaseName(_) => "CLOUDSYNC_DATABASE_NAME",
            Self::DatabaseExists(_) => "CLOUDSYNC_DATABASE_EXISTS",
            Self::NoDatabase(_) => "CLOUDSYNC_UNKNOWN_DATABASE",
            Self::NoCredential(_) | Self::AmbiguousCredential(_) => "CLOUDSYNC_UNKNOWN_CREDENTIAL",
            Self::Issuer(_) => "CLOUDSYNC_ISSUER",
            Self::NoIssuer(_) => "CLOUDSYNC_UNKNOWN_ISSUER",
            Self::Scope(_) | Self::User(_) | Self::Duration(_) | Self::Unsaid(_) => "CLOUDSYNC_USAGE",
            Self::Listen { .. } => "CLOUDSYNC_LISTEN",
            Self::Random(_) | Self::Runtime(_) => "CLOUDSYNC_SYSTEM",
            Self::Config(_) => "CLOUDSYNC_CONFIG",
            Self::Input { .. } => "CLOUDSYNC_INPUT",
            Self::Output(_) => "CLOUDSYNC_OUTPUT",
            Self::DatabaseFile { .. } | Self::Store { .. } => "CLOUDSYNC_STORE",
            Self::Backup { .. } => "CLOUDSYNC_BACKUP",
            Self::Found { .. } => "CLOUDSYNC_FOUND",
            Self::Sql { .. } | Self::OpenTransaction(_) => "CLOUDSYNC_SQL",
            Self::Policy(_) => "CLOUDSYNC_POLICY",
        }
    }

    /// The error's text on one line, whatever the texts in it hold.
    #[must_use]
    pub fn to_line(&self) -> String {
        self.to_string().split(['\n', '\r']).map(str::trim).collect::<Vec<_>>().join(" ")
    }
}

/// What a command or a start of the server gives.
pub type Result<T> = std::result::Result<T, Error>;
