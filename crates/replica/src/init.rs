//! Making tables sync, and making them ordinary again.

use crate::alter;
use crate::buried;
use crate::capture;
use crate::catalog;
use crate::changes;
use crate::check;
use crate::clocks::pk_range;
use crate::columns::number_columns;
use crate::definitions::read_definition;
use crate::error::{Error, Result};
use crate::filter::forget_marks;
use crate::kept;
use crate::replica::Replica;
use crate::storage;
use crate::table::{Definition, Table};
use cloudsync_core::id::SiteId;
use cloudsync_core::merge::Algorithm;
use cloudsync_protocol::schema::{Affinity, ColumnSchema};
use cloudsync_sqlite_ffi::{Connection, Value};

/// Flag of [`Replica::init`]: a lone INTEGER primary key is wanted.
pub const FLAG_INTEGER_KEY: i64 = 1;
/// Flag of [`Replica::init`]: no advice on NOT NULL columns without a DEFAULT.
pub(crate) const FLAG_BARE_COLUMNS: i64 = 2;
/// Flag of [`Replica::init`]: no advice on key columns that may be NULL.
pub(crate) const FLAG_NULLABLE_KEY: i64 = 4;
/// All flags that [`Replica::init`] knows.
pub const FLAGS: i64 = FLAG_INTEGER_KEY | FLAG_BARE_COLUMNS | FLAG_NULLABLE_KEY;

impl Replica {
    /// Makes a table sync, with its rows. Doing it again changes nothing. `'*'` stands for every table that can sync.
    /// Gives this replica's site id.
    ///
    /// # Errors
    /// When the table cannot sync; the text names table, column and remedy.
    pub fn init(&mut self, table: &str, algorithm: &str, flags: i64) -> Result<SiteId> {
        self.init_each(&[(table, algorithm)], flags)
    }

    /// Makes several tables sync, each by its algorithm, as [`Replica::init`] does one: all of them or none.
    ///
    /// # Errors
    /// As for `init`; nothing is changed then.
    pub fn init_each(&mut self, tables: &[(&str, &str)], flags: i64) -> Result<SiteId> {
        let chosen = tables.iter().map(|(table, algorithm)| Ok((*table, named(algorithm)?)));
        let tables = chosen.collect::<Result<Vec<_>>>()?;
        if flags & !FLAGS != 0 {
            return Err(Error::usage(format!("unknown flags {flags}: 1, 2 and 4 and their sums are known")));
        }
        let site = self.transact(|replica| {
            let site = replica.create()?;
            let grown = replica.follow_schema()?;
            replica.names_came(grown)?;
            let mut grown = false;
            for (table, algorithm) in tables {
                if table != "*" {
                    grown |= replica.init_table(table, algorithm, flags)?;
                    continue;
                }
                for name in eligible_tables(&replica.db)? {
                    grown |= replica.init_table(&name, algorithm, flags)?;
                }
            }
            if grown {
                replica.welcome_tables()?;
            }
            // A table that synced before may have asked for a new site.
            replica.site_id().or(Ok(site))
        })?;
        self.apply_ready_pieces()?;
        Ok(site)
    }

    /// Lets everybody know of tables that were registered now.
    fn welcome_tables(&mut self) -> Result<()> {
        catalog::bump(&self.db)?;
        storage::set(&self.db, "schema_version", Value::Integer(catalog::schema_version(&self.db)?))?;
        self.names_came(true)?;
        self.catalog.load(&self.db)
    }

