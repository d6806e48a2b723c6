//! Capture: the triggers that note local writes, in SQL that every SQLite has built in.
//!
//! A note is one row of `cloudsync_log`: when, the layout, what, and the key (`k0`, `k1`, ...). *When* is the Julian day
//! by the local clock, as SQLite computes it soonest; notes that we write ourselves say milliseconds since 1970, as an
//! integer. A deletion says nothing: it is judged by the row's life and not by its time, and any call of a function
//! makes SQLite keep a statement journal, which costs a DELETE half as much again. *What* is [`NOTE_INSERT`], [`NOTE_DELETE`], [`NOTE_LOOK`], [`NOTE_REKEY`] with the old key in `o0`, `o1`, ...,
//! or the mask of the columns that an update changed: bit i stands for column i of the layout. Tables with more than
//! [`MASK_BITS`] columns write several masks, as text with commas between them. The layout is the generation of the
//! table's columns that the mask was made for.
//!
//! "Changed" is a difference of stored bytes, not of values under a collation. Only 0.0 and -0.0 count as the same:
//! no function that SQLite has built in tells them apart. A mask of zero is noted too: a column that was added behind our
//! back may have changed.

use crate::buried;
use crate::clocks;
use crate::error::Result;
use crate::filter::{RowFilter, filtered_triggers};
use crate::storage::{quote_identifier, quote_text};
use crate::table::{Column, Definition, Table, Unique};
use cloudsync_core::clock::{ColumnNumber, ColumnSet};
use cloudsync_core::merge::Algorithm;
use cloudsync_sqlite_ffi::{Connection, Statement, Value};

/// The row was inserted, or given this key.
pub(crate) const NOTE_INSERT: i64 = -1;
/// The row was deleted, or lost this key.
pub(crate) const NOTE_DELETE: i64 = -2;
/// The row may have been thrown out by a REPLACE: look whether it exists.
pub(crate) const NOTE_LOOK: i64 = -3;
/// The update gave the row this key, and took the old one from it.
pub(crate) const NOTE_REKEY: i64 = -4;
/// The row was or is outside of its table's filter.
pub(crate) const NOTE_LOCAL: i64 = -5;
/// The update left the row outside of its table's filter.
pub(crate) const NOTE_LEAVE: i64 = -6;
/// The same, and gave it this key in place of the old one.
pub(crate) const NOTE_LEAVE_REKEY: i64 = -7;
/// A change of the filter brought the row inside.
pub(crate) const NOTE_ENTER: i64 = -8;
/// Where the row stood before the notes that follow is not known.
pub(crate) const NOTE_ALTERED: i64 = -9;
/// Bits of one mask; an SQL integer has one more beside its sign.
pub(crate) const MASK_BITS: usize = 62;

/// How many of the table's triggers note its writes; those after them note victims.
const NOTE_TRIGGERS: usize = 3;

/// Without an argument it means now, and costs half of what `julianday('now')` does.
pub(crate) const NOW: &str = "julianday()";

/// Milliseconds since 1970 of what a note says of its time: `now_ms` if it says nothing, 0 for what is no time.
pub(crate) fn note_time_ms(at: Value<'_>, now_ms: u64) -> u64 {
    const UNIX_EPOCH_DAY: f64 = 2_440_587.5;
    const DAY_MS: f64 = 86_400_000.0;
    match at {
        Value::Integer(ms) => u64::try_from(ms).unwrap_or(0),
        // A double holds Julian days of our time to about 0.04 ms; the cast ends at the bounds, NaN is 0.
        Value::Real(day) => ((day - UNIX_EPOCH_DAY) * DAY_MS).round() as u64,
        Value::Null => now_ms,
        Value::Text(_) | Value::Blob(_) => 0,
    }
}

/// Drops the table's triggers, those of a lost definition too.
pub(crate) fn drop_triggers(db: &Connection, table: &str) -> Result<()> {
    for name in trigger_names(table) {
        db.execute(&format!("DROP TRIGGER IF EXISTS main.{}", quote_identifier(&name)))?;
    }
    Ok(())
}

