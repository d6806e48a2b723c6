//! The tables, and what apps do to them.

use crate::oracle::{self, Written};
use crate::plan::Plan;
use crate::random::Dice;
use crate::{family, host, users};
use anyhow::Result;
use cloudsync_core::key::KeyCollation;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use xxhash_rust::xxh3::xxh3_64;

/// A table as the oracles see it: SQL for its key and its columns.
pub(crate) struct TableSpec {
    pub(crate) name: &'static str,
    pub(crate) create: &'static str,
    /// How its rows merge.
    pub(crate) algorithm: &'static str,
    /// Key columns, in the key's order.
    pub(crate) key: &'static [&'static str],
    pub(crate) cells: &'static [&'static str],
    /// A column that only later versions of the app have; the last of the cells.
    pub(crate) later: Option<&'static str>,
    /// Rows come and go here by more than what the app says: those that collide in a UNIQUE column.
    pub(crate) collides: bool,
    /// What kind of key: a text; two parts; a text whose case does not count; a blob or number as it comes.
    pub(crate) kind: KeyKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Text,
    Pair,
    NoCase,
    Any,
    /// A text that names the table, so that it is recognised wherever it turns up.
    Named,
}

/// Every shape of key and row that syncs differently.
pub(crate) const TABLES: &[TableSpec] = &[
    TableSpec {
        name: "notes",
        create: "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT NOT NULL DEFAULT '', body, stars INTEGER, \
                 score REAL, bytes INTEGER GENERATED ALWAYS AS (length(title)) VIRTUAL)",
        algorithm: "cls",
        key: &["id"],
        cells: &["title", "body", "stars", "score", "later"],
        later: Some("later"),
        collides: false,
        kind: KeyKind::Text,
    },
    TableSpec {
        name: "pairs",
        create: "CREATE TABLE pairs(b INTEGER NOT NULL, value TEXT, a TEXT NOT NULL, extra BLOB, PRIMARY KEY(a, b)) \
                 WITHOUT ROWID",
        algorithm: "cls",
        key: &["a", "b"],
        cells: &["value", "extra"],
        later: None,
        collides: false,
        kind: KeyKind::Pair,
    },
    TableSpec {
        name: "words",
        create: "CREATE TABLE words(word TEXT PRIMARY KEY NOT NULL COLLATE NOCASE, n)",
        algorithm: "cls",
        key: &["word"],
        cells: &["word", "n"],
        later: None,
        collides: false,
        kind: KeyKind::NoCase,
    },
    TableSpec {
        name: "marks",
        create: "CREATE TABLE marks(a TEXT NOT NULL, b INTEGER NOT NULL, PRIMARY KEY(a, b))",
        algorithm: "cls",
        key: &["a", "b"],
        cells: &[],
        later: None,
        collides: false,
        kind: KeyKind::Pair,
    },
    TableSpec {
        name: "things",
        create: "CREATE TABLE things(k PRIMARY KEY NOT NULL, v TEXT COLLATE NOCASE, w)",
        algorithm: "cls",
        key: &["k"],
        cells: &["k", "v", "w"],
        later: None,
        collides: false,
        kind: KeyKind::Any,
    },
    TableSpec {
        name: "dws_notes",
        create: "CREATE TABLE dws_notes(id TEXT PRIMARY KEY NOT NULL, title TEXT NOT NULL DEFAULT '', body)",
        algorithm: "dws",
        key: &["id"],
        cells: &["title", "body"],
        later: None,
        collides: false,
        kind: KeyKind::Text,
    },
    TableSpec {
        name: "aws_notes",
        create: "CREATE TABLE aws_notes(id TEXT PRIMARY KEY NOT NULL, title TEXT NOT NULL DEFAULT '', body, stars INTEGER)",
        algorithm: "aws",
        key: &["id"],
        cells: &["title", "body", "stars"],
        later: None,
        collides: false,
        kind: KeyKind::Text,
    },
    TableSpec {
        name: "aws_things",
        create: "CREATE TABLE aws_things(k PRIMARY KEY NOT NULL, v TEXT COLLATE NOCASE)",
        algorithm: "aws",
        key: &["k"],
        cells: &["k", "v"],
        later: None,
        collides: false,
        kind: KeyKind::Any,
    },
    TableSpec {
        name: "aws_marks",
        create: "CREATE TABLE aws_marks(a TEXT NOT NULL, b INTEGER NOT NULL, PRIMARY KEY(a, b)) WITHOUT ROWID",
        algorithm: "aws",
        key: &["a", "b"],
        cells: &[],
        later: None,
        collides: false,
        kind: KeyKind::Pair,
    },
    TableSpec {
        name: "slots",
        create: "CREATE TABLE slots(id TEXT PRIMARY KEY NOT NULL, slot INTEGER UNIQUE, body TEXT CHECK(body <> 'v0'))",
        algorithm: "cls",
        key: &["id"],
        cells: &["slot", "body"],
        later: None,
        collides: true,
        kind: KeyKind::Text,
    },
    // Deletions and changes of its keys are errors, which leave nothing.
    TableSpec {
        name: "gos_notes",
        create: "CREATE TABLE gos_notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, body)",
        algorithm: "gos",
        key: &["id"],
        cells: &["title", "body"],
        later: None,
        collides: false,
        kind: KeyKind::Text,
    },
    // Who may see these is said by policies, where there are users; each row bears a text that is in no other one.
    TableSpec {
        name: "members",
        create: "CREATE TABLE members(id TEXT PRIMARY KEY NOT NULL, project TEXT, member TEXT, secret TEXT)",
        algorithm: "cls",
        key: &["id"],
        cells: &["project", "member", "secret"],
        later: None,
        collides: false,
        kind: KeyKind::Named,
    },
    TableSpec {
        name: "projects",
        create: "CREATE TABLE projects(id TEXT PRIMARY KEY NOT NULL, project TEXT, owner TEXT, secret TEXT)",
        algorithm: "cls",
        key: &["id"],
        cells: &["project", "owner", "secret"],
        later: None,
        collides: false,
        kind: KeyKind::Named,
    },
    TableSpec {
        name: "tasks",
        create: "CREATE TABLE tasks(id TEXT PRIMARY KEY NOT NULL, project TEXT, secret TEXT)",
        algorithm: "cls",
        key: &["id"],
        cells: &["project", "secret"],
        later: None,
        collides: false,
        kind: KeyKind::Named,
    },
    TableSpec {
        name: "diaries",
        create: "CREATE TABLE diaries(id TEXT PRIMARY KEY NOT NULL, owner TEXT, team TEXT, secret TEXT)",
        algorithm: "cls",
        key: &["id"],
        cells: &["owner", "team", "secret"],
        later: None,
        collides: false,
        kind: KeyKind::Named,
    },
];

