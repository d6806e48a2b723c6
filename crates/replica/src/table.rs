//! A synced table as it is defined now: its key, its cells, and what else syncing must know of it.

use crate::error::{Error, Result};
use crate::filter::RowFilter;
use crate::foreign_keys::Relations;
use crate::index_text;
use crate::storage::quote_identifier;
use cloudsync_core::clock::{ColumnNumber, ColumnSet};
use cloudsync_core::key::{self, KEY_COLUMNS_MAX, KeyCollation, KeyPart};
use cloudsync_core::merge::Algorithm;
use cloudsync_protocol::schema::{Affinity, ColumnSchema, TableSchema};
use cloudsync_sqlite_ffi::{Connection, Value};
use std::rc::Rc;

/// A column as SQLite describes it.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) schema: ColumnSchema,
    pub(crate) generated: bool,
}

impl Column {
    pub(crate) fn name(&self) -> &str {
        &self.schema.name
    }

    /// True when the packed key does not give back the stored bytes, so that the column travels as a cell as well.
    fn is_lossy_key(&self) -> bool {
        self.schema.key_place > 0 && (self.has_own_collation() || self.keeps_kinds())
    }

    /// True when equal values under the column's collation may differ in bytes.
    pub(crate) fn has_own_collation(&self) -> bool {
        !self.schema.collation.eq_ignore_ascii_case("BINARY")
    }

    /// The expression that is 1 where the column holds something else than its default. Comparing gives the default the
    /// column's affinity, as storing it did: 0 in a REAL column is 0.0. Kinds count where they are kept.
    pub(crate) fn differs_from_default(&self) -> String {
        let default = self.schema.default.as_deref().unwrap_or("NULL");
        let name = quote_identifier(self.name());
        let kind = if self.keeps_kinds() {
            format!(" OR typeof({name}) <> typeof({default})")
        } else {
            String::new()
        };
        format!("({name} IS NOT ({default}) COLLATE BINARY{kind})")
    }

    /// The same where the default is the same for each row whenever it is asked for, and the column no part of the key.
    pub(crate) fn differs_from_constant(&self) -> Option<String> {
        let default = self.schema.default.as_deref().unwrap_or("NULL");
        let varies = index_text::may_call(default) || default.to_ascii_uppercase().contains("CURRENT_");
        (self.schema.key_place == 0 && !varies).then(|| self.differs_from_default())
    }

    /// The column of a row that is about to be written, as the row gets it: REPLACE puts the default in the place of a
    /// NULL that may not be, after the triggers that run before it. A default that calls a function is not looked at,
    /// since the function may be missing where the triggers run.
    pub(crate) fn of_new_row(&self) -> String {
        let name = quote_identifier(self.name());
        match &self.schema.default {
            Some(default) if self.schema.not_null && !index_text::may_call(default) => {
                format!("coalesce(NEW.{name}, {default})")
            }
            _ => format!("NEW.{name}"),
        }
    }

    /// True when the column stores numbers as they come, so that 1 and 1.0, 0.0 and -0.0 differ.
    pub(crate) fn keeps_kinds(&self) -> bool {
        Affinity::of(&self.schema.declared_type) == Affinity::Blob
            || self.schema.declared_type.eq_ignore_ascii_case("ANY")
    }
}

/// What `PRAGMA` and the CREATE statement say of a table.
#[derive(Debug, Clone)]
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) columns: Vec<Column>,
    pub(crate) strict: bool,
    pub(crate) without_rowid: bool,
    pub(crate) uniques: Vec<Unique>,
    pub(crate) has_foreign_keys: bool,
    /// A constraint says itself what a conflict does, as in UNIQUE ON CONFLICT REPLACE.
    pub(crate) resolves_conflicts: bool,
}

/// A UNIQUE index beside the primary key.
#[derive(Debug, Clone)]
pub(crate) struct Unique {
    /// Column and collation of each term; expressions are left out.
    pub(crate) terms: Vec<(String, String)>,
    /// All terms as they were written, if any of them is an expression.
    pub(crate) expressions: Vec<String>,
    /// Which rows are in a partial index, as it was written.
    pub(crate) condition: Option<String>,
    /// Declared in the table, not by CREATE INDEX.
    pub(crate) is_constraint: bool,
}

/// Asks SQLite what a table is, of this name as it is written in the schema, and with this CREATE statement.
pub(crate) fn define(db: &Connection, name: &str, sql: &str) -> Result<Definition> {
    let options = sql.rsplit(')').next().unwrap_or_default().to_ascii_uppercase();
    let foreign_keys = "SELECT 1 FROM pragma_foreign_key_list(?1, 'main')";
    Ok(Definition {
        columns: read_columns(db, name)?,
        strict: options.split(|c: char| !c.is_ascii_alphabetic()).any(|word| word == "STRICT"),
        without_rowid: options.contains("WITHOUT"),
        uniques: read_uniques(db, name)?,
        resolves_conflicts: sql.to_ascii_uppercase().contains("CONFLICT"),
        has_foreign_keys: db.query_i64(foreign_keys, &[Value::from(name)])?.is_some(),
        name: name.to_owned(),
    })
}

