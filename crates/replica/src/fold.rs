//! Fold: turns the notes of local writes into clocks and a version, then empties the log.
//!
//! Notes only say where to look. What happened to a row is read off its stored clock and whether it exists now, so
//! neither the order in which triggers fire nor the way in which a row was replaced makes a difference:
//!
//! | clock says | row exists | means |
//! | --- | --- | --- |
//! | unknown | yes | inserted: life 1, every cell |
//! | unknown | no | nothing: it came and went |
//! | alive | yes | same life; every cell if an insertion or deletion was noted, else the noted columns |
//! | alive | no | deleted: next life |
//! | deleted | yes | inserted again: next life, every cell |
//! | deleted | no | nothing |
//!
//! In tables of the algorithms `dws` and `aws` there are no lives to count; `cloudsync_core::merge::local` says what an
//! insertion and a deletion make of the clock. The values of a row that was deleted from an `aws` table are kept. A row of a
//! `gos` table that is gone was thrown out by REPLACE: it is forgotten here and fetched again.
//!
//! A note's time becomes a hybrid logical time here: never behind what this replica has seen, and strictly later than
//! the cell it replaces. Rows that existed when their table began to sync are noted at time 0 and stamped with the
//! earliest time there is, so that any real edit, and any deletion that others know of, wins over them.

mod life;
mod notes;
mod strays;

pub(crate) use self::notes::key_column;
use self::notes::{Note, NoteReader, What};

use crate::buried::{Buried, Dropped};
use crate::changes::{ChangeWriter, Mask, Origin};
use crate::clocks::{self, ClockStore};
use crate::error::{Error, Result};
use crate::filter::{OwedRows, PrivateRows, RowFilter};
use crate::quarantine;
use crate::replica::Replica;
use crate::storage;
use crate::table::Table;
use cloudsync_core::clock::{
    Clock, ColumnNumber, ColumnSet, RowClock, SiteOrdinal, TIME_INITIAL, TIME_MAX, Time,
};
use cloudsync_core::id::SiteId;
use cloudsync_core::merge::{Algorithm, local, overlay};
use cloudsync_sqlite_ffi::{Connection, Statement, Value};
use std::rc::Rc;

/// Notes that one version takes at most; bounds the memory of a fold.
const SLICE_NOTES: i64 = 1 << 17;

/// What a fold found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Folded {
    /// Notes that were taken in.
    pub notes: u64,
    /// Rows that changed.
    pub rows: u64,
    /// Rows that stay local because their key contains NULL, or is too long.
    pub null_keys: u64,
}

/// What the notes say of one row.
#[derive(Default)]
struct Touch {
    whole_at: Option<u64>,
    updates: Vec<(u64, ColumnSet)>,
    /// In an `aws` table: all writes, also those before a deletion, whose values are kept with it.
    buried: Vec<(u64, ColumnSet)>,
    /// The oldest layout before the present one, whose notes know nothing of newer columns; with the last note's time.
    stale: Option<(i64, u64)>,
    /// Where a row of a filtered table stood before the notes, and what they did.
    began_inside: Option<bool>,
    left: bool,
    written: bool,
    /// A change of the filter or of the table brought it inside: it is sent whole, under the clock that it has.
    entered: Option<Mask>,
    /// After the last note it was there.
    was_there: bool,
}

impl Replica {
    /// Folds everything that is noted. The caller holds the transaction.
    pub(crate) fn fold_in_transaction(&mut self) -> Result<Folded> {
        self.fold_notes(None)
    }

    /// Folds the oldest notes only. The caller holds the transaction.
    pub(crate) fn fold_up_to(&mut self, notes: i64) -> Result<Folded> {
        self.fold_notes(Some(notes))
    }

    fn fold_notes(&mut self, only: Option<i64>) -> Result<Folded> {
        let limit = only.unwrap_or(SLICE_NOTES);
        self.follow_in_transaction()?;
        let mut folded = Folded::default();
        loop {
            let is_over = only.is_some() && folded.notes > 0;
            let notes = NoteReader::read(self, if is_over { 0 } else { limit })?;
            if notes.read == 0 {
                if only.is_none() {
                    self.compact_in_transaction()?;
                }
                if folded.rows > 0 {
                    quarantine::call(&self.db)?;
                }
                return Ok(folded);
            }
            // The notes are in memory, and their pages are free for the clocks that take their place.
            let is_last = notes.read < limit;
            if is_last {
                // Without a condition SQLite frees whole pages instead of deleting row by row.
                self.db.execute("DELETE FROM main.cloudsync_log")?;
            } else {
                let sql = "DELETE FROM main.cloudsync_log WHERE rowid <= ?1";
                self.db.prepare(sql)?.run(&[Value::Integer(notes.last)])?;
            }
            folded.null_keys += notes.null_keys;
            folded.notes += notes.read as u64;
            folded.rows += self.fold_slice(notes, is_last)?;
        }
    }