/// What became of a table's triggers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Triggers {
    /// They are those of the table's definition.
    Fit,
    /// All writes were noted, but perhaps not the victims of a UNIQUE index that was created since.
    Outdated,
    /// A trigger of the app was created since that may end the row's triggers by RAISE(IGNORE) before ours have run.
    Preceded,
    /// All writes were noted or failed, but not by triggers of these columns: one may have been dropped, or renamed by a
    /// way that leaves triggers as they are.
    Strange,
    /// Writes may have gone unnoted: the table was dropped, and perhaps made again.
    Lost,
}

/// Compares the triggers that exist on a table with those of its definition. `owner` is the name that the table had
/// when they were made, `cells` what they were made for: SQLite itself puts new names of columns into them.
pub(crate) fn find_triggers(
    db: &Connection,
    algorithm: Algorithm,
    definition: &Definition,
    owner: &str,
    layout: i64,
    cells: &[&Column],
    filter: Option<&RowFilter>,
) -> Result<Triggers> {
    let ours = trigger_names(owner);
    let (mut names, mut stored) = (Vec::new(), Vec::new());
    // language=SQLite
    let sql = "SELECT name, sql FROM main.sqlite_master \
               WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE ORDER BY rowid";
    let mut is_preceded = false;
    db.prepare(sql)?.for_each(&[Value::from(definition.name.as_str())], |row| -> Result<()> {
        // Others may be the app's, or those by which a server watches what policies read.
        let name = row.column(0).as_str().unwrap_or_default();
        if !ours.iter().any(|ours| ours == name) {
            // The newest trigger of a table runs first.
            is_preceded |= !names.is_empty() && row.column(1).as_str().is_some_and(may_ignore);
            return Ok(());
        }
        names.push(name.to_owned());
        stored.extend(row.column(1).as_str().map(str::to_owned));
        Ok(())
    })?;
    if !ours.iter().take(NOTE_TRIGGERS).all(|name| names.contains(name)) {
        return Ok(Triggers::Lost);
    }
    // SQLite stores the text without the name of the database.
    let wanted = triggers(algorithm, definition, owner, layout, cells, filter);
    let wanted = wanted.iter().map(|sql| sql.replacen("CREATE TRIGGER main.", "CREATE TRIGGER ", 1));
    let found: Vec<_> = wanted.map(|sql| stored.contains(&sql)).collect();
    Ok(match found.iter().take(NOTE_TRIGGERS).all(|found| *found) {
        true if is_preceded => Triggers::Preceded,
        true if found.len() == stored.len() && found.iter().all(|found| *found) => Triggers::Fit,
        true => Triggers::Outdated,
        false => Triggers::Strange,
    })
}

/// True when a trigger may say RAISE(IGNORE): the row stays as it is then, and its other triggers do not run.
fn may_ignore(trigger: &str) -> bool {
    let text = trigger.to_ascii_uppercase();
    text.contains("RAISE") && text.contains("IGNORE")
}

/// The table that the triggers of a table watch, which SQLite lets follow it to another name.
pub(crate) fn watched_table(db: &Connection, owner: &str) -> Result<Option<String>> {
    let sql = "SELECT tbl_name FROM main.sqlite_master WHERE type = 'trigger' AND name = ?1";
    Ok(db.query_text(sql, &[Value::from(&trigger_name("delete", owner)[..])])?)
}

/// Creates the table's triggers for its present layout.
pub(crate) fn create_triggers(
    db: &Connection,
    algorithm: Algorithm,
    definition: &Definition,
    layout: i64,
    cells: &[&Column],
    filter: Option<&RowFilter>,
) -> Result<()> {
    drop_triggers(db, &definition.name)?;
    if algorithm == Algorithm::Aws {
        buried::prepare(db, Table::key_columns(definition).len(), cells.len())?;
    }
    let triggers = triggers(algorithm, definition, &definition.name, layout, cells, filter);
    triggers.iter().try_for_each(|sql| Ok(db.execute(sql)?))
}