    /// Registers a table; gives false if it syncs already. The catalog is not loaded anew, which costs as much as all
    /// tables together.
    fn init_table(&mut self, name: &str, algorithm: Algorithm, flags: i64) -> Result<bool> {
        let definition = self.checked_definition(name, flags)?;
        let sql = "SELECT algorithm FROM main.cloudsync_tables WHERE name = ?1 COLLATE NOCASE";
        if let Some(known) = self.db.query_text(sql, &[Value::from(definition.name.as_str())])? {
            if known == algorithm.name() {
                let sql = "UPDATE main.cloudsync_tables SET flags = flags | ?2 \
                           WHERE name = ?1 COLLATE NOCASE AND flags | ?2 <> flags";
                self.db.prepare(sql)?.run(&[Value::from(definition.name.as_str()), Value::Integer(flags)])?;
                return Ok(false);
            }
            return Err(Error::usage(format!(
                "table \"{name}\" already syncs with the algorithm {known}: call cloudsync_cleanup('{name}') before choosing another",
            )));
        }
        self.forget_rows_of(&definition.name)?;
        if storage::get_i64(&self.db, "fresh_site")?.is_some() {
            // Old stamps must not come to mean new values (docs/merge.md, "Beginning again").
            storage::unset(&self.db, "fresh_site")?;
            self.take_new_site()?;
        }
        let id = storage::next_number(&self.db, "tables")?;
        // language=SQLite
        let sql = "INSERT INTO main.cloudsync_tables(id, name, algorithm, flags, enabled, layout) VALUES(?1, ?2, ?3, ?4, 1, ?5)";
        let layout = number_columns(&self.db, id, 0, &definition)?.layout.unwrap_or(0);
        self.db.prepare(sql)?.run(&[
            Value::Integer(id),
            Value::from(definition.name.as_str()),
            Value::from(algorithm.name()),
            Value::Integer(flags),
            Value::Integer(layout),
        ])?;
        widen_log(&self.db, Table::key_columns(&definition).len())?;
        let cells: Vec<_> = Table::cell_columns(&definition).collect();
        capture::create_triggers(&self.db, algorithm, &definition, layout, &cells, None)?;
        capture::note_all(&self.db, &definition, layout, "0", capture::NOTE_INSERT, "")?;
        Ok(true)
    }

    /// The stored columns of a table that could sync with these flags, or does. Nothing is changed.
    ///
    /// # Errors
    /// When it cannot sync; the text names table, column and remedy.
    pub fn check_table(&self, name: &str, flags: i64) -> Result<(String, Vec<ColumnSchema>)> {
        let definition = self.checked_definition(name, flags)?;
        let stored = definition.columns.into_iter().filter(|column| !column.generated);
        Ok((definition.name, stored.map(|column| column.schema).collect()))
    }

    fn checked_definition(&self, name: &str, flags: i64) -> Result<Definition> {
        if name.to_ascii_lowercase().starts_with("cloudsync_")
            || name.to_ascii_lowercase().starts_with("sqlite_")
        {
            return Err(Error::usage(format!("table \"{name}\" belongs to the system and cannot sync")));
        }
        check_kind(&self.db, name)?;
        let Some(definition) = read_definition(&self.db, name)? else {
            return Err(Error::usage(format!("no such table: \"{name}\" in the main database")));
        };
        let key = Table::key_columns(&definition);
        let Some(first) = key.first() else {
            return Err(Error::usage(format!(
                "table \"{name}\" has no primary key, so its rows have no identity that devices could share: declare one, for example id TEXT PRIMARY KEY NOT NULL filled by cloudsync_uuid()"
            )));
        };
        let integer = Affinity::of(&first.schema.declared_type) == Affinity::Integer;
        if key.len() == 1 && integer && flags & FLAG_INTEGER_KEY == 0 {
            return Err(Error::usage(format!(
                "table \"{name}\" has the lone INTEGER primary key \"{}\", for which two offline devices would choose the same numbers: use a TEXT key filled by cloudsync_uuid(), or pass flag 1 to accept it: cloudsync_init('{name}', 'cls', 1)",
                first.name()
            )));
        }
        if let Some(generated) = key.iter().find(|column| column.generated) {
            let column = generated.name();
            return Err(Error::usage(format!(
                "key column \"{column}\" of table \"{name}\" is generated and cannot sync"
            )));
        }
        Table::build_key(&definition, &[])?;
        Ok(definition)
    }

    /// Makes a table, or with `'*'` all, ordinary again. The rows stay.
    ///
    /// # Errors
    /// When the table does not sync.
    pub fn cleanup(&mut self, table: &str) -> Result<()> {
        self.require()?;
        self.transact(|replica| {
            let names = registered_names(&replica.db)?;
            let chosen: Vec<_> =
                names.iter().filter(|name| table == "*" || name.eq_ignore_ascii_case(table)).collect();
            if chosen.is_empty() && table != "*" {
                return Err(not_synced(table));
            }
            for name in chosen {
                capture::drop_triggers(&replica.db, name)?;
                replica.forget_rows_of(name)?;
                storage::set(&replica.db, "fresh_site", Value::Integer(1))?;
            }
            // Nothing of the table is to stay, also nothing that waits for a column of it.
            kept::lose(&replica.db)?;
            catalog::bump(&replica.db)?;
            Ok(())
        })
    }

