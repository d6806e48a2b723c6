//! Foreign keys: who refers to whom, and how rows without their parents are found.

use crate::error::Result;
use crate::storage::{self, quote_identifier};
use crate::table::Table;
use cloudsync_sqlite_ffi::{Connection, Statement, Value};
use std::cell::OnceCell;
use std::ops::Deref;
use std::rc::Rc;

/// A foreign key of a table.
pub(crate) struct ForeignKey {
    parent: String,
    /// Each column, and the parent's column where the key names it.
    pairs: Vec<(String, Option<String>)>,
    /// SQLite itself writes the child when the parent goes or changes.
    pub(crate) acts: bool,
    on_delete: OnDelete,
}

/// How a missing parent is found.
pub(crate) struct Missing {
    /// The parent's table as it is written in the schema.
    parent: String,
    /// True for a child without its parent.
    pub(crate) condition: String,
}

impl ForeignKey {
    /// The columns of the child.
    pub(crate) fn columns(&self) -> impl Iterator<Item = &str> {
        self.pairs.iter().map(|(column, _)| column.as_str())
    }

    /// The condition over the row `child`; `None` where there is no such parent table or column.
    pub(crate) fn missing(&self, db: &Connection, child: &str) -> Result<Option<Missing>> {
        let Some(definition) = crate::definitions::read_definition(db, &self.parent)? else {
            return Ok(None);
        };
        let key = Table::key_columns(&definition);
        let (mut given, mut equal) = (Vec::new(), Vec::new());
        for (i, (from, to)) in self.pairs.iter().enumerate() {
            let to = to.clone().or_else(|| key.get(i).map(|column| column.name().to_owned()));
            let Some(to) = to else { return Ok(None) };
            // SQLite looks a parent up by the parent's affinity and collation; the sign takes the child's away.
            equal.push(format!("p.{} = +{child}.{}", quote_identifier(&to), quote_identifier(from)));
            given.push(format!("{child}.{} IS NOT NULL", quote_identifier(from)));
        }
        let condition = format!(
            "{} AND NOT EXISTS(SELECT 1 FROM main.{} AS p WHERE {})",
            given.join(" AND "),
            quote_identifier(&definition.name),
            equal.join(" AND "),
        );
        Ok(Some(Missing { parent: definition.name, condition }))
    }
}

/// The foreign keys of a table.
pub(crate) fn foreign_keys(db: &Connection, table: &str) -> Result<Vec<ForeignKey>> {
    // language=SQLite
    let sql = "SELECT id, \"table\", \"from\", \"to\", on_update, on_delete \
               FROM pragma_foreign_key_list(?1, 'main') ORDER BY id, seq";
    let mut keys: Vec<(i64, ForeignKey)> = Vec::new();
    db.prepare(sql)?.for_each(&[Value::from(table)], |row| -> Result<()> {
        let text = |i| row.column(i).as_str().map(str::to_owned);
        let pair = (text(2).unwrap_or_default(), text(3));
        match keys.last_mut() {
            Some((id, key)) if *id == row.column_i64(0) => key.pairs.push(pair),
            _ => {
                let acts =
                    [4, 5].iter().any(|i| !matches!(row.column(*i).as_str(), Some("NO ACTION" | "RESTRICT")));
                let on_delete = match row.column(5).as_str() {
                    Some("CASCADE") => OnDelete::Cascade,
                    Some("SET NULL") => OnDelete::SetNull,
                    Some("SET DEFAULT") => OnDelete::SetDefault,
                    _ => OnDelete::Refuse,
                };
                let parent = text(1).unwrap_or_default();
                let key = ForeignKey { parent, pairs: vec![pair], acts, on_delete };
                keys.push((row.column_i64(0), key));
            }
        }
        Ok(())
    })?;
    Ok(keys.into_iter().map(|(_, key)| key).collect())
}

/// What foreign keys say of a table, found when it is first asked: the catalog makes a table anew when the schema changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Relations {
    /// The query for parents that are missing.
    orphan: OnceCell<Option<String>>,
    /// The foreign keys that refer to the table.
    referring: OnceCell<Rc<[Referring]>>,
}