/// Notes the rows of the table, as one statement; `rows` is empty or begins with ` WHERE`.
pub(crate) fn note_all(
    db: &Connection,
    definition: &Definition,
    layout: i64,
    at: &str,
    what: i64,
    rows: &str,
) -> Result<()> {
    let key = key_list(definition, "");
    let table = quote_identifier(&definition.name);
    let columns = log_columns(definition);
    db.execute(&format!(
        "INSERT INTO main.cloudsync_log(at, layout, what, {columns}) SELECT {at}, {layout}, {what}, {key} FROM main.{table}{rows}"
    ))?;
    Ok(())
}

/// The names of the log's key columns that the table uses.
pub(crate) fn log_columns(definition: &Definition) -> String {
    let count = Table::key_columns(definition).len();
    (0..count).map(|i| format!("k{i}")).collect::<Vec<_>>().join(", ")
}

/// Writes notes of our own.
pub(crate) struct Noting {
    insert: Statement,
}

impl Noting {
    pub(crate) fn open(db: &Connection, definition: &Definition, layout: i64) -> Result<Self> {
        let columns = log_columns(definition);
        let values: Vec<_> =
            (0..Table::key_columns(definition).len()).map(|i| format!("?{}", i + 3)).collect();
        let values = values.join(", ");
        let sql = format!(
            "INSERT INTO main.cloudsync_log(at, layout, what, {columns}) VALUES(?1, {layout}, ?2, {values})"
        );
        Ok(Self { insert: db.prepare(&sql)? })
    }

    /// Notes something of the row with that packed key, at milliseconds since 1970 or at 0.
    pub(crate) fn write(&mut self, at_ms: u64, what: Value<'_>, packed: &[u8]) -> Result<()> {
        self.insert.bind(1, Value::Integer(i64::try_from(at_ms).unwrap_or(i64::MAX)))?;
        self.insert.bind(2, what)?;
        clocks::bind_key(&mut self.insert, 3, packed)?;
        self.insert.step()?;
        Ok(self.insert.reset()?)
    }
}

/// Notes something that was found, and not noted by a trigger, of the row with that packed key.
pub(crate) fn note_found(
    db: &Connection,
    table: &Table,
    now_ms: u64,
    what: Value<'_>,
    packed: &[u8],
) -> Result<()> {
    let mut noting = Noting::open(db, &table.definition, table.layout)?;
    if table.filter.is_some() {
        noting.write(now_ms, Value::Integer(NOTE_ALTERED), packed)?;
    }
    noting.write(now_ms, what, packed)
}

/// The same of columns that were changed.
pub(crate) fn note_edit(
    db: &Connection,
    table: &Table,
    now_ms: u64,
    columns: &ColumnSet,
    packed: &[u8],
) -> Result<()> {
    let layout: Vec<_> = table.cells.iter().map(|cell| cell.number).collect();
    note_found(db, table, now_ms, mask_of(&layout, columns).value(), packed)
}

/// What a mask says of these columns of a layout, in the form that triggers write.
pub(crate) fn mask_of(layout: &[ColumnNumber], columns: &ColumnSet) -> MaskValue {
    let word = |numbers: &[ColumnNumber]| -> i64 {
        let bits = numbers.iter().enumerate().filter(|(_, number)| columns.contains(**number));
        bits.map(|(bit, _)| 1 << bit).sum()
    };
    let words: Vec<_> = layout.chunks(MASK_BITS).map(word).collect();
    match words[..] {
        [] => MaskValue::Word(0),
        [word] => MaskValue::Word(word),
        _ => MaskValue::Words(words.iter().map(i64::to_string).collect::<Vec<_>>().join(",")),
    }
}

/// A mask as the log stores it.
pub(crate) enum MaskValue {
    Word(i64),
    Words(String),
}

impl MaskValue {
    pub(crate) fn value(&self) -> Value<'_> {
        match self {
            Self::Word(word) => Value::Integer(*word),
            Self::Words(words) => Value::from(&words[..]),
        }
    }
}