/// The tables of this world that apps write, as bits of their places; all if there is none. There is one world at a time.
static WRITTEN: AtomicU32 = AtomicU32::new(0);
/// Of a thousand transactions of apps, those that write more than one chunk takes.
static LARGE: AtomicU64 = AtomicU64::new(0);

/// Of a thousand values that decide who sees a row, those that may be others than the row had from its beginning.
static STRAYING: AtomicU64 = AtomicU64::new(0);

/// Says what the apps of the world that begins like to write.
pub(crate) fn begin(plan: &Plan) {
    STRAYING.store(plan.straying, Ordering::Relaxed);
    WRITTEN.store(plan.tables, Ordering::Relaxed);
    LARGE.store(plan.large, Ordering::Relaxed);
}

/// True for a table that apps of this world write.
pub(crate) fn is_written(table: &str) -> bool {
    let written = WRITTEN.load(Ordering::Relaxed);
    written == 0 || (0..).zip(TABLES).any(|(at, known)| known.name == table && written & (1 << at) != 0)
}

/// A table to write.
fn any_table(dice: &mut Dice) -> &'static TableSpec {
    if WRITTEN.load(Ordering::Relaxed) == 0 {
        return dice.pick(TABLES);
    }
    let written: Vec<&TableSpec> = TABLES.iter().filter(|table| is_written(table.name)).collect();
    dice.pick::<&TableSpec>(&written)
}

/// All tables of this world.
pub(crate) fn tables() -> impl Iterator<Item = &'static TableSpec> {
    TABLES.iter().chain(family::tables())
}

/// What of a thousand transactions write more than one chunk takes where nobody likes that.
pub(crate) const LARGE_SELDOM: u64 = 5;
/// Keys that everybody uses, per table.
const SHARED_KEYS: u64 = 6;
/// Keys that only one writer uses, per table and writer.
const PRIVATE_KEYS: u64 = 3;

impl TableSpec {
    /// True when policies say who sees which of its rows.
    pub(crate) fn is_guarded(&self) -> bool {
        self.kind == KeyKind::Named
    }