fn read_columns(db: &Connection, table: &str) -> Result<Vec<Column>> {
    // language=SQLite
    let sql = "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?1, 'main') ORDER BY cid";
    let mut statement = db.prepare(sql)?;
    statement.bind(1, Value::from(table))?;
    let mut columns = Vec::new();
    while statement.step()? {
        let text = |i| statement.column(i).as_str().map(str::to_owned);
        let name = text(0)
            .ok_or_else(|| Error::usage(format!("a column name of table \"{table}\" is not UTF-8")))?;
        columns.push(Column {
            schema: ColumnSchema {
                declared_type: text(1).unwrap_or_default(),
                not_null: statement.column_i64(2) != 0,
                key_place: u16::try_from(statement.column_i64(4)).unwrap_or(u16::MAX),
                collation: db.column_metadata("main", table, &name)?.collation,
                default: text(3),
                name,
            },
            // 1 hides a column of a virtual table, 2 and 3 are generated ones.
            generated: statement.column_i64(5) >= 2,
        });
    }
    Ok(columns)
}

fn read_uniques(db: &Connection, table: &str) -> Result<Vec<Unique>> {
    // language=SQLite
    let sql = "SELECT i.name, i.origin, m.sql FROM pragma_index_list(?1, 'main') AS i \
               JOIN main.sqlite_master AS m ON m.type = 'index' AND m.name = i.name \
               WHERE i.\"unique\" AND i.origin <> 'pk' ORDER BY i.name";
    let mut indexes = Vec::new();
    db.prepare(sql)?.for_each(&[Value::from(table)], |row| -> Result<()> {
        let text = |i| row.column(i).as_str().unwrap_or_default().to_owned();
        indexes.push((text(0), text(1) == "u", text(2)));
        Ok(())
    })?;
    let mut uniques = Vec::new();
    for (index, is_constraint, sql) in indexes {
        let written = index_text::split(&sql);
        let mut terms = Vec::new();
        // language=SQLite
        let sql = "SELECT name, coll FROM pragma_index_xinfo(?1, 'main') WHERE key AND name IS NOT NULL ORDER BY seqno";
        db.prepare(sql)?.for_each(&[Value::from(index.as_str())], |row| -> Result<()> {
            let text = |i| row.column(i).as_str().unwrap_or_default().to_owned();
            terms.push((text(0), text(1)));
            Ok(())
        })?;
        let expressions = if terms.len() < written.terms.len() { written.terms } else { Vec::new() };
        uniques.push(Unique { terms, expressions, condition: written.condition, is_constraint });
    }
    Ok(uniques)
}

/// A column of the primary key.
#[derive(Debug, Clone)]
pub(crate) struct KeyColumn {
    pub(crate) name: String,
    pub(crate) collation: KeyCollation,
    pub(crate) affinity: Affinity,
    /// The cell that bears the literal value, if the packed key loses it.
    pub(crate) cell: Option<usize>,
}

/// A column whose values travel: every stored one outside the key, and the lossy ones in it.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub(crate) number: ColumnNumber,
    pub(crate) column: Column,
}

/// A synced table.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) algorithm: Algorithm,
    pub(crate) enabled: bool,
    /// The layout that the triggers write into the log.
    pub(crate) layout: i64,
    /// In the key's order, which may not be the columns' order.
    pub(crate) key: Vec<KeyColumn>,
    pub(crate) cells: Vec<Cell>,
    /// The numbers of `cells`.
    pub(crate) numbers: ColumnSet,
    pub(crate) definition: Rc<Definition>,
    /// Which rows sync; all of them without one.
    pub(crate) filter: Option<RowFilter>,
    /// What foreign keys say of it.
    pub(crate) relations: Relations,
}

impl Table {
    /// A table of which only the key is known.
    pub(crate) fn without_cells(id: i64, definition: Definition) -> Result<Self> {
        Ok(Self {
            id,
            name: definition.name.clone(),
            algorithm: Algorithm::default(),
            enabled: true,
            layout: 0,
            key: Self::build_key(&definition, &[])?,
            cells: Vec::new(),
            numbers: ColumnSet::new(),
            definition: Rc::new(definition),
            filter: None,
            relations: Relations::default(),
        })
    }

    /// The key columns of a definition, in the key's order.
    pub(crate) fn key_columns(definition: &Definition) -> Vec<&Column> {
        let mut key: Vec<_> =
            definition.columns.iter().filter(|column| column.schema.key_place > 0).collect();
        key.sort_by_key(|column| column.schema.key_place);
        key
    }

    /// The columns of a definition whose values travel.
    pub(crate) fn cell_columns(definition: &Definition) -> impl Iterator<Item = &Column> {
        let travels =
            |column: &&Column| !column.generated && (column.schema.key_place == 0 || column.is_lossy_key());
        definition.columns.iter().filter(travels)
    }