fn trigger_names(table: &str) -> Vec<String> {
    let kinds = ["insert", "update", "delete", "before_insert", "before_update", "before_delete", "rekey"];
    kinds.iter().map(|kind| trigger_name(kind, table)).collect()
}

/// No kind begins with another one and an underscore, or two tables could share a name. SQLite's own error names the
/// trigger that a dropped column would break, so the names of those that look at columns say what to do.
pub(crate) fn trigger_name(kind: &str, table: &str) -> String {
    let remedy = if ["insert", "delete", "before_delete"].contains(&kind) {
        ""
    } else {
        " (call cloudsync_begin_alter first)"
    };
    format!("cloudsync_{kind}_{table}{remedy}")
}

pub(crate) fn key_list(definition: &Definition, prefix: &str) -> String {
    let key = Table::key_columns(definition);
    key.iter()
        .map(|column| format!("{prefix}{}", quote_identifier(column.name())))
        .collect::<Vec<_>>()
        .join(", ")
}

fn triggers(
    algorithm: Algorithm,
    definition: &Definition,
    owner: &str,
    layout: i64,
    cells: &[&Column],
    filter: Option<&RowFilter>,
) -> Vec<String> {
    if let Some(filter) = filter.filter(|filter| filter.fault.is_none()) {
        return filtered_triggers(definition, owner, layout, cells, filter);
    }
    let table = quote_identifier(&definition.name);
    let columns = log_columns(definition);
    let (new, old) = (key_list(definition, "NEW."), key_list(definition, "OLD."));
    let name = |kind: &str| format!("main.{}", quote_identifier(&trigger_name(kind, owner)));
    let key_stays = key_stays(definition);
    let what = format!("CASE WHEN {key_stays} THEN {} ELSE {NOTE_REKEY} END", mask(cells));
    let (old_key, old_columns) = (old_key_list(definition), old_key_columns(definition));
    let update = format!(
        "INSERT INTO cloudsync_log(at, layout, what, {columns}, {old_columns}) VALUES({NOW}, {layout}, {what}, {new}, {old_key});"
    );
    // What is deleted from an `aws` table is kept.
    let keeps = algorithm == Algorithm::Aws;
    let copy = |row: &str, tail: &str| {
        if keeps { buried::copy_sql(definition, layout, cells, row, tail) } else { String::new() }
    };
    let copy_old_key = copy("OLD", &format!(" WHERE NOT ({key_stays})"));
    let mut triggers = vec![
        format!(
            "CREATE TRIGGER {} AFTER INSERT ON {table} BEGIN \
             INSERT INTO cloudsync_log(at, layout, what, {columns}) VALUES({NOW}, {layout}, {NOTE_INSERT}, {new}); END",
            name("insert"),
        ),
        format!("CREATE TRIGGER {} AFTER UPDATE ON {table} BEGIN {update} {copy_old_key}END", name("update")),
        format!(
            "CREATE TRIGGER {} AFTER DELETE ON {table} BEGIN \
             INSERT INTO cloudsync_log(layout, what, {columns}) VALUES({layout}, {NOTE_DELETE}, {old}); {}END",
            name("delete"),
            copy("OLD", ""),
        ),
    ];
    triggers.extend(victim_triggers(definition, layout, &name, &copy));
    if algorithm == Algorithm::Gos {
        triggers.extend(grow_only_triggers(definition, owner, &name));
    }
    triggers
}

/// The setting during which rows of a grow-only table may go: an apply takes some out for a moment.
pub(crate) const MAY_DELETE: &str = "may_delete";

