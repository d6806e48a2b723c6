//! A device of a user as an audience: what it may see, what it holds, and what it is sent.

use super::holdings::Pieces;
use super::place::Place;
use super::record::{Posting, Record};
use super::regard::{Reason, Regard, condition, is_wrong};
use super::seal::Seal;
use crate::auth::User;
use crate::policy::Policies;
use cloudsync_core::clock::SiteOrdinal;
use cloudsync_protocol::limits::CHUNK_BYTES_TARGET;
use cloudsync_protocol::message::Request;
use cloudsync_replica::{
    Audience, Candidate, Cause, Error, Extraction, Position, Replica, RowTest, Sending, TableRows,
};
use roaring::RoaringTreemap;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;

/// Rows that are looked at for one chunk at most: bounds the time that a turn takes where few of them are seen.
const ROWS_MAX: usize = 100_000;

/// What a device of a user receives in one turn.
pub(crate) struct Given {
    pub(crate) payload: Vec<u8>,
    pub(crate) rows: u64,
    pub(crate) position: Option<Vec<u8>>,
    pub(crate) cursor: u64,
    /// What must be on disk before the answer leaves.
    pub(crate) posting: Option<Posting>,
    /// It began to look at all rows of tables.
    pub(crate) recomputes: bool,
}

/// What is new for a device of a user. The caller holds a transaction in which everything is folded and stamped, and has
/// assumed the user.
pub(crate) fn pull(
    replica: &mut Replica,
    policies: &Policies,
    request: &Request<'_>,
    site: SiteOrdinal,
    user: &User,
) -> Result<Given, Error> {
    let (db, head) = (replica.connection(), replica.version()?);
    let known = Record::read(&db, site)?.unwrap_or_default();
    let tables = replica.table_rows()?;
    let stamp = stamp(policies, &tables, user);
    let seal = Seal::of(&db, request.site)?;
    let begun = seal.open(request.position).and_then(|place| Place::decode(&place));
    let standing = Standing::of(request, &known, begun.is_some());
    match standing {
        Standing::Again => {
            cloudsync_core::reached!("ledger: a download begins again");
        }
        Standing::Unrecorded => {
            cloudsync_core::reached!("ledger: a download of which nothing is recorded");
        }
        Standing::Back => {
            cloudsync_core::reached!("ledger: nothing is sure");
        }
        Standing::New | Standing::Taken | Standing::Amid => {}
    }
    let place = match begun {
        Some(place) => place,
        None => Place {
            // A scan looks at everything anyway.
            stamp: if request.cursor == 0 { stamp } else { known.stamp_of(standing) },
            seen: if request.cursor == 0 { head } else { request.cursor },
            tries: 0,
            walk: None,
            then: replica.position_after(request.cursor)?,
        },
    };
    let is_other = place.stamp != stamp || (standing == Standing::Back && request.cursor > 0);
    let reason = if is_other { Reason::Everything } else { Reason::Since(place.seen) };
    let walk = place.walk.clone().filter(|_| !is_other);
    let regard = Regard::of(replica, &tables, policies, reason, head, place.tries, walk)?;
    let mut reader = Reader::new(&db, site, &known, standing, tables, policies, regard)?;
    let extraction = Extraction {
        from: place.then.clone(),
        last: head,
        filter: replica.filter_for(site, request.cursor, request.echo)?,
        bytes_target: CHUNK_BYTES_TARGET,
    };
    let chunk = replica.extract_for(&extraction, &mut reader)?;
    let next = match chunk.next {
        // What changed since a walk began is asked about when it is through.
        None if reader.regard.walk().is_some_and(|walk| walk.head < head) => {
            Some(replica.position_after(head)?)
        }
        next => next,
    };
    let next = next.map(|then| seal.close(&reader.place(&place, stamp, head, then).encode()));
    let next = next.transpose()?;
    let outcome = Outcome { next, head, stamp };
    Ok(reader.finish(request, &known, standing, outcome, (chunk.payload, chunk.rows)))
}