    /// How the text of its key is compared.
    pub(crate) fn key_collation(&self) -> KeyCollation {
        if self.kind == KeyKind::NoCase { KeyCollation::NoCase } else { KeyCollation::Binary }
    }

    /// SQL that shows the key as equality sees it.
    pub(crate) fn show_key(&self) -> String {
        let shown = self.key.iter().map(|column| match self.kind {
            KeyKind::NoCase => format!("quote(lower({column}))"),
            KeyKind::Any => format!(
                "CASE WHEN typeof({column}) IN ('integer', 'real') THEN quote({column} + 0.0) ELSE quote({column}) END"
            ),
            KeyKind::Text | KeyKind::Pair | KeyKind::Named => format!("quote({column})"),
        });
        shown.collect::<Vec<_>>().join(" || ',' || ")
    }

    pub(crate) fn key(&self, dice: &mut Dice, writer: &str) -> Vec<Value> {
        let (prefix, number) = if dice.chance(600) {
            ("shared", dice.below(SHARED_KEYS))
        } else {
            (writer, dice.below(PRIVATE_KEYS))
        };
        let text = Value::Text(format!("{prefix}-{number}"));
        match self.kind {
            KeyKind::Text => vec![text],
            KeyKind::Named => vec![Value::Text(format!("{}-{prefix}-{number}", self.name))],
            KeyKind::Pair => vec![text, Value::Integer(dice.between(0, 1))],
            KeyKind::NoCase if dice.chance(300) => {
                vec![Value::Text(format!("{prefix}-{number}").to_ascii_uppercase())]
            }
            KeyKind::NoCase => vec![text],
            KeyKind::Any if prefix != "shared" => vec![text],
            KeyKind::Any => vec![match dice.below(4) {
                0 => Value::Integer(number as i64),
                1 => Value::Real(number as f64),
                2 => Value::Blob(vec![number as u8, 0]),
                _ => Value::Real(number as f64 + 0.5),
            }],
        }
    }

    /// Columns that an app sets beside the key.
    pub(crate) fn settable(&self, db: &Connection) -> Result<Vec<&'static str>> {
        let is_there = self.has_later(db)?;
        let is_settable = |cell: &&str| !self.key.contains(cell) && (is_there || self.later != Some(*cell));
        Ok(self.cells.iter().copied().filter(is_settable).collect())
    }

    /// True when the file has the column of later versions.
    pub(crate) fn has_later(&self, db: &Connection) -> Result<bool> {
        let Some(later) = self.later else { return Ok(true) };
        let sql = "SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2";
        Ok(host::kept(db, sql)?.exists([self.name, later])?)
    }

    pub(crate) fn key_condition(&self, first: usize) -> String {
        let terms = self.key.iter().enumerate().map(|(i, column)| format!("{column} = ?{}", first + i));
        terms.collect::<Vec<_>>().join(" AND ")
    }
}

/// A value as apps store them; texts are hardly ever the same twice. No two are 0.0 and -0.0, which SQLite tells nobody apart:
/// an update from one to the other is not noted (`docs/merge.md`), and replicas would differ until a check finds it.
fn value(dice: &mut Dice) -> Value {
    match dice.below(12) {
        0 => Value::Null,
        1 => Value::Integer(*dice.pick(&[0, 1, -1, i64::MAX, i64::MIN])),
        2 => Value::Real(*dice.pick(&[2.0, -0.0, 1.0, 0.1, 1e300])),
        3 => Value::Text(String::new()),
        4 => Value::Text("a\0b".to_owned()),
        5 => Value::Text((*dice.pick(&["abc", "ABC", "Abc"])).to_owned()),
        6 => Value::Blob(vec![0, dice.below(256) as u8]),
        7 => Value::Integer(dice.between(-1_000_000, 1_000_000)),
        _ => Value::Text(format!("v{}", dice.below(1 << 40))),
    }
}

/// A value for a column; some take only what others may have, too.
pub(crate) fn value_of(dice: &mut Dice, column: &str) -> Value {
    match column {
        "slot" if dice.chance(100) => Value::Null,
        "slot" => Value::Integer(dice.between(0, 7)),
        "project" => Value::Text(format!("p{}", dice.below(4))),
        "member" | "owner" => Value::Text((*dice.pick(users::NAMES)).to_owned()),
        "team" => Value::Text((*dice.pick(users::TEAMS)).to_owned()),
        "secret" => Value::Text(format!("secret {:010x}", dice.below(1 << 40))),
        // Where an integer 0 becomes 0.0.
        "score" => match value(dice) {
            Value::Real(0.0) => Value::Real(0.5),
            value => value,
        },
        _ => value(dice),
    }
}

