//! Who is measured: plain SQLite, and what makes a plain table sync.

mod cloudsync;
mod crsqlite;
#[cfg(feature = "session")]
mod session;

use crate::data::{Rows, Shape};
use crate::database::Database;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// Who wins where both sides changed a cell. Those that merge find out by themselves; the session extension is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wins {
    Local,
    Remote,
}

/// What stands beside a plain table and makes it sync.
pub(crate) trait Subject {
    /// Sets the point from which [`Subject::extract`] counts.
    fn mark(&mut self, database: &Database) -> Result<()>;

    /// Does what is left to do after the app's own writes before they can be extracted.
    fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    /// Hands what changed since the mark to `take`, in pieces.
    fn extract(&mut self, database: &Database, take: &mut dyn FnMut(Vec<u8>) -> Result<()>) -> Result<()>;

    /// Takes in one piece.
    fn apply(&mut self, database: &Database, piece: &[u8], wins: Wins) -> Result<()>;
}

/// A loadable extension that can be measured beside ours.
pub(crate) struct Adapter {
    /// As `--peer` names it.
    pub(crate) name: &'static str,
    open: fn(&Database, &Path) -> Result<Box<dyn Subject>>,
}

/// The extensions that can be given by `--peer`, in the order of their columns.
pub(crate) const ADAPTERS: [Adapter; 1] = [crsqlite::ADAPTER];

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Implementation {
    /// SQLite without anything: what ratios refer to.
    Plain,
    /// SQLite's session extension.
    Session,
    /// Our replica.
    Cloudsync,
    /// One of [`ADAPTERS`], by its place there.
    Peer(usize),
}

impl Implementation {
    /// All columns of the table, also those that nobody fills in this run.
    pub(crate) fn all() -> Vec<Self> {
        let peers = (0..ADAPTERS.len()).map(Self::Peer);
        [Self::Plain, Self::Session, Self::Cloudsync].into_iter().chain(peers).collect()
    }

    /// The name in tables and files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Session => "session",
            Self::Cloudsync => "cloudsync",
            Self::Peer(index) => ADAPTERS[index].name,
        }
    }

    /// The opposite of [`Implementation::name`].
    pub(crate) fn from_name(name: &str) -> Result<Self> {
        let known = Self::all();
        known.iter().copied().find(|known| known.name() == name).with_context(|| {
            let names: Vec<_> = known.iter().map(|known| known.name()).collect();
            format!("there is no implementation {name}, only {}", names.join(", "))
        })
    }
}

/// A peer that was given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) index: usize,
    pub(crate) path: PathBuf,
}

impl Peer {
    /// Reads `NAME=PATH`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (name, path) = text.split_once('=').context("--peer wants NAME=PATH")?;
        let Some(index) = ADAPTERS.iter().position(|adapter| adapter.name == name) else {
            let names: Vec<_> = ADAPTERS.iter().map(|adapter| adapter.name).collect();
            bail!(
                "there is no adapter for {name}, only for: {}; docs/bench.md says how to write one",
                names.join(", ")
            );
        };
        Ok(Self { index, path: path.into() })
    }
}

/// Everyone who takes part in a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contest {
    pub(crate) peers: Vec<Peer>,
}

impl Contest {
    /// Those who can be measured in this run.
    pub(crate) fn entrants(&self) -> Vec<Implementation> {
        let mut entrants = vec![Implementation::Plain];
        if cfg!(feature = "session") {
            entrants.push(Implementation::Session);
        }
        entrants.push(Implementation::Cloudsync);
        entrants.extend(self.peers.iter().map(|peer| Implementation::Peer(peer.index)));
        entrants
    }

    /// The same in the order of one round: each comes first in turn, so that nobody always runs behind the same one.
    pub(crate) fn in_round(&self, round: usize) -> Vec<Implementation> {
        let mut entrants = self.entrants();
        let count = entrants.len();
        entrants.rotate_left(round % count);
        entrants
    }

    /// Makes what syncs the table `t` of a database; `None` for plain SQLite.
    pub(crate) fn attach(
        &self,
        implementation: Implementation,
        database: &Database,
        shape: Shape,
    ) -> Result<Option<Box<dyn Subject>>> {
        Ok(Some(match implementation {
            Implementation::Plain => return Ok(None),
            Implementation::Cloudsync => Box::new(cloudsync::Cloudsync::attach(database, shape)?),
            #[cfg(feature = "session")]
            Implementation::Session => Box::new(session::Session::attach(database)?),
            #[cfg(not(feature = "session"))]
            Implementation::Session => bail!("this build has no session extension; run `cargo xtask bench`"),
            Implementation::Peer(index) => {
                let peer = self.peers.iter().find(|peer| peer.index == index);
                let peer =
                    peer.with_context(|| format!("{} was not given by --peer", ADAPTERS[index].name))?;
                (ADAPTERS[index].open)(database, &peer.path)?
            }
        }))
    }
}