/// Identifies under which policies and claims rows are seen.
pub(super) fn stamp(policies: &Policies, tables: &[TableRows], user: &User) -> i64 {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    add(&user.id);
    add(&serde_json::Value::Object(user.claims.clone()).to_string());
    for table in tables {
        add(table.name());
        add(condition(policies.select_of(table.name())));
    }
    let digest = hash.finalize();
    digest.first_chunk::<8>().map_or(0, |bytes| i64::from_le_bytes(*bytes))
}

/// How what a device says of itself stands to the record of its last download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing is known of it.
    New,
    /// It begins, and has taken in what the record says.
    Taken,
    /// It begins again where the download of the record began.
    Again,
    /// It is in the middle of that download, and has taken in what was sent in it.
    Amid,
    /// It is in the middle of a download of which nothing is recorded.
    Unrecorded,
    /// It is not where the ledger thinks it is: nothing is sure.
    Back,
}

impl Standing {
    pub(super) fn of(request: &Request<'_>, known: &Record, is_amid: bool) -> Self {
        if is_amid {
            let same = request.position == known.position && !known.position.is_empty();
            return if same { Self::Amid } else { Self::Unrecorded };
        }
        if *known == Record::default() {
            return if request.cursor == 0 && !request.echo { Self::New } else { Self::Back };
        }
        if request.cursor == 0 {
            // As long as nothing became sure but what it uploaded.
            return if known.base == 0 && !request.echo { Self::Again } else { Self::Back };
        }
        if known.is_taken_by(request.cursor) {
            Self::Taken
        } else if request.cursor >= known.base && known.base > 0 {
            Self::Again
        } else {
            Self::Back
        }
    }
}

struct Outcome {
    /// The position that the device is given.
    next: Option<Vec<u8>>,
    head: u64,
    stamp: i64,
}

