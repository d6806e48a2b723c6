//! Watching what policies read beside the row itself.
//!
//! Each table that a SELECT policy reads in a subquery, whether it syncs or not, has triggers of ours. They write the
//! values, in the columns that policies read, of every row that came, went or changed into `cloudsync_server_watched`: the
//! row as it was and as it is, each in a line of its own. `version` is NULL until the next fold, which begins a version
//! for it, so that a device's cursor says what it has seen of this list. A line without `columns` says that something
//! changed and not what.
//!
//! REPLACE removes rows without a trigger; rows that could go so are noted before.

use crate::policy::Policies;
use cloudsync_replica::{Error, Replica, quote_identifier};
use cloudsync_sqlite_ffi::{Connection, Value};
use std::collections::{BTreeMap, BTreeSet};

const PREFIX: &str = "cloudsync_watch_";
/// Lines that are kept; whoever has seen less looks at everything.
const LINES_MAX: i64 = 20_000;
/// The setting: the last version of which lines were dropped.
pub(super) const FORGOTTEN: &str = "watched_forgotten";

/// The triggers that the present policies need, by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Watched {
    triggers: BTreeMap<String, String>,
    columns_max: usize,
}

impl Watched {
    /// What the policies that say what is seen read, and the triggers for it.
    pub(crate) fn of(db: &Connection, policies: &Policies) -> Result<Self, Error> {
        let mut tables: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for policy in policies.iter().filter_map(|policy| policies.select_of(policy.table())) {
            for (table, column) in policy.reads() {
                let columns = tables.entry(table.to_ascii_lowercase()).or_default();
                if !column.is_empty() {
                    columns.insert(column.to_ascii_lowercase());
                }
            }
        }
        let mut watched = Self::default();
        for (table, columns) in tables {
            watched.add(db, &table, &columns)?;
        }
        Ok(watched)
    }

    fn add(&mut self, db: &Connection, table: &str, columns: &BTreeSet<String>) -> Result<(), Error> {
        // language=SQLite
        let sql = "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
        let Some(name) = db.query_text(sql, &[Value::from(table)])? else { return Ok(()) };
        let mut known = BTreeSet::new();
        db.prepare("SELECT lower(name) FROM pragma_table_xinfo(?1, 'main')")?.for_each(
            &[Value::from(name.as_str())],
            |row| -> Result<(), Error> {
                known.extend(row.column(0).as_str().map(str::to_owned));
                Ok(())
            },
        )?;
        let columns: Vec<_> = columns.iter().map(String::as_str).collect();
        let line =
            if columns.iter().all(|column| known.contains(*column)) { Some(&columns[..]) } else { None };
        self.columns_max = self.columns_max.max(columns.len());
        let differs: Vec<_> = columns
            .iter()
            .map(|column| format!("quote(OLD.{0}) IS NOT quote(NEW.{0})", quote_identifier(column)))
            .collect();
        let differs =
            if line.is_none() || differs.is_empty() { "1".to_owned() } else { differs.join(" OR ") };
        let note = |row: &str| note(&name, line, row);
        let (replaced, keys) = replaced(db, &name, line)?;
        let keys: Vec<_> = keys
            .iter()
            .map(|key| format!("quote(OLD.{0}) IS NOT quote(NEW.{0})", quote_identifier(key)))
            .collect();
        let keys_differ = if keys.is_empty() { "1".to_owned() } else { keys.join(" OR ") };
        let mut trigger = |what: &str, when: &str, condition: &str, body: String| {
            let trigger = format!("{PREFIX}{what}_{name}");
            let (quoted, on) = (quote_identifier(&trigger), quote_identifier(&name));
            let sql = format!("CREATE TRIGGER {quoted} {when} ON {on} {condition}BEGIN {body} END");
            self.triggers.insert(trigger, sql);
        };
        trigger("insert", "AFTER INSERT", "", note("NEW"));
        trigger("delete", "AFTER DELETE", "", note("OLD"));
        trigger(
            "update",
            "AFTER UPDATE",
            &format!("WHEN {differs} "),
            format!("{} {}", note("OLD"), note("NEW")),
        );
        if !replaced.is_empty() {
            trigger("replace", "BEFORE INSERT", "", replaced.clone());
            trigger("collide", "BEFORE UPDATE", &format!("WHEN {keys_differ} "), replaced);
        }
        Ok(())
    }