/// One implementation on a fresh file.
pub(crate) struct Sample {
    // Dropped before the database that it works on.
    subject: Option<Box<dyn Subject>>,
    pub(crate) database: Database,
    // Removed last.
    folder: Option<tempfile::TempDir>,
}

impl Sample {
    /// Makes the file with the empty table `t`, which syncs unless it is a plain one.
    pub(crate) fn create(
        contest: &Contest,
        implementation: Implementation,
        shape: Shape,
        temp_store_memory: bool,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut sample = Self::create_at(
            contest,
            implementation,
            shape,
            temp_store_memory,
            &folder.path().join("bench.db"),
        )?;
        sample.folder = Some(folder);
        Ok(sample)
    }

    /// The same, of a file that stays.
    pub(crate) fn create_at(
        contest: &Contest,
        implementation: Implementation,
        shape: Shape,
        temp_store_memory: bool,
        path: &Path,
    ) -> Result<Self> {
        let database = Database::open(path, temp_store_memory)?;
        database.execute(&shape.create_sql())?;
        let subject = contest.attach(implementation, &database, shape)?;
        database.checkpoint()?;
        Ok(Self { subject, database, folder: None })
    }

    /// Opens a file that [`Sample::create_at`] made.
    pub(crate) fn open(
        contest: &Contest,
        implementation: Implementation,
        shape: Shape,
        path: &Path,
    ) -> Result<Self> {
        let database = Database::open(path, false)?;
        let subject = contest.attach(implementation, &database, shape)?;
        Ok(Self { subject, database, folder: None })
    }

    /// See [`Subject::mark`].
    pub(crate) fn mark(&mut self) -> Result<()> {
        self.subject.as_mut().map_or(Ok(()), |subject| subject.mark(&self.database))
    }

    /// See [`Subject::settle`].
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.subject.as_mut().map_or(Ok(()), |subject| subject.settle())
    }

    /// Extracts what changed since the mark, and gives its bytes. Plain SQLite reads it: `read` says how.
    pub(crate) fn extract(
        &mut self,
        read: impl FnOnce(&Database) -> Result<usize>,
        mut take: impl FnMut(Vec<u8>) -> Result<()>,
    ) -> Result<usize> {
        let Some(subject) = &mut self.subject else {
            return read(&self.database);
        };
        let mut bytes = 0;
        subject.extract(&self.database, &mut |piece| {
            bytes += piece.len();
            take(piece)
        })?;
        Ok(bytes)
    }

    /// Applies pieces, which say the same as `rows`. Plain SQLite upserts those.
    pub(crate) fn apply(&mut self, pieces: &[Vec<u8>], rows: &Rows, wins: Wins) -> Result<()> {
        let Self { subject, database, .. } = self;
        match subject {
            Some(subject) => pieces.iter().try_for_each(|piece| subject.apply(database, piece, wins)),
            None => database.in_transaction(|| database.run_with_rows(&rows.shape.upsert_sql(), rows)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_needs_an_adapter() {
        let peer = Peer::parse("cr-sqlite=a=b.so").unwrap();
        assert_eq!((ADAPTERS[peer.index].name, peer.path.to_str()), ("cr-sqlite", Some("a=b.so")));
        assert!(Peer::parse("cr-sqlite").is_err());
        let error = Peer::parse("other=x.so").unwrap_err().to_string();
        assert!(error.contains("other") && error.contains("cr-sqlite"), "{error}");
    }

    #[test]
    fn each_comes_first_in_turn() {
        let contest = Contest { peers: vec![Peer { index: 0, path: "x".into() }] };
        let count = contest.entrants().len();
        let mut first: Vec<_> = (0..count).map(|round| contest.in_round(round)[0].name()).collect();
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), count);
    }

    #[test]
    fn names_lead_back() {
        for implementation in Implementation::all() {
            assert_eq!(Implementation::from_name(implementation.name()).unwrap(), implementation);
        }
        assert!(Implementation::from_name("x").is_err());
    }
}