    /// Forgets all that is stored about a table of that name, if anything is.
    fn forget_rows_of(&mut self, name: &str) -> Result<()> {
        let sql = "SELECT id FROM main.cloudsync_tables WHERE name = ?1";
        let Some(id) = self.db.query_i64(sql, &[Value::from(name)])? else { return Ok(()) };
        storage::set(&self.db, "fresh_site", Value::Integer(1))?;
        let (first, beyond) = pk_range(id);
        let range = [Value::Blob(&first), Value::Blob(&beyond)];
        self.db.prepare("DELETE FROM main.cloudsync_clocks WHERE pk >= ?1 AND pk < ?2")?.run(&range)?;
        alter::forget(&self.db, id)?;
        forget_marks(&self.db, id)?;
        buried::forget(&self.db, id)?;
        let id = [Value::Integer(id)];
        for sql in [
            "DELETE FROM main.cloudsync_log WHERE layout IN (SELECT id FROM main.cloudsync_layouts WHERE table_id = ?1)",
            "DELETE FROM main.cloudsync_layouts WHERE table_id = ?1",
            "DELETE FROM main.cloudsync_columns WHERE table_id = ?1",
            "DELETE FROM main.cloudsync_tables WHERE id = ?1",
        ] {
            self.db.prepare(sql)?.run(&id)?;
        }
        for journal in ["cloudsync_quarantine", "cloudsync_conflicts", "cloudsync_rejected"] {
            let sql = format!("DELETE FROM main.{journal} WHERE tbl = ?1 COLLATE NOCASE");
            self.db.prepare(&sql)?.run(&[Value::from(name)])?;
        }
        Ok(())
    }

    /// Pauses or resumes the tracking of a table, for all connections. What is written while it is paused stays local
    /// until its row is written again.
    ///
    /// # Errors
    /// When the table does not sync.
    pub fn set_enabled(&mut self, table: &str, enabled: bool) -> Result<()> {
        self.require()?;
        self.transact(|replica| {
            replica.fold_in_transaction()?;
            let table = replica.synced_table(table)?;
            if enabled == table.enabled {
                return Ok(());
            }
            if enabled {
                let cells: Vec<_> = table.cells.iter().map(|cell| &cell.column).collect();
                let filter = table.filter.as_ref();
                capture::create_triggers(
                    &replica.db,
                    table.algorithm,
                    &table.definition,
                    table.layout,
                    &cells,
                    filter,
                )?;
            } else {
                capture::drop_triggers(&replica.db, &table.name)?;
                check::note_unwatched(&replica.db, table.id)?;
            }
            let sql = "UPDATE main.cloudsync_tables SET enabled = ?2 WHERE id = ?1";
            replica.db.prepare(sql)?.run(&[Value::Integer(table.id), Value::Integer(i64::from(enabled))])?;
            catalog::bump(&replica.db)?;
            storage::set(&replica.db, "schema_version", Value::Integer(catalog::schema_version(&replica.db)?))
        })
    }

    /// Resumes the tracking of a table, and puts all that is known of its rows into the list of changes once more, deletions
    /// too: for a server, whose devices may have synced past them while the table was paused.
    ///
    /// # Errors
    /// When the table does not sync.
    pub fn enable_and_offer(&mut self, table: &str) -> Result<()> {
        self.transact(|replica| {
            replica.set_enabled(table, true)?;
            replica.catalog.load(&replica.db)?;
            let id = replica.synced_table(table)?.id;
            changes::offer_again(&replica.db, replica.now_ms(), id, None)
        })
    }

    /// True when the writes of a table are tracked.
    ///
    /// # Errors
    /// When the table does not sync.
    pub fn is_enabled(&mut self, table: &str) -> Result<bool> {
        self.require()?;
        self.catalog.load(&self.db)?;
        Ok(self.synced_table(table)?.enabled)
    }

    pub(crate) fn synced_table(&self, name: &str) -> Result<std::rc::Rc<Table>> {
        if self.catalog.altering().iter().any(|altering| altering.eq_ignore_ascii_case(name)) {
            return Err(Error::Altering(format!(
                "table \"{name}\" is being altered: call cloudsync_commit_alter('{name}') first"
            )));
        }
        self.catalog.table_named(name).ok_or_else(|| not_synced(name))
    }
}