/// Refuses what a grow-only table does not allow. Rows thrown out by REPLACE fire no trigger; the fold finds them.
fn grow_only_triggers(definition: &Definition, owner: &str, name: &dyn Fn(&str) -> String) -> Vec<String> {
    let table = quote_identifier(&definition.name);
    let key_changed: Vec<_> = Table::key_columns(definition)
        .iter()
        .map(|column| format!("OLD.{0} IS NOT NEW.{0}", quote_identifier(column.name())))
        .collect();
    let refuse = |text: String| format!("BEGIN SELECT RAISE(ABORT, {}); END", quote_text(&text));
    vec![
        format!(
            "CREATE TRIGGER {} BEFORE DELETE ON {table} \
             WHEN NOT EXISTS(SELECT 1 FROM cloudsync_settings WHERE key = {}) {}",
            name("before_delete"),
            quote_text(MAY_DELETE),
            refuse(format!(
                "cloudsync: rows of the grow-only table \"{owner}\" cannot be deleted: mark them as done in a column, or use a table of another algorithm"
            )),
        ),
        format!(
            "CREATE TRIGGER {} BEFORE UPDATE ON {table} WHEN {} {}",
            name("rekey"),
            key_changed.join(" OR "),
            refuse(format!(
                "cloudsync: the key of a row of the grow-only table \"{owner}\" cannot change: insert another row"
            )),
        ),
    ]
}

/// REPLACE throws out rows that collide in a UNIQUE index without firing their delete triggers; these triggers note
/// the rows that may be thrown out, found by the index's own collation.
fn victim_triggers(
    definition: &Definition,
    layout: i64,
    name: &dyn Fn(&str) -> String,
    copy: &dyn Fn(&str, &str) -> String,
) -> Vec<String> {
    let table = quote_identifier(&definition.name);
    let (notes, changes) = victim_notes(definition, layout, "", copy);
    if notes.is_empty() {
        return Vec::new();
    }
    let changed = if changes.is_empty() { "1".to_owned() } else { changes.join(" OR ") };
    vec![
        format!("CREATE TRIGGER {} BEFORE INSERT ON {table} BEGIN {notes}END", name("before_insert")),
        format!(
            "CREATE TRIGGER {} BEFORE UPDATE ON {table} WHEN {changed} BEGIN {notes}END",
            name("before_update")
        ),
    ]
}

/// The statements that note possible victims of a new row, of which `and` also holds, and the conditions under which an
/// update may have any; `copy` makes those that copy their values.
pub(crate) fn victim_notes(
    definition: &Definition,
    layout: i64,
    and: &str,
    copy: &dyn Fn(&str, &str) -> String,
) -> (String, Vec<String>) {
    let (table, columns) = (quote_identifier(&definition.name), log_columns(definition));
    let mut other_row: Vec<_> = Table::key_columns(definition)
        .iter()
        .map(|column| format!("{table}.{0} IS NOT NEW.{0}", quote_identifier(column.name())))
        .collect();
    if let [key] = Table::key_columns(definition)[..]
        && key.schema.declared_type.eq_ignore_ascii_case("INTEGER")
    {
        // Before SQLite has drawn a new rowid it says -1, and there may be a row of that key.
        other_row.push(format!("NEW.{} = -1", quote_identifier(key.name())));
    }
    let (mut notes, mut changes) = (String::new(), Vec::new());
    for unique in &definition.uniques {
        let (equal, changed) = victim_terms(definition, unique);
        let victims =
            format!(" FROM {table} WHERE {} AND ({}){and}", equal.join(" AND "), other_row.join(" OR "));
        notes.push_str(&format!(
            "INSERT INTO cloudsync_log(at, layout, what, {columns}) SELECT {NOW}, {layout}, {NOTE_LOOK}, {}{victims}; ",
            key_list(definition, &format!("{table}.")),
        ));
        notes.push_str(&copy(&table, &victims));
        changes.extend(changed);
    }
    (notes, changes)
}