    /// Folds the notes of one slice as one version. Gives the rows that changed.
    fn fold_slice(&mut self, mut notes: NoteReader, is_last: bool) -> Result<u64> {
        notes.sort();
        let mut writer = ChangeWriter::begin(&self.db, self.now_ms())?;
        let mut folder = Folder {
            db: self.db,
            clocks: ClockStore::open(&self.db)?,
            look_up: None,
            marks: None,
            sites: self.sites.ids().to_vec(),
            own: self.own_site()?,
            offset: storage::get_i64(&self.db, "clock_offset")?.unwrap_or(0),
            floor: storage::get_u64(&self.db, "floor")?,
            floor_before: 0,
            is_last,
            buried: None,
            dropped: None,
        };
        if self.catalog.tables().iter().any(|table| table.algorithm == Algorithm::Aws) {
            folder.buried = Buried::of(&self.db, Algorithm::Aws)?;
            folder.dropped = Some(self.dropped(&notes, is_last)?);
        }
        folder.floor_before = folder.floor;
        let mut known: Option<Rc<Table>> = None;
        let (mut rows, mut from) = (0, 0);
        while from < notes.notes.len() {
            let to = notes.same_row(from);
            let pk = notes.key(from);
            let (table, key) = clocks::split_pk(pk)?;
            let table = match &mut known {
                Some(known) if known.id == table => known,
                // Notes of tables that do not sync were not taken in.
                place => {
                    place.insert(self.catalog.table(table).ok_or_else(|| Error::corrupt("cloudsync_tables"))?)
                }
            };
            let touch = touch(table, &notes.notes[from..to]);
            let masks = folder.row(self, table, pk, key, touch)?;
            masks.iter().flatten().try_for_each(|mask| writer.push(table.id, key, mask))?;
            rows += u64::from(masks != [None, None]);
            from = to;
        }
        let base = storage::get_u64(&self.db, "cursor")?;
        writer.finish(&self.db, Origin::Local, base)?;
        storage::set_u64(&self.db, "floor", folder.floor)?;
        folder.clocks.finish(&self.db)?;
        if let Some(dropped) = folder.dropped {
            dropped.clear()?;
        }
        Ok(rows)
    }

    /// What triggers copied for the notes of this slice.
    fn dropped(&mut self, notes: &NoteReader, is_last: bool) -> Result<Dropped> {
        let (db, last) = (self.db, (!is_last).then_some(notes.last));
        Dropped::read(db, last, |layout| {
            let Some(table) = self.catalog.layout_table(&db, layout)? else { return Ok(None) };
            Ok(self.catalog.layout(&db, layout)?.map(|columns| (table, columns)))
        })
    }
}

fn touch(table: &Table, notes: &[Note]) -> Touch {
    let mut touch = Touch::default();
    let keeps = table.algorithm == Algorithm::Aws;
    for note in notes {
        touch.was_there = matches!(note.what, What::Insert | What::Update(_));
        // Notes without a time are ours, and say nothing of where the row stood.
        if note.at != 0 {
            let outside = matches!(note.what, What::Insert | What::Local | What::Altered);
            touch.began_inside.get_or_insert(!outside);
            touch.written |= !matches!(note.what, What::Look);
        }
        match &note.what {
            What::Insert | What::Delete | What::Local | What::Leave => {
                touch.left |= matches!(note.what, What::Delete | What::Leave);
                touch.whole_at = Some(note.at);
                touch.updates.clear();
                if keeps && matches!(note.what, What::Insert) {
                    touch.buried.push((note.at, table.numbers.clone()));
                }
            }
            What::Look => {}
            What::Enter => drop(touch.entered.get_or_insert(Mask::Offered(None))),
            What::Altered => touch.entered = Some(Mask::Whole),
            What::Update(columns) => {
                if keeps {
                    touch.buried.push((note.at, columns.clone()));
                }
                if note.layout != table.layout {
                    let oldest = touch.stale.map_or(note.layout, |(layout, _)| layout.min(note.layout));
                    touch.stale = Some((oldest, note.at));
                }
                match touch.updates.last_mut() {
                    Some((at, known)) if *at == note.at => known.union_with(columns),
                    _ => touch.updates.push((note.at, columns.clone())),
                }
            }
        }
    }
    touch
}

/// How the noted writes leave a row of a filtered table.
enum Standing {
    /// It exists inside of the filter.
    Inside,
    /// It was inside, and was deleted or is outside: for the others it goes.
    Gone,
    /// It was outside and is not inside: nobody hears of it.
    Local,
}