fn not_synced(table: &str) -> Error {
    Error::usage(format!("table \"{table}\" does not sync: call cloudsync_init('{table}') first"))
}

fn named(algorithm: &str) -> Result<Algorithm> {
    Algorithm::named(algorithm).ok_or_else(|| {
        let known = Algorithm::ALL.map(Algorithm::name).join(", ");
        Error::usage(format!("unknown algorithm '{algorithm}': the algorithms are {known}"))
    })
}

fn registered_names(db: &Connection) -> Result<Vec<String>> {
    texts(db, "SELECT name FROM main.cloudsync_tables ORDER BY id")
}

/// Ordinary tables with a primary key that is no lone INTEGER.
fn eligible_tables(db: &Connection) -> Result<Vec<String>> {
    // language=SQLite
    let sql = "SELECT name FROM main.sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%' \
               AND name NOT LIKE 'cloudsync\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
    let mut names = Vec::new();
    for name in texts(db, sql)? {
        if owner_of_shadow(db, &name)?.is_some() {
            continue;
        }
        let Some(definition) = read_definition(db, &name)? else { continue };
        let key = Table::key_columns(&definition);
        let integer =
            |column: &&crate::table::Column| Affinity::of(&column.schema.declared_type) == Affinity::Integer;
        let lone_integer = key.len() == 1 && key.first().is_some_and(integer);
        if !key.is_empty() && !lone_integer {
            names.push(name);
        }
    }
    Ok(names)
}

fn texts(db: &Connection, sql: &str) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    db.prepare(sql)?.for_each(&[], |row| -> Result<()> {
        texts.extend(row.column(0).as_str().map(str::to_owned));
        Ok(())
    })?;
    Ok(texts)
}

fn check_kind(db: &Connection, name: &str) -> Result<()> {
    // language=SQLite
    let sql = "SELECT CASE WHEN type = 'view' THEN 'a view' ELSE 'a virtual table' END FROM main.sqlite_master \
               WHERE name = ?1 COLLATE NOCASE AND (type = 'view' OR sql LIKE 'CREATE VIRTUAL%')";
    if let Some(kind) = db.query_text(sql, &[Value::from(name)])? {
        return Err(Error::usage(format!("\"{name}\" is {kind}; only ordinary tables sync")));
    }
    if let Some(owner) = owner_of_shadow(db, name)? {
        return Err(Error::usage(format!(
            "\"{name}\" belongs to the virtual table \"{owner}\"; only ordinary tables sync"
        )));
    }
    let sql = "SELECT 1 FROM temp.sqlite_master WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
    if db.query_i64(sql, &[Value::from(name)])?.is_some() {
        return Err(Error::usage(format!("\"{name}\" is a temporary table; only ordinary tables sync")));
    }
    Ok(())
}

/// The virtual table (full-text or spatial index) that keeps its content in the table of that name.
fn owner_of_shadow(db: &Connection, name: &str) -> Result<Option<String>> {
    // SQLite has a list of these tables, but not yet in all versions that we support.
    const SUFFIXES: [&str; 11] = [
        "_content",
        "_segments",
        "_segdir",
        "_docsize",
        "_stat",
        "_data",
        "_idx",
        "_config",
        "_node",
        "_parent",
        "_rowid",
    ];
    let lower = name.to_ascii_lowercase();
    let Some(owner) = SUFFIXES.iter().find_map(|suffix| lower.strip_suffix(suffix)) else { return Ok(None) };
    // language=SQLite
    let sql = "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name = ?1 COLLATE NOCASE \
               AND sql LIKE 'CREATE VIRTUAL%'";
    Ok(db.query_text(sql, &[Value::from(owner)])?)
}

/// Gives the log as many key columns as the table's key has, each with its place for an old value.
fn widen_log(db: &Connection, key_columns: usize) -> Result<()> {
    let sql = "SELECT count(*) FROM pragma_table_info('cloudsync_log', 'main') WHERE name LIKE 'k%'";
    let present = db.query_i64(sql, &[])?.unwrap_or(0) as usize;
    for i in present..key_columns {
        db.execute(&format!(
            "ALTER TABLE main.cloudsync_log ADD COLUMN k{i}; ALTER TABLE main.cloudsync_log ADD COLUMN o{i}"
        ))?;
    }
    Ok(())
}