/// The conditions under which a row of the table collides with the new row in an index, and those under which an
/// update may make it collide.
fn victim_terms(definition: &Definition, unique: &Unique) -> (Vec<String>, Vec<String>) {
    let table = quote_identifier(&definition.name);
    let (mut equal, mut changed) = (Vec::new(), Vec::new());
    for (column, collation) in &unique.terms {
        let new = definition.columns.iter().find(|known| known.name() == column).map(Column::of_new_row);
        let (column, collation) = (quote_identifier(column), quote_identifier(collation));
        let new = new.unwrap_or_else(|| format!("NEW.{column}"));
        equal.push(format!("{table}.{column} = {new} COLLATE {collation}"));
        changed.push(format!("OLD.{column} IS NOT NEW.{column} COLLATE {collation}"));
    }
    let named = named_columns(definition, &unique.expressions.join(" "));
    if unique.terms.is_empty() {
        // The expressions name columns as if the table stood alone: for the new row a table of its columns is put
        // together.
        let row = named
            .iter()
            .map(|column| format!("{} AS {}", column.of_new_row(), quote_identifier(column.name())));
        let row: Vec<_> = row.collect();
        let from = if row.is_empty() { String::new() } else { format!(" FROM (SELECT {})", row.join(", ")) };
        let terms = unique.expressions.iter();
        equal.extend(terms.map(|term| format!("({term}\n) = (SELECT ({term}\n){from})")));
    }
    changed.extend(named.into_iter().map(|column| format!("NOT ({})", same(column))));
    if let Some(condition) = &unique.condition {
        // Only a query that has the condition of a partial index can use it.
        equal.push(format!("({condition}\n)"));
        let named = named_columns(definition, condition).into_iter();
        changed.extend(named.map(|column| format!("NOT ({})", same(column))));
    }
    (equal, changed)
}

/// The columns that a text of SQL names, and perhaps some that it does not.
fn named_columns<'d>(definition: &'d Definition, text: &str) -> Vec<&'d Column> {
    let text = text.to_ascii_lowercase();
    let named = |column: &&Column| text.contains(&column.name().to_ascii_lowercase());
    definition.columns.iter().filter(named).collect()
}

/// The expression that is true when an update leaves the row its key.
pub(crate) fn key_stays(definition: &Definition) -> String {
    let same: Vec<_> = Table::key_columns(definition).into_iter().map(same).collect();
    same.join(" AND ")
}

/// The names of the log's columns for the old key.
pub(crate) fn old_key_columns(definition: &Definition) -> String {
    let count = Table::key_columns(definition).len();
    (0..count).map(|i| format!("o{i}")).collect::<Vec<_>>().join(", ")
}

/// The old key of an update that changes it, else NULLs.
pub(crate) fn old_key_list(definition: &Definition) -> String {
    let key_stays = key_stays(definition);
    let old_key = Table::key_columns(definition).into_iter().map(|column| {
        format!("CASE WHEN {key_stays} THEN NULL ELSE OLD.{} END", quote_identifier(column.name()))
    });
    old_key.collect::<Vec<_>>().join(", ")
}

/// The expression that is true when the stored bytes of a column stayed what they were.
fn same(column: &Column) -> String {
    let name = quote_identifier(column.name());
    let binary = if column.has_own_collation() { " COLLATE BINARY" } else { "" };
    let values = format!("OLD.{name} IS NEW.{name}{binary}");
    if !column.keeps_kinds() {
        return values;
    }
    // 1 and 1.0 are equal to SQLite.
    format!("({values} AND typeof(OLD.{name}) = typeof(NEW.{name}))")
}

pub(crate) fn mask(cells: &[&Column]) -> String {
    if cells.is_empty() {
        return "0".to_owned();
    }
    let words: Vec<_> = cells.chunks(MASK_BITS).map(mask_word).collect();
    if words.len() == 1 {
        words.into_iter().collect()
    } else {
        words.join(&format!(" || {} || ", quote_text(",")))
    }
}

/// A sum of cases: a jump over each column that stayed costs less than shifting ten comparisons into place.
fn mask_word(cells: &[&Column]) -> String {
    let bits = cells
        .iter()
        .enumerate()
        .map(|(bit, column)| format!("CASE WHEN {} THEN 0 ELSE {} END", same(column), 1_u64 << bit));
    format!("({})", bits.collect::<Vec<_>>().join(" + "))
}