    /// Puts the key together, once the cells have their numbers.
    pub(crate) fn build_key(definition: &Definition, cells: &[Cell]) -> Result<Vec<KeyColumn>> {
        let columns = Self::key_columns(definition);
        if columns.len() > KEY_COLUMNS_MAX {
            let text = format!("table \"{}\" has more than {KEY_COLUMNS_MAX} key columns", definition.name);
            return Err(Error::Limit(text));
        }
        columns
            .into_iter()
            .map(|column| {
                let collation = match column.schema.collation.to_ascii_uppercase().as_str() {
                    "BINARY" => KeyCollation::Binary,
                    "NOCASE" => KeyCollation::NoCase,
                    "RTRIM" => KeyCollation::RTrim,
                    other => {
                        return Err(Error::usage(format!(
                            "key column \"{}\" of table \"{}\" uses the collation {other}, which other devices may not have: use BINARY, NOCASE or RTRIM",
                            column.name(), definition.name
                        )));
                    }
                };
                let cell = cells.iter().position(|cell| cell.column.name() == column.name());
                // ANY stores numbers and texts as they come, in STRICT tables, and must be let in elsewhere.
                let keeps_kinds = column.keeps_kinds();
                let affinity =
                    if keeps_kinds { Affinity::Blob } else { Affinity::of(&column.schema.declared_type) };
                Ok(KeyColumn { name: column.name().to_owned(), collation, affinity, cell })
            })
            .collect()
    }

    /// True when capture could have packed this key: one that SQLite would store as another value would get a clock
    /// that no write of its row ever finds.
    pub(crate) fn is_key(&self, packed: &[u8]) -> bool {
        key::check(packed, self.key.len(), |place| self.key[place].collation).is_ok()
            && self.has_kinds(packed)
    }

    /// True when each part of a packed key is of a kind that its column keeps.
    pub(crate) fn has_kinds(&self, packed: &[u8]) -> bool {
        let fits = |(part, column): (KeyPart<'_>, &KeyColumn)| match (part, column.affinity) {
            (KeyPart::Integer(_) | KeyPart::Real(_), Affinity::Text) => false,
            (KeyPart::Text(text), Affinity::Integer | Affinity::Real | Affinity::Numeric) => !is_number(text),
            _ => true,
        };
        key::unpack(packed).flatten().zip(&self.key).all(fits)
    }

    /// The cell with that number.
    pub(crate) fn cell(&self, number: ColumnNumber) -> Option<&Cell> {
        self.cells.get(self.cell_place(number)?)
    }

    /// The place of the cell with that number in `cells`.
    pub(crate) fn cell_place(&self, number: ColumnNumber) -> Option<usize> {
        // Until a column is dropped, numbers are places.
        let near = usize::from(number.0);
        if self.cells.get(near).is_some_and(|cell| cell.number == number) {
            return Some(near);
        }
        self.cells.iter().position(|cell| cell.number == number)
    }

    /// The cell of that name; SQLite's names do not distinguish ASCII case.
    pub(crate) fn cell_named(&self, name: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.column.name().eq_ignore_ascii_case(name))
    }

    /// The table as SQL names it.
    pub(crate) fn quoted(&self) -> String {
        format!("main.{}", quote_identifier(&self.name))
    }

    /// The condition that finds a row by its key, with the key's values from parameter `first` on.
    pub(crate) fn key_condition(&self, first: usize) -> String {
        let terms = self.key.iter().enumerate();
        let terms: Vec<_> =
            terms.map(|(i, key)| format!("{} = ?{}", quote_identifier(&key.name), first + i)).collect();
        terms.join(" AND ")
    }

    /// Packs a row's key; the values are in the key's order.
    pub(crate) fn pack_key<'v>(
        &self,
        out: &mut Vec<u8>,
        mut value: impl FnMut(usize) -> cloudsync_core::value::ValueRef<'v>,
    ) -> Result<(), key::KeyError> {
        let last = self.key.len() - 1;
        (0..=last).try_for_each(|i| key::pack_part(out, value(i), self.key[i].collation, i == last))
    }

    /// What the other side is told of the table.
    pub(crate) fn schema(&self) -> TableSchema {
        let stored = self.definition.columns.iter().filter(|column| !column.generated);
        let constraints = self.definition.uniques.iter().filter(|unique| unique.is_constraint);
        TableSchema {
            name: self.name.clone(),
            algorithm: self.algorithm.name().to_owned(),
            strict: self.definition.strict,
            without_rowid: self.definition.without_rowid,
            columns: stored.map(|column| column.schema.clone()).collect(),
            uniques: constraints
                .map(|unique| unique.terms.iter().map(|(name, _)| name.clone()).collect())
                .collect(),
        }
    }
}

/// True for text that a numeric column turns into a number.
pub(crate) fn is_number(text: &[u8]) -> bool {
    let number = |text: &str| {
        let text = text.trim_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
        text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) && text.parse::<f64>().is_ok()
    };
    std::str::from_utf8(text).is_ok_and(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_sqlite_takes_for_numbers() {
        for text in ["5", " 5 ", "-5", "+5.5", "1e3", ".5"] {
            assert!(is_number(text.as_bytes()), "{text}");
        }
        for text in ["", "a", "inf", "nan", "5a", "0x10", "-"] {
            assert!(!is_number(text.as_bytes()), "{text}");
        }
    }
}
