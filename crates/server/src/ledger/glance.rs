//! Whether news concern somebody who listens.
//!
//! A thousand users hear of one change, and one of them has something of it. What is the same for all of them is worked
//! out once and kept on the connection until something else is committed: the rows that changed, and the questions of
//! [`regard`](super::regard) as prepared statements. A user then costs a step of each. If that finds nothing there is
//! nothing, and else the rows are judged as in a turn, until the first that is sent.

use super::audience::{Reader, Standing, stamp};
use super::holdings::Pieces;
use super::record::Record;
use super::regard::{Reason, Regard, is_wrong};
use crate::auth::User;
use crate::policy::Policies;
use cloudsync_core::clock::SiteOrdinal;
use cloudsync_core::id::SiteId;
use cloudsync_protocol::limits::CHUNK_BYTES_TARGET;
use cloudsync_protocol::message::Request;
use cloudsync_replica::{
    Audience, Candidate, Error, Extraction, Filter, Replica, RowKeys, RowTest, Sending, TableRows,
};
use cloudsync_sqlite_ffi::Connection;
use std::collections::HashMap;

/// Rows that are looked at to find out whether news concern somebody: beyond it asking costs little more.
const ROWS_MAX: usize = 256;
/// No site has this number: to nobody a change is their own.
const NOBODY: SiteOrdinal = SiteOrdinal(u32::MAX);

/// A device of a user.
pub(crate) struct Device<'d> {
    pub(crate) id: SiteId,
    pub(crate) ordinal: SiteOrdinal,
    pub(crate) user: &'d User,
}

/// SQLite's number of the last commit that a transaction sees, for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Commit(i64);

impl Commit {
    pub(crate) fn read(db: &Connection) -> Result<Self, Error> {
        Ok(Self(db.query_i64("PRAGMA main.data_version", &[])?.unwrap_or(0)))
    }
}

/// What came after a version, as far as it is the same for all.
pub(crate) struct Glance {
    commit: Commit,
    compiled: u64,
    version: u64,
    head: u64,
    tables: Vec<TableRows>,
    /// `None` when it is so much, or of a kind, that everybody asks.
    news: Option<News>,
}

struct News {
    changed: Vec<Changed>,
    questions: Vec<RowKeys>,
    tests: HashMap<i64, Option<RowTest>>,
}

struct Changed {
    table: i64,
    key: Vec<u8>,
    ordinal: u64,
    alive: bool,
}

/// Whether anything after a version concerns a device of a user, so that asking would bring it something. Looks at a
/// bounded number of rows; where that does not say, something may. The caller holds a transaction in which everything is
/// folded and stamped, and has assumed the user.
pub(crate) fn concerns(
    glance: &mut Option<Glance>,
    commit: Commit,
    replica: &mut Replica,
    policies: &Policies,
    device: &Device<'_>,
    version: u64,
) -> Result<bool, Error> {
    let is_of = |glance: &Glance| glance.is_of(commit, version) && glance.compiled == policies.compiled();
    if !glance.as_ref().is_some_and(is_of) {
        // Its statements are of no use any more.
        *glance = None;
        *glance = Some(Glance::new(replica, policies, commit, version)?);
    }
    let Some(glance) = glance else { return Ok(true) };
    let db = replica.connection();
    let known = Record::read(&db, device.ordinal)?.unwrap_or_default();
    let request = request(device, version);
    let standing = Standing::of(&request, &known, false);
    if standing != Standing::Taken || known.stamp != stamp(policies, &glance.tables, device.user) {
        return Ok(true);
    }
    let Some(news) = &mut glance.news else { return Ok(true) };
    if !news.may_concern(&db, &known, device.ordinal)? {
        return Ok(false);
    }
    let head = glance.head;
    let regard = Regard::of(replica, &glance.tables, policies, Reason::Since(version), head, 0, None)?;
    let tables = replica.table_rows()?;
    let reader = Reader::new(&db, device.ordinal, &known, standing, tables, policies, regard)?;
    let mut look = Look { reader, hit: false };
    let extraction = Extraction {
        from: replica.position_after(version)?,
        last: head,
        filter: Filter::ForSite { site: device.ordinal, echo: false },
        bytes_target: CHUNK_BYTES_TARGET,
    };
    let chunk = replica.extract_for(&extraction, &mut look)?;
    Ok(look.hit || chunk.next.is_some())
}