/// A value for a column of a row: in some worlds it seldom changes who may see a row.
pub(crate) fn value_in(dice: &mut Dice, key: &[Value], column: &str) -> Value {
    let straying = STRAYING.load(Ordering::Relaxed);
    let is_of_rights = ["project", "member", "owner", "team", "secret"].contains(&column);
    // Nothing is drawn where all may change, so that known seeds keep their draws.
    if !is_of_rights || straying == 1_000 || dice.chance(straying) {
        return value_of(dice, column);
    }
    let mut own = Dice::new(xxh3_64(format!("{key:?} {column}").as_bytes()));
    match column {
        // Policies look at how it begins.
        "secret" => Value::Text(format!("secret {:x}{:09x}", own.below(16), dice.below(1 << 36))),
        _ => value_of(&mut own, column),
    }
}

/// What an app makes beside its tables: triggers of its own, of which one writes to another table that syncs.
pub(crate) const TRIGGERS: &str = "
    CREATE TABLE IF NOT EXISTS app_log(n INTEGER PRIMARY KEY, what TEXT);
    CREATE TRIGGER IF NOT EXISTS app_insert AFTER INSERT ON notes BEGIN
        INSERT INTO app_log(what) VALUES(NEW.id); END;
    CREATE TRIGGER IF NOT EXISTS app_mark AFTER INSERT ON dws_notes BEGIN
        INSERT OR IGNORE INTO marks(a, b) VALUES(NEW.id, 7); END;";

/// The later version of the app's schema.
pub(crate) const ADD_LATER: &str = "ALTER TABLE notes ADD COLUMN later";

/// Makes a table anew, as migrations do.
pub(crate) fn rebuild(db: &Connection) -> Result<()> {
    let spec = &TABLES[0];
    let columns = spec.settable(db)?.join(", ");
    let create = spec.create.replace("TABLE notes(", "TABLE notes_new(");
    let later = if spec.has_later(db)? { "ALTER TABLE notes_new ADD COLUMN later;" } else { "" };
    let outcome = db.execute_batch(&format!(
        "BEGIN IMMEDIATE; {create}; {later}
        INSERT INTO notes_new(id, {columns}) SELECT id, {columns} FROM notes;
        DROP TABLE notes; ALTER TABLE notes_new RENAME TO notes; COMMIT"
    ));
    if !db.is_autocommit() {
        // SQLite may be unable to; then it undoes it when the file is opened next.
        let _ = db.execute_batch("ROLLBACK");
    }
    Ok(outcome?)
}

/// Rows that a statement may have touched.
pub(crate) type Touched = Vec<(&'static TableSpec, Vec<Value>)>;

/// Writes a few statements in one transaction, which is undone if any of it fails. `written` has what the transaction leaves
/// there, as far as it came; gives whether it was committed.
pub(crate) fn write(db: &Connection, dice: &mut Dice, writer: &str, written: &mut Written) -> Result<bool> {
    transact(db, dice, written, |dice, touched, written| {
        for _ in 0..1 + dice.below(3) {
            let first = touched.len();
            statement(db, dice, writer, touched)?;
            // A deleted row of these tables keeps the values that it had then, also those that no transaction left.
            for (table, key) in touched[first..].iter().filter(|(table, _)| table.algorithm == "aws") {
                written.extend(Some(oracle::look(db, table, key)?).filter(|(_, values)| values.is_some()));
            }
        }
        if dice.chance(LARGE.load(Ordering::Relaxed)) {
            large_rows(db, dice, writer, touched)?;
        }
        Ok(())
    })
}

/// Runs statements in one transaction, which is sometimes rolled back.
pub(crate) fn transact(
    db: &Connection,
    dice: &mut Dice,
    written: &mut Written,
    statements: impl FnOnce(&mut Dice, &mut Touched, &mut Written) -> Result<()>,
) -> Result<bool> {
    let outcome = transact_within(db, dice, written, statements);
    if !db.is_autocommit() {
        // SQLite may be unable to; then it undoes it when the file is opened next.
        let _ = db.execute_batch("ROLLBACK");
    }
    outcome
}

fn transact_within(
    db: &Connection,
    dice: &mut Dice,
    written: &mut Written,
    statements: impl FnOnce(&mut Dice, &mut Touched, &mut Written) -> Result<()>,
) -> Result<bool> {
    let mut touched = Touched::new();
    db.execute_batch("BEGIN IMMEDIATE")?;
    statements(dice, &mut touched, written)?;
    if dice.chance(80) {
        db.execute_batch("ROLLBACK")?;
        return Ok(false);
    }
    for (table, key) in touched {
        written.push(oracle::look(db, table, &key)?);
    }
    match db.execute_batch("COMMIT") {
        Err(error) if is_constraint(&error) => {
            // A deferred foreign key.
            written.clear();
            Ok(false)
        }
        outcome => Ok(outcome.map(|()| true)?),
    }
}

/// True when a constraint of the app's own schema refused a statement.
pub(crate) fn is_constraint(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation)
}