/// Reads a row's clock, whether the row exists, and in a filtered table whether it is inside. One statement for all costs
/// little more than one of them.
fn look_up(db: &Connection, table: &Table) -> Result<Statement> {
    let (table_name, condition) = (table.quoted(), table.key_condition(2));
    let inside = match table.and_inside() {
        all if all.is_empty() => String::new(),
        inside => format!(", EXISTS(SELECT 1 FROM {table_name} WHERE {condition}{inside})"),
    };
    let sql = format!(
        "SELECT (SELECT clock FROM main.cloudsync_clocks WHERE pk = ?1), \
         EXISTS(SELECT 1 FROM {table_name} WHERE {condition}){inside}"
    );
    Ok(db.prepare_persistent(&sql)?)
}

struct Folder {
    db: Connection,
    clocks: ClockStore,
    /// Looks up rows of the last table: notes are sorted by tables.
    look_up: Option<(i64, Statement)>,
    marks: Option<(PrivateRows, OwedRows)>,
    sites: Vec<SiteId>,
    own: SiteOrdinal,
    /// What to add to the local clock to get the server's, in milliseconds.
    offset: i64,
    floor: u64,
    floor_before: u64,
    /// No notes follow those that are folded.
    is_last: bool,
    /// Where a table keeps values of deleted rows: those that were kept, and those that triggers copied.
    buried: Option<Buried>,
    dropped: Option<Dropped>,
}

impl Folder {
    /// Writes the row's new clock and gives what is offered of it, and what changed; `None` if nothing did.
    fn row(
        &mut self,
        replica: &mut Replica,
        table: &Table,
        pk: &[u8],
        key: &[u8],
        mut touch: Touch,
    ) -> Result<[Option<Mask>; 2]> {
        let (stored, mut exists, inside) = self.look_up(table, pk, key)?;
        let living = stored.as_ref().filter(|stored| stored.is_alive());
        if table.algorithm == Algorithm::Aws && living.is_some() {
            // That it went is noted in a later slice, and so is what was written before, whose values are kept.
            exists |= touch.was_there && !self.is_last;
        }
        if let Some(filter) = &table.filter {
            match self.judge(filter, pk, living.is_some(), (exists, inside), &mut touch)? {
                Standing::Inside => exists = true,
                Standing::Gone => exists = false,
                Standing::Local => return Ok([None, None]),
            }
        }
        let mut offered = None;
        let (clock, mask) = match (exists, living) {
            (false, None) => return Ok([None, None]),
            (false, Some(_)) if table.algorithm == Algorithm::Gos => {
                self.lose(pk)?;
                return Ok([None, None]);
            }
            (false, Some(living)) => {
                let last = touch.whole_at.or(touch.updates.last().map(|(at, _)| *at));
                // The deletion was found, not noted: it happened before now.
                let time = self.time(last.unwrap_or(0)).max(Time(self.floor_before));
                (self.deleted(table, pk, living, Clock::new(time, self.own), &touch)?, Mask::Whole)
            }
            (true, None) => {
                let clock = self.inserted(table, pk, stored.as_ref(), &touch)?;
                // Rows from before the table synced are not known to be new to others.
                let is_new = stored.is_none() && clock.time_max() > Time(1);
                (clock, if is_new { Mask::Inserted } else { Mask::Whole })
            }
            (true, Some(living)) => {
                self.add_newer_columns(replica, table, key, &mut touch)?;
                match self.same_life(table, living, &touch) {
                    Some((clock, _)) if touch.entered == Some(Mask::Whole) => (clock, Mask::Whole),
                    // What is edited of a row that came inside is told apart from what is only offered.
                    Some((clock, mask)) => {
                        offered = touch.entered.filter(|_| !mask.is_whole());
                        (clock, mask)
                    }
                    None => return Ok([None, touch.entered]),
                }
            }
        };
        self.floor = self.floor.max(clock.time_max().0);
        self.clocks.write(pk, &clock, stored.is_none())?;
        Ok([offered, Some(mask)])
    }

    /// What the noted writes make of a row of a filtered table, by where it stood before them and where it stands.
    fn judge(
        &mut self,
        filter: &RowFilter,
        pk: &[u8],
        alive: bool,
        (exists, inside): (bool, bool),
        touch: &mut Touch,
    ) -> Result<Standing> {
        let (private, owed) = match &mut self.marks {
            Some(marks) => marks,
            None => self.marks.insert((PrivateRows::open(&self.db)?, OwedRows::open(&self.db)?)),
        };
        if inside {
            // What was written while it was outside is known to nobody.
            if private.remove(pk)? && touch.whole_at.is_none() {
                touch.whole_at = Some(0);
            }
            if owed.remove(pk)? {
                touch.entered.get_or_insert(Mask::Offered(None));
            }
            return Ok(Standing::Inside);
        }
        let began_inside = touch.began_inside == Some(true);
        // While the filter cannot be evaluated only the triggers know.
        if began_inside && (!exists || touch.left || filter.fault.is_none()) {
            private.remove(pk)?;
            owed.remove(pk)?;
            return Ok(Standing::Gone);
        }
        if alive && exists && touch.written {
            private.add(pk)?;
        } else if !exists {
            private.remove(pk)?;
            owed.remove(pk)?;
        }
        Ok(Standing::Local)
    }