/// What the device would ask with.
fn request(device: &Device<'_>, version: u64) -> Request<'static> {
    Request {
        site: device.id,
        epoch: 0,
        nonce: 0,
        now: 0,
        cursor: version,
        position: &[],
        pull: true,
        echo: false,
        fingerprint: 0,
        schema: None,
        upload: None,
        check: Default::default(),
    }
}

impl Glance {
    fn new(replica: &mut Replica, policies: &Policies, commit: Commit, version: u64) -> Result<Self, Error> {
        let (head, tables, compiled) = (replica.version()?, replica.table_rows()?, policies.compiled());
        let regard = Regard::of(replica, &tables, policies, Reason::Since(version), head, 0, None)?;
        let questions = regard.into_questions(&tables)?;
        let mut list = List { changed: Vec::new() };
        let extraction = Extraction {
            from: replica.position_after(version)?,
            last: head,
            filter: Filter::ForSite { site: NOBODY, echo: false },
            bytes_target: CHUNK_BYTES_TARGET,
        };
        let is_all = replica.extract_for(&extraction, &mut list)?.next.is_none();
        let changed = list.changed;
        let mut tests = HashMap::new();
        for table in &tables {
            let policy = policies.select_of(table.name());
            let test = policy.map(|policy| table.test(policy.condition())).transpose()?;
            tests.insert(table.id(), test);
        }
        let news = questions.filter(|_| is_all).map(|questions| News { changed, questions, tests });
        Ok(Self { commit, compiled, version, head, tables, news })
    }

    /// Whether it is what a transaction that sees this commit would find after a version.
    pub(crate) fn is_of(&self, commit: Commit, version: u64) -> bool {
        (self.commit, self.version) == (commit, version)
    }
}

impl News {
    /// False where nothing of it is seen or held: then nothing would be sent.
    fn may_concern(&mut self, db: &Connection, known: &Record, site: SiteOrdinal) -> Result<bool, Error> {
        let Self { changed, questions, tests } = self;
        for question in questions {
            match question.any() {
                Ok(false) => {}
                Err(error) if !is_wrong(&error) => return Err(error),
                Ok(true) | Err(_) => return Ok(true),
            }
        }
        let mut pieces = Pieces::new(*db, site);
        for Changed { table, key, ordinal, alive } in changed {
            let test = tests.get_mut(table).and_then(Option::as_mut).filter(|_| *alive);
            let is_seen = match test.map(|test| test.holds(key)) {
                Some(Err(error)) if !is_wrong(&error) => return Err(error),
                // An expression that fails for a row does not show it.
                Some(Err(_)) | None => false,
                Some(Ok(holds)) => holds,
            };
            if is_seen || known.granted.contains(*ordinal) || pieces.may_hold(*ordinal)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Lists what changed.
struct List {
    changed: Vec<Changed>,
}

impl Audience for List {
    fn next(&mut self) -> Result<Option<(i64, Vec<u8>)>, Error> {
        Ok(None)
    }

    fn is_tired(&self) -> bool {
        self.changed.len() >= ROWS_MAX
    }

    fn judge(&mut self, row: &Candidate<'_>) -> Result<Sending, Error> {
        let Candidate { table, key, ordinal, alive, .. } = *row;
        self.changed.push(Changed { table, key: key.to_vec(), ordinal, alive });
        Ok(Sending::Nothing)
    }

    fn cut_short(&mut self) {}
}

/// A look at what a device would be sent, which ends with the first row.
struct Look<'a> {
    reader: Reader<'a>,
    hit: bool,
}

impl Audience for Look<'_> {
    fn next(&mut self) -> Result<Option<(i64, Vec<u8>)>, Error> {
        self.reader.next()
    }

    fn is_tired(&self) -> bool {
        self.hit || self.reader.looked_at >= ROWS_MAX
    }

    fn judge(&mut self, row: &Candidate<'_>) -> Result<Sending, Error> {
        self.hit |= self.reader.judge(row)? != Sending::Nothing;
        Ok(Sending::Nothing)
    }

    fn cut_short(&mut self) {}
}