fn statement(db: &Connection, dice: &mut Dice, writer: &str, touched: &mut Touched) -> Result<()> {
    let table = any_table(dice);
    let key = table.key(dice, writer);
    let columns = table.settable(db)?;
    let kind = dice.below(10);
    let result = match kind {
        0 | 1 => {
            let sql = format!("DELETE FROM {} WHERE {}", table.name, table.key_condition(1));
            host::kept(db, &sql)?.execute(params_from_iter(&key))
        }
        2..=5 if !columns.is_empty() => {
            let mut chosen: Vec<_> = columns.iter().filter(|_| dice.chance(400)).collect();
            if chosen.is_empty() {
                chosen.push(dice.pick(&columns));
            }
            let sets =
                chosen.iter().enumerate().map(|(i, column)| format!("{column} = ?{}", key.len() + 1 + i));
            let sets = sets.collect::<Vec<_>>().join(", ");
            let sql = format!("UPDATE {} SET {sets} WHERE {}", table.name, table.key_condition(1));
            let values: Vec<_> =
                key.iter().cloned().chain(chosen.iter().map(|column| value_in(dice, &key, column))).collect();
            host::kept(db, &sql)?.execute(params_from_iter(values))
        }
        6 => {
            let other = table.key(dice, writer);
            let sets =
                table.key.iter().enumerate().map(|(i, column)| format!("{column} = ?{}", key.len() + 1 + i));
            let sets = sets.collect::<Vec<_>>().join(", ");
            let sql = format!("UPDATE OR IGNORE {} SET {sets} WHERE {}", table.name, table.key_condition(1));
            let values = key.iter().chain(&other);
            let result = host::kept(db, &sql)?.execute(params_from_iter(values));
            touched.push((table, other));
            result
        }
        _ => {
            let set: Vec<_> = columns.iter().copied().filter(|_| dice.chance(800)).collect();
            let names: Vec<_> = table.key.iter().copied().chain(set.iter().copied()).collect();
            let places: Vec<_> = (1..=names.len()).map(|i| format!("?{i}")).collect();
            let verb = *dice.pick(&["INSERT", "INSERT OR REPLACE", "INSERT OR IGNORE"]);
            let sql =
                format!("{verb} INTO {}({}) VALUES({})", table.name, names.join(", "), places.join(", "));
            let values: Vec<_> =
                key.iter().cloned().chain(set.iter().map(|column| value_in(dice, &key, column))).collect();
            host::kept(db, &sql)?.execute(params_from_iter(values))
        }
    };
    match result {
        Ok(_) => touched.push((table, key)),
        Err(error) if is_constraint(&error) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// More than one chunk takes, so that rounds and downloads have several.
fn large_rows(db: &Connection, dice: &mut Dice, writer: &str, touched: &mut Touched) -> Result<()> {
    let table = &TABLES[0];
    // Where they are often, some are larger than a chunk holds.
    let sizes: &[usize] = if LARGE.load(Ordering::Relaxed) > LARGE_SELDOM {
        &[450_000, 700_000, 1_400_000]
    } else {
        &[450_000]
    };
    for number in 0..PRIVATE_KEYS + 3 {
        let key = vec![Value::Text(format!("{writer}-{number}"))];
        let mut bytes = vec![0; sizes[number as usize % sizes.len()]];
        dice.fill(&mut bytes[..64]);
        let sql = "INSERT OR REPLACE INTO notes(id, body) VALUES(?1, ?2)";
        host::kept(db, sql)?.execute(params_from_iter([key[0].clone(), Value::Blob(bytes)]))?;
        touched.push((table, key));
    }
    Ok(())
}