/// The device while it is sent a chunk.
pub(super) struct Reader<'a> {
    policies: &'a Policies,
    tables: Vec<TableRows>,
    tests: HashMap<i64, Option<RowTest>>,
    pieces: Pieces,
    /// Nothing that is stored as sure is.
    doubts: bool,
    /// Of a record that the device has taken in and that is not entered yet.
    taken: Option<(RoaringTreemap, RoaringTreemap)>,
    /// What came and went in this download, with this chunk.
    granted: RoaringTreemap,
    evicted: RoaringTreemap,
    /// In this chunk alone.
    granted_here: RoaringTreemap,
    evicted_here: RoaringTreemap,
    regard: Regard,
    regarded: bool,
    /// The row that was judged last, and whether it was granted then.
    last: (Cause, u64, bool),
    pub(super) looked_at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        db: &cloudsync_sqlite_ffi::Connection,
        site: SiteOrdinal,
        known: &Record,
        standing: Standing,
        tables: Vec<TableRows>,
        policies: &'a Policies,
        regard: Regard,
    ) -> Result<Self, Error> {
        let sets = || (known.granted.clone(), known.evicted.clone());
        let (granted, evicted) = if standing == Standing::Amid { sets() } else { Default::default() };
        Ok(Self {
            policies,
            tables,
            tests: HashMap::new(),
            pieces: Pieces::new(*db, site),
            doubts: standing == Standing::Back,
            taken: (standing == Standing::Taken).then(sets),
            granted,
            evicted,
            granted_here: RoaringTreemap::new(),
            evicted_here: RoaringTreemap::new(),
            regard,
            regarded: false,
            last: (Cause::Named, 0, false),
            looked_at: 0,
        })
    }

    fn is_visible(&mut self, row: &Candidate<'_>) -> Result<bool, Error> {
        if !self.tests.contains_key(&row.table) {
            let table = self.tables.iter().find(|table| table.id() == row.table);
            let policy = self.policies.select_of(row.table_name);
            let test = match (table, policy) {
                (Some(table), Some(policy)) => Some(table.test(policy.condition())?),
                _ => None,
            };
            self.tests.insert(row.table, test);
        }
        match self.tests.get_mut(&row.table) {
            // An expression that fails for a row does not show it.
            Some(Some(test)) => match test.holds(row.key) {
                Err(error) if is_wrong(&error) => Ok(false),
                outcome => outcome,
            },
            _ => Ok(false),
        }
    }

    fn may_hold(&mut self, ordinal: u64) -> Result<bool, Error> {
        if self.granted.contains(ordinal) {
            return Ok(true);
        }
        if self.evicted.contains(ordinal) {
            return Ok(false);
        }
        match &self.taken {
            // What was granted may be held from the moment on at which it was sent.
            Some((_, evicted)) if evicted.contains(ordinal) => Ok(false),
            _ => self.pieces.may_hold(ordinal),
        }
    }

    fn surely_holds(&mut self, ordinal: u64) -> Result<bool, Error> {
        if self.granted.contains(ordinal) {
            return Ok(true);
        }
        if self.evicted.contains(ordinal) || self.doubts {
            return Ok(false);
        }
        match &self.taken {
            Some((granted, _)) if granted.contains(ordinal) => Ok(true),
            // What was evicted is not sure from the moment on at which it was sent.
            _ => self.pieces.surely_holds(ordinal),
        }
    }

    fn grant(&mut self, ordinal: u64) {
        self.granted.insert(ordinal);
        self.evicted.remove(ordinal);
        self.granted_here.insert(ordinal);
        self.last.2 = true;
    }

    fn evict(&mut self, ordinal: u64) {
        self.evicted.insert(ordinal);
        self.granted.remove(ordinal);
        self.evicted_here.insert(ordinal);
    }

    fn dead(&mut self, row: &Candidate<'_>) -> Result<Sending, Error> {
        // A row that was only named has its deletion in the list.
        let is_own = row.cause == Cause::Change { own: true };
        if row.cause == Cause::Named || is_own || !self.may_hold(row.ordinal)? {
            return Ok(Sending::Nothing);
        }
        if row.has_values {
            // Nobody can say whether the values may be seen.
            self.evict(row.ordinal);
            return Ok(Sending::Eviction);
        }
        Ok(Sending::Changes)
    }

    /// Where the next chunk goes on.
    fn place(&self, begun: &Place, stamp: i64, head: u64, then: Position) -> Place {
        let walk = self.regard.walk();
        if self.regarded {
            // What came after a walk began may concern rows that it had passed.
            let seen = walk.map_or(head, |walk| walk.head);
            return Place { stamp, seen, tries: 0, walk: None, then };
        }
        Place { stamp, seen: begun.seen, tries: begun.tries + 1, walk: walk.cloned(), then }
    }

    fn finish(
        self,
        request: &Request<'_>,
        known: &Record,
        standing: Standing,
        outcome: Outcome,
        (payload, rows): (Vec<u8>, u64),
    ) -> Given {
        let recomputes = self.regard.has_begun_walk();
        let Outcome { next: position, head, stamp } = outcome;
        let cursor = if position.is_none() { head.max(1) } else { 0 };
        let is_nothing_new = self.granted_here.is_empty()
            && self.evicted_here.is_empty()
            && self.granted.is_empty()
            && self.evicted.is_empty();
        let before = known.stamp_of(standing);
        let is_end_of_other = position.is_none() && before != stamp;
        // Until the end everything is in doubt that was: whoever begins again looks at all of it.
        let base_stamp = if self.doubts { !stamp } else { before };
        // The next chunk could not tell any more that the record was taken in.
        let is_beginning = position.is_some() && standing == Standing::Taken;
        // What it did not take in must not count as taken in with the next cursor.
        let is_void = matches!(standing, Standing::Again | Standing::Unrecorded);
        let posting = if is_nothing_new && !self.doubts && !is_end_of_other && !is_beginning && !is_void {
            None
        } else {
            Some(Posting {
                site: request.site,
                taken: (standing == Standing::Taken).then(|| (known.cursor, known.position.clone())),
                doubts: self.doubts,
                granted: self.granted_here,
                evicted: self.evicted_here,
                record: Some(Record {
                    base: request.cursor,
                    cursor,
                    position: position.clone().unwrap_or_default(),
                    granted: self.granted,
                    evicted: self.evicted,
                    // Only that of a download which came to its end is asked for.
                    stamp: if position.is_none() { stamp } else { base_stamp },
                    base_stamp,
                }),
            })
        };
        Given { payload, rows, position, cursor, posting, recomputes }
    }
}