/// A query that gives the name of a parent table in which the row's parent is missing; `None` when the table has no
/// foreign keys.
pub(crate) fn orphan_query(db: &Connection, table: &Table) -> Result<Option<Statement>> {
    if !table.definition.has_foreign_keys {
        return Ok(None);
    }
    let sql = match table.relations.orphan.get() {
        Some(known) => known,
        None => {
            let sql = orphan_sql(db, table)?;
            table.relations.orphan.get_or_init(|| sql)
        }
    };
    Ok(sql.as_ref().map(|sql| db.prepare(sql)).transpose()?)
}

fn orphan_sql(db: &Connection, table: &Table) -> Result<Option<String>> {
    let of_row = table
        .key
        .iter()
        .enumerate()
        .map(|(i, key)| format!("c.{} = ?{}", quote_identifier(&key.name), i + 1));
    let of_row = of_row.collect::<Vec<_>>().join(" AND ");
    let mut queries = Vec::new();
    for key in foreign_keys(db, &table.name)? {
        let Some(missing) = key.missing(db, "c")? else { continue };
        queries.push(format!(
            "SELECT {} FROM {} AS c WHERE {of_row} AND {}",
            storage::quote_text(&missing.parent),
            table.quoted(),
            missing.condition
        ));
    }
    Ok((!queries.is_empty()).then(|| queries.join(" UNION ALL ")))
}

/// What SQLite does to children when their parent is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnDelete {
    /// It refuses, at once or at the end of the statement or transaction.
    Refuse,
    Cascade,
    SetNull,
    SetDefault,
}

/// A foreign key of some table that refers to the one at hand.
#[derive(Debug)]
pub(crate) struct Referring {
    /// The table of the children.
    pub(crate) child: String,
    /// The children's columns.
    pub(crate) columns: Vec<String>,
    /// The parent's columns that they equal.
    pub(crate) parent_columns: Vec<String>,
    /// The condition that a row is a child of a parent whose columns are the parameters, by the parent's collations.
    pub(crate) is_child: String,
    pub(crate) on_delete: OnDelete,
    parent_sql: String,
}

/// The same, ready to be asked.
pub(crate) struct Reference {
    keys: Rc<[Referring]>,
    place: usize,
    /// Gives the parent's columns, by the parent's key, if it has children other than itself.
    pub(crate) parent: Statement,
}

impl Deref for Reference {
    type Target = Referring;

    fn deref(&self) -> &Referring {
        &self.keys[self.place]
    }
}

/// The foreign keys that refer to a table, whether the tables of the children sync or not.
pub(crate) fn references(db: &Connection, table: &Table) -> Result<Vec<Reference>> {
    let referring = match table.relations.referring.get() {
        Some(known) => known,
        None => {
            let referring = referring(db, table)?.into();
            table.relations.referring.get_or_init(|| referring)
        }
    };
    let ready = |(place, key): (usize, &Referring)| {
        Ok(Reference { keys: Rc::clone(referring), place, parent: db.prepare(&key.parent_sql)? })
    };
    referring.iter().enumerate().map(ready).collect()
}

fn referring(db: &Connection, table: &Table) -> Result<Vec<Referring>> {
    // language=SQLite
    let sql = "SELECT DISTINCT m.name FROM main.sqlite_master AS m, pragma_foreign_key_list(m.name, 'main') AS f \
               WHERE m.type = 'table' AND m.sql LIKE '%references%' AND f.\"table\" = ?1 COLLATE NOCASE ORDER BY m.name";
    let mut children = Vec::new();
    db.prepare(sql)?.for_each(&[Value::from(table.name.as_str())], |row| -> Result<()> {
        children.extend(row.column(0).as_str().map(str::to_owned));
        Ok(())
    })?;
    let mut found = Vec::new();
    for child in children {
        for key in foreign_keys(db, &child)? {
            if key.parent.eq_ignore_ascii_case(&table.name) {
                found.extend(refers(table, &child, key));
            }
        }
    }
    Ok(found)
}