    /// Whether the file has these triggers, and no others of the kind.
    pub(crate) fn is_in_place(&self, db: &Connection) -> Result<bool, Error> {
        Ok(present(db)? == self.triggers)
    }

    /// Makes the file have these triggers, and no others of the kind. The caller holds the transaction.
    pub(crate) fn put_in_place(&self, db: &Connection) -> Result<(), Error> {
        let mut has = 0;
        db.prepare("SELECT count(*) FROM pragma_table_info('cloudsync_server_watched') WHERE name LIKE 'v%' AND name <> 'version'")?
            .for_each(&[], |row| -> Result<(), Error> {
                has = row.column_i64(0) as usize;
                Ok(())
            })?;
        for column in has..self.columns_max {
            db.execute(&format!("ALTER TABLE main.cloudsync_server_watched ADD COLUMN v{column}"))?;
        }
        let present = present(db)?;
        for (name, _) in present.iter().filter(|(name, sql)| self.triggers.get(*name) != Some(sql)) {
            db.execute(&format!("DROP TRIGGER main.{}", quote_identifier(name)))?;
        }
        for (_, sql) in self.triggers.iter().filter(|(name, sql)| present.get(*name) != Some(sql)) {
            db.execute(sql)?;
        }
        Ok(())
    }
}

fn present(db: &Connection) -> Result<BTreeMap<String, String>, Error> {
    let mut present = BTreeMap::new();
    // language=SQLite
    let sql = "SELECT name, sql FROM main.sqlite_master WHERE type = 'trigger' AND name LIKE 'cloudsync\\_watch\\_%' ESCAPE '\\'";
    db.prepare(sql)?.for_each(&[], |row| -> Result<(), Error> {
        let text = |at| row.column(at).as_str().unwrap_or_default().to_owned();
        present.insert(text(0), text(1));
        Ok(())
    })?;
    Ok(present)
}