impl Audience for Reader<'_> {
    fn next(&mut self) -> Result<Option<(i64, Vec<u8>)>, Error> {
        let next = self.regard.next(&self.tables)?;
        self.regarded = next.is_none();
        Ok(next)
    }

    fn is_tired(&self) -> bool {
        self.looked_at >= ROWS_MAX
    }

    fn judge(&mut self, row: &Candidate<'_>) -> Result<Sending, Error> {
        self.looked_at += 1;
        self.last = (row.cause, row.ordinal, false);
        if !row.alive {
            return self.dead(row);
        }
        if !self.is_visible(row)? {
            if !self.may_hold(row.ordinal)? {
                return Ok(Sending::Nothing);
            }
            self.evict(row.ordinal);
            return Ok(Sending::Eviction);
        }
        if self.surely_holds(row.ordinal)? {
            return Ok(match row.cause {
                Cause::Named | Cause::Scan { own: true } | Cause::Change { own: true } => Sending::Nothing,
                Cause::Scan { own: false } | Cause::Change { own: false } => Sending::Changes,
            });
        }
        let has_it = row.cause == Cause::Scan { own: true } && !self.may_hold(row.ordinal)?;
        self.grant(row.ordinal);
        // A row that the device itself wrote as a whole before the ledger knew of it.
        Ok(if has_it { Sending::Nothing } else { Sending::Whole })
    }

    fn cut_short(&mut self) {
        let (cause, ordinal, is_granted) = self.last;
        if is_granted {
            // It may hold the pieces, and does not have the row.
            self.granted.remove(ordinal);
        }
        if cause == Cause::Named {
            self.regard.step_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Standing::{Again, Amid, Back, New, Taken, Unrecorded};
    use super::*;
    use cloudsync_core::id::SiteId;

    fn request(cursor: u64, position: &str, echo: bool) -> Request<'_> {
        Request {
            site: SiteId([1; 16]),
            epoch: 0,
            nonce: 0,
            now: 0,
            cursor,
            position: position.as_bytes(),
            pull: true,
            echo,
            fingerprint: 0,
            schema: None,
            upload: None,
            check: Default::default(),
        }
    }

    #[test]
    fn where_a_device_stands_follows_from_what_it_asks_with() {
        let ended = |base, cursor| Record { base, cursor, ..Record::default() };
        let amid = |base| Record { base, position: b"here".to_vec(), ..Record::default() };
        let begins = [
            // Of a device that nothing is known of.
            (Record::default(), 0, false, New),
            (Record::default(), 0, true, Back),
            (Record::default(), 7, false, Back),
            // It was given 9 for 3.
            (ended(3, 9), 9, false, Taken),
            (ended(3, 9), 10, false, Taken),
            (ended(3, 9), 8, false, Again),
            (ended(3, 9), 3, false, Again),
            (ended(3, 9), 2, false, Back),
            (ended(3, 9), 0, false, Back),
            // It was given 9 for nothing.
            (ended(0, 9), 9, false, Taken),
            (ended(0, 9), 8, false, Back),
            (ended(0, 9), 0, false, Again),
            (ended(0, 9), 0, true, Back),
            // It had not come to the end.
            (amid(3), 9, false, Again),
            (amid(3), 3, false, Again),
            (amid(3), 2, false, Back),
            (amid(0), 0, false, Again),
            (amid(0), 3, false, Back),
        ];
        for (record, cursor, echo, wanted) in begins {
            assert_eq!(
                Standing::of(&request(cursor, "", echo), &record, false),
                wanted,
                "{record:?}, {cursor}"
            );
        }
        for (record, position, wanted) in [
            (amid(3), "here", Amid),
            (amid(3), "there", Unrecorded),
            (ended(3, 9), "here", Unrecorded),
            (Record::default(), "", Unrecorded),
        ] {
            assert_eq!(Standing::of(&request(3, position, false), &record, true), wanted, "{record:?}");
        }
    }
}