    /// The row's clock, whether the row exists, and whether it is inside of the filter.
    fn look_up(&mut self, table: &Table, pk: &[u8], key: &[u8]) -> Result<(Option<RowClock>, bool, bool)> {
        let statement = match &mut self.look_up {
            Some((id, known)) if *id == table.id => known,
            place => &mut place.insert((table.id, look_up(&self.db, table)?)).1,
        };
        statement.bind(1, Value::Blob(pk))?;
        clocks::bind_key(statement, 2, key)?;
        statement.step()?;
        let clock = statement.column(0).as_blob().map(RowClock::decode).transpose()?;
        let exists = statement.column_i64(1) != 0;
        let inside = if table.filter.is_some() { statement.column_i64(2) != 0 } else { exists };
        statement.reset()?;
        Ok((clock, exists, inside))
    }

    fn same_life(&self, table: &Table, stored: &RowClock, touch: &Touch) -> Option<(RowClock, Mask)> {
        let seen = local::seen(table.algorithm, Some(stored), &self.sites);
        let Some(whole_at) = touch.whole_at else {
            let later = self.updated(stored, &touch.updates, seen);
            if later.is_empty() {
                return None;
            }
            let mask = Mask::Columns(later.iter().map(|(column, _)| *column).collect());
            return Some((overlay(stored, &later, &self.sites), mask));
        };
        let time = self.time(whole_at);
        let later = |replaced| self.later(time, replaced).after(seen);
        let cells: Vec<_> = table.numbers.iter().map(|column| (column, later(stored.cell(column)))).collect();
        let whole = RowClock::from_cells(stored.life, later(Some(stored.common)), &cells, &self.sites);
        let whole = RowClock { marks: stored.marks.clone().filter(|marks| marks.write.is_none()), ..whole };
        let later = self.updated(&whole, &touch.updates, None);
        let clock = if later.is_empty() { whole } else { overlay(&whole, &later, &self.sites) };
        Some((clock, Mask::Whole))
    }

    /// The cells that updates stamp anew, later than `seen`; in ascending order.
    fn updated(
        &self,
        stored: &RowClock,
        updates: &[(u64, ColumnSet)],
        seen: Option<Clock>,
    ) -> Vec<(ColumnNumber, Clock)> {
        let mut cells = std::collections::BTreeMap::new();
        for (at, columns) in updates {
            for column in columns.iter() {
                cells.insert(column, *at);
            }
        }
        let stamp = |(column, at)| (column, self.later(self.time(at), stored.cell(column)).after(seen));
        cells.into_iter().map(stamp).collect()
    }

    /// A clock at `time`, or right after the one it replaces.
    fn later(&self, time: Time, replaced: Option<Clock>) -> Clock {
        Clock::new(time, self.own).after(replaced)
    }

    fn time(&self, at: u64) -> Time {
        if at == 0 {
            return TIME_INITIAL;
        }
        let wall = at.saturating_add_signed(self.offset).max(TIME_INITIAL.0 + 1);
        Time(wall.max(self.floor_before).min(TIME_MAX.0))
    }

    /// A note under an older layout cannot say whether newer columns changed: those that differ from their default
    /// count as changed.
    fn add_newer_columns(
        &mut self,
        replica: &mut Replica,
        table: &Table,
        key: &[u8],
        touch: &mut Touch,
    ) -> Result<()> {
        let Some((layout, at)) = touch.stale else { return Ok(()) };
        let known = replica.catalog.layout(&self.db, layout)?;
        let known = known.ok_or_else(|| Error::corrupt("cloudsync_layouts"))?;
        let newer: Vec<_> = table.cells.iter().filter(|cell| !known.contains(&cell.number)).collect();
        if newer.is_empty() {
            return Ok(());
        }
        let tests = newer.iter().map(|cell| cell.column.differs_from_default());
        let tests = tests.collect::<Vec<_>>().join(", ");
        let sql = format!("SELECT {tests} FROM {} WHERE {}", table.quoted(), table.key_condition(1));
        let mut select = self.db.prepare(&sql)?;
        clocks::bind_key(&mut select, 1, key)?;
        if !select.step()? {
            return Ok(());
        }
        let changed = newer.iter().enumerate().filter(|(i, _)| select.column_i64(*i) != 0);
        touch.updates.push((at, changed.map(|(_, cell)| cell.number).collect()));
        Ok(())
    }
}