/// Columns of a line, as they are stored.
pub(super) fn names(columns: &[&str]) -> String {
    serde_json::Value::from(columns.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).to_string()
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The statement that writes a line for OLD, NEW or an alias.
fn note(table: &str, columns: Option<&[&str]>, row: &str) -> String {
    let (into, values) = line(columns, row);
    let named = columns.map_or("NULL".to_owned(), |columns| literal(&names(columns)));
    format!(
        "INSERT INTO cloudsync_server_watched(tbl, columns{into}) VALUES({}, {named}{values});",
        literal(table)
    )
}

fn line(columns: Option<&[&str]>, row: &str) -> (String, String) {
    let columns = columns.unwrap_or_default().iter().enumerate();
    columns.fold((String::new(), String::new()), |(into, values), (at, column)| {
        (format!("{into}, v{at}"), format!("{values}, {row}.{}", quote_identifier(column)))
    })
}

/// The statements that note rows which REPLACE may remove: those that are equal to NEW in the key or another UNIQUE index.
/// Of indexes on expressions or parts of the table it is only noted that something may have changed. Gives the columns
/// of these indexes, too; none where they are not all known.
fn replaced(
    db: &Connection,
    table: &str,
    columns: Option<&[&str]>,
) -> Result<(String, BTreeSet<String>), Error> {
    let mut uniques: Vec<Vec<(Option<String>, String)>> = Vec::new();
    // language=SQLite
    let sql = "SELECT i.name, i.partial, x.seqno, x.name, x.coll FROM pragma_index_list(?1, 'main') AS i, \
               pragma_index_xinfo(i.name, 'main') AS x WHERE i.\"unique\" AND x.key ORDER BY i.name, x.seqno";
    db.prepare(sql)?.for_each(&[Value::from(table)], |row| -> Result<(), Error> {
        let partial = row.column_i64(1) != 0;
        let name = row.column(3).as_str().filter(|_| !partial).map(str::to_owned);
        if row.column_i64(2) == 0 {
            uniques.push(Vec::new());
        }
        if let Some(unique) = uniques.last_mut() {
            unique.push((name, row.column(4).as_str().unwrap_or("BINARY").to_owned()));
        }
        Ok(())
    })?;
    let mut rowid = None;
    let key = "SELECT name FROM pragma_table_info(?1, 'main') WHERE pk > 0";
    let mut keys = Vec::new();
    db.prepare(key)?.for_each(&[Value::from(table)], |row| -> Result<(), Error> {
        keys.extend(row.column(0).as_str().map(str::to_owned));
        Ok(())
    })?;
    if let [only] = &keys[..] {
        rowid = Some(only.clone());
    }
    // A key that is the rowid has no index, and of others it is harmless to look twice.
    uniques.extend(rowid.map(|key| vec![(Some(key), "BINARY".to_owned())]));
    let (into, values) = line(columns, "r");
    let named = columns.map_or("NULL".to_owned(), |columns| literal(&names(columns)));
    let (on, text) = (quote_identifier(table), literal(table));
    let all: Option<BTreeSet<String>> = uniques.iter().flatten().map(|(name, _)| name.clone()).collect();
    let statements = uniques.into_iter().map(|unique| {
        let terms: Option<Vec<_>> = unique
            .iter()
            .map(|(name, collation)| {
                let name = quote_identifier(name.as_ref()?);
                Some(format!("r.{name} = NEW.{name} COLLATE {}", quote_identifier(collation)))
            })
            .collect();
        match terms {
            Some(terms) => format!(
                "INSERT INTO cloudsync_server_watched(tbl, columns{into}) SELECT {text}, {named}{values} FROM {on} AS r WHERE {};",
                terms.join(" AND ")
            ),
            None => format!("INSERT INTO cloudsync_server_watched(tbl) VALUES({text});"),
        }
    });
    Ok((statements.collect::<Vec<_>>().join(" "), all.unwrap_or_default()))
}

/// The setting: the last change of policies of which devices were told.
const POLICIES: &str = "watched_policies";
// language=SQLite
const NEWEST_POLICY: &str = "SELECT coalesce(max(id), 0) FROM main.cloudsync_server_policies";

/// True when something was noted that has no version yet, or policies changed.
pub(crate) fn has_unstamped(db: &Connection) -> Result<bool, Error> {
    Ok(has_unstamped_lines(db)? || has_new_policies(db)?.is_some())
}

fn has_unstamped_lines(db: &Connection) -> Result<bool, Error> {
    // language=SQLite
    let sql = "SELECT version IS NULL FROM main.cloudsync_server_watched ORDER BY seq DESC LIMIT 1";
    Ok(db.query_i64(sql, &[])? == Some(1))
}

fn has_new_policies(db: &Connection) -> Result<Option<u64>, Error> {
    // language=SQLite
    let told = "SELECT value FROM main.cloudsync_settings WHERE key = 'watched_policies'";
    let newest = db.query_i64(NEWEST_POLICY, &[])?.unwrap_or(0);
    Ok((db.query_i64(told, &[])?.unwrap_or(0) != newest).then_some(newest as u64))
}

/// Begins a version for what was noted. The caller holds the transaction.
pub(crate) fn stamp(replica: &mut Replica) -> Result<(), Error> {
    let db = replica.connection();
    if let Some(newest) = has_new_policies(&db)? {
        replica.set_state_number(POLICIES, newest)?;
        if !has_unstamped_lines(&db)? {
            replica.begin_version()?;
        }
    }
    if !has_unstamped_lines(&db)? {
        return Ok(());
    }
    let version = Value::Integer(replica.begin_version()? as i64);
    // language=SQLite
    let sql = "UPDATE main.cloudsync_server_watched SET version = ?1 WHERE seq > \
               coalesce((SELECT max(seq) FROM main.cloudsync_server_watched WHERE version IS NOT NULL), 0)";
    db.prepare(sql)?.run(&[version])?;
    let span = "SELECT max(seq) - min(seq) FROM main.cloudsync_server_watched";
    if db.query_i64(span, &[])?.unwrap_or(0) <= LINES_MAX * 2 {
        return Ok(());
    }
    // language=SQLite
    let last = "SELECT max(version) FROM main.cloudsync_server_watched WHERE seq <= \
                (SELECT max(seq) FROM main.cloudsync_server_watched) - ?1";
    let Some(last) = db.query_i64(last, &[Value::Integer(LINES_MAX)])? else { return Ok(()) };
    db.prepare("DELETE FROM main.cloudsync_server_watched WHERE version <= ?1")?
        .run(&[Value::Integer(last)])?;
    replica.set_state_number(FORGOTTEN, last as u64)
}