/// `None` where the key names no columns and the parent has too few.
fn refers(table: &Table, child: &str, key: ForeignKey) -> Option<Referring> {
    let own = |place: usize| table.key.get(place).map(|key| key.name.clone());
    let named = key.pairs.iter().enumerate().map(|(place, (_, to))| to.clone().or_else(|| own(place)));
    let parent_columns = named.collect::<Option<Vec<_>>>()?;
    let columns: Vec<_> = key.pairs.into_iter().map(|(from, _)| from).collect();
    let parent_sql = parent_sql(table, child, &columns, &parent_columns);
    let (child, on_delete) = (child.to_owned(), key.on_delete);
    let is_child = is_child(table, &columns, &parent_columns);
    Some(Referring { child, columns, parent_columns, is_child, on_delete, parent_sql })
}

fn is_child(parent: &Table, columns: &[String], parent_columns: &[String]) -> String {
    let collation = |name: &String| {
        let mut columns = parent.definition.columns.iter();
        columns
            .find(|column| column.name().eq_ignore_ascii_case(name))
            .map_or("BINARY", |column| &column.schema.collation)
    };
    let pairs = columns.iter().zip(parent_columns).enumerate();
    let equal = pairs.map(|(i, (name, of))| {
        format!("{} = ?{} COLLATE {}", quote_identifier(name), i + 1, quote_identifier(collation(of)))
    });
    equal.collect::<Vec<_>>().join(" AND ")
}

fn parent_sql(table: &Table, child: &str, columns: &[String], parent_columns: &[String]) -> String {
    let wanted: Vec<_> = parent_columns.iter().map(|name| format!("p.{}", quote_identifier(name))).collect();
    let equal = columns.iter().zip(&wanted);
    let mut equal: Vec<_> =
        equal.map(|(name, wanted)| format!("{wanted} = c.{}", quote_identifier(name))).collect();
    if child.eq_ignore_ascii_case(&table.name) {
        let same = table.key.iter().map(|key| quote_identifier(&key.name));
        let same: Vec<_> = same.map(|name| format!("c.{name} = p.{name}")).collect();
        equal.push(format!("NOT ({})", same.join(" AND ")));
    }
    let key = table.key.iter().enumerate();
    let key: Vec<_> = key.map(|(i, key)| format!("p.{} = ?{}", quote_identifier(&key.name), i + 1)).collect();
    format!(
        "SELECT {} FROM {} AS p WHERE {} AND EXISTS(SELECT 1 FROM main.{} AS c WHERE {})",
        wanted.join(", "),
        table.quoted(),
        key.join(" AND "),
        quote_identifier(child),
        equal.join(" AND ")
    )
}

/// The keys of all rows of a table whose parent is missing.
pub(crate) fn orphans_query(db: &Connection, table: &Table) -> Result<Option<Statement>> {
    let mut conditions = Vec::new();
    for key in foreign_keys(db, &table.name)? {
        conditions.extend(key.missing(db, "c")?.map(|missing| format!("({})", missing.condition)));
    }
    if conditions.is_empty() {
        return Ok(None);
    }
    let sql = format!(
        "SELECT {} FROM {} AS c WHERE {}",
        key_columns(table),
        table.quoted(),
        conditions.join(" OR ")
    );
    Ok(Some(db.prepare(&sql)?))
}

/// The keys of the children of a parent whose columns are the parameters.
pub(crate) fn children_query(db: &Connection, child: &Table, is_child: &str) -> Result<Statement> {
    let sql = format!("SELECT {} FROM {} AS c WHERE {is_child}", key_columns(child), child.quoted());
    Ok(db.prepare(&sql)?)
}

fn key_columns(table: &Table) -> String {
    let names: Vec<_> = table.key.iter().map(|key| format!("c.{}", quote_identifier(&key.name))).collect();
    names.join(", ")
}
