//! What a device and the server tell each other about their tables, and how the two are compared.
//!
//! Only what changes the meaning of bytes is compared: algorithm, key, type, collation and strictness.
//! Columns and tables that one side lacks are no conflict: the rest goes on syncing.

use crate::limits::{NAME_BYTES_MAX, SCHEMA_COLUMNS_MAX, SCHEMA_TABLES_MAX, SCHEMA_TEXT_BYTES_MAX};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use cloudsync_core::bytes::{BytesError, Reader, put_bytes, put_varint};
use cloudsync_core::clock::COLUMNS_MAX;

/// The synced tables of one side, in ascending order of names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schema {
    /// The tables.
    pub tables: Vec<TableSchema>,
}

/// One synced table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSchema {
    /// Its name.
    pub name: String,
    /// `cls`, `dws`, `aws` or `gos`.
    pub algorithm: String,
    /// Declared STRICT.
    pub strict: bool,
    /// Declared WITHOUT ROWID.
    pub without_rowid: bool,
    /// Its stored columns in order of declaration; generated ones are left out.
    pub columns: Vec<ColumnSchema>,
    /// UNIQUE constraints beside the primary key: the column names of each.
    pub uniques: Vec<Vec<String>>,
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnSchema {
    /// Its name.
    pub name: String,
    /// The declared type, empty if none.
    pub declared_type: String,
    /// Declared NOT NULL.
    pub not_null: bool,
    /// Place in the primary key, counted from 1; 0 outside it.
    pub key_place: u16,
    /// Name of the collation.
    pub collation: String,
    /// Text of the DEFAULT expression.
    pub default: Option<String>,
}

impl ColumnSchema {
    /// The column as SQL would declare it, for people to read.
    #[must_use]
    pub fn definition(&self) -> String {
        let mut text = self.name.clone();
        for part in [self.declared_type.as_str(), if self.not_null { "NOT NULL" } else { "" }] {
            if !part.is_empty() {
                text.push(' ');
                text.push_str(part);
            }
        }
        if self.key_place > 0 {
            text.push_str(&format!(" PRIMARY KEY (place {})", self.key_place));
        }
        if !self.collation.eq_ignore_ascii_case("BINARY") {
            text.push_str(&format!(" COLLATE {}", self.collation));
        }
        if let Some(default) = &self.default {
            text.push_str(&format!(" DEFAULT {default}"));
        }
        text
    }
}

/// How SQLite converts values on their way into a column (sqlite.org, "Datatypes In SQLite", section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affinity {
    /// TEXT.
    Text,
    /// NUMERIC.
    Numeric,
    /// INTEGER.
    Integer,
    /// REAL.
    Real,
    /// BLOB, also called NONE.
    Blob,
}

impl Affinity {
    /// The affinity that a declared type gives.
    #[must_use]
    pub fn of(declared_type: &str) -> Self {
        let upper = declared_type.to_ascii_uppercase();
        let has = |word: &str| upper.contains(word);
        if has("INT") {
            Self::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Self::Text
        } else if has("BLOB") || upper.trim().is_empty() {
            Self::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Self::Real
        } else {
            Self::Numeric
        }
    }
}

/// A table that means different things on two sides.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("table \"{table}\" differs: {what}: here `{here}`, on the server `{there}`")]
pub struct SchemaConflict {
    /// The table.
    pub table: String,
    /// The column, or what else differs.
    pub what: String,
    /// The device's definition.
    pub here: String,
    /// The server's definition.
    pub there: String,
}

/// Checks that values of a device's table mean the same in the server's table of that name.
///
/// # Errors
/// [`SchemaConflict`] with the first difference that would change stored bytes or the identity of rows.
pub fn compare(device: &TableSchema, server: &TableSchema) -> Result<(), SchemaConflict> {
    let conflict = |what: &str, here: String, there: String| SchemaConflict {
        table: device.name.clone(),
        what: what.to_owned(),
        here,
        there,
    };
    if device.algorithm != server.algorithm {
        return Err(conflict("algorithm", device.algorithm.clone(), server.algorithm.clone()));
    }
    let (here, there) = (key_names(device), key_names(server));
    if here.len() != there.len() || here.iter().zip(&there).any(|(a, b)| !a.eq_ignore_ascii_case(b)) {
        return Err(conflict("primary key", here.join(", "), there.join(", ")));
    }
    if device.strict != server.strict {
        let word = |strict| if strict { "STRICT" } else { "not STRICT" }.to_owned();
        return Err(conflict("STRICT", word(device.strict), word(server.strict)));
    }
    for column in &device.columns {
        let Some(other) = server.columns.iter().find(|other| other.name.eq_ignore_ascii_case(&column.name))
        else {
            continue;
        };
        let same_bytes = if device.strict {
            column.declared_type.eq_ignore_ascii_case(&other.declared_type)
        } else {
            Affinity::of(&column.declared_type) == Affinity::of(&other.declared_type)
        };
        if !same_bytes || !column.collation.eq_ignore_ascii_case(&other.collation) {
            let what = format!("column \"{}\"", column.name);
            return Err(conflict(&what, column.definition(), other.definition()));
        }
    }
    Ok(())
}

/// The names of the key's columns in the key's order.
#[must_use]
pub fn key_names(table: &TableSchema) -> Vec<&str> {
    let mut key: Vec<_> = table.columns.iter().filter(|column| column.key_place > 0).collect();
    key.sort_by_key(|column| column.key_place);
    key.iter().map(|column| column.name.as_str()).collect()
}

impl Schema {
    /// A number that is the same for equal schemas: xxh3 of the encoded form.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        xxhash_rust::xxh3::xxh3_64(&bytes)
    }

    /// The table of that name; SQLite's names do not distinguish ASCII case.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<&TableSchema> {
        self.tables.iter().find(|table| table.name.eq_ignore_ascii_case(name))
    }

    /// Appends the encoded form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.tables.len() as u64);
        for table in &self.tables {
            put_bytes(out, table.name.as_bytes());
            put_bytes(out, table.algorithm.as_bytes());
            out.push(u8::from(table.strict) | u8::from(table.without_rowid) << 1);
            put_varint(out, table.columns.len() as u64);
            table.columns.iter().for_each(|column| encode_column(out, column));
            put_varint(out, table.uniques.len() as u64);
            for unique in &table.uniques {
                put_varint(out, unique.len() as u64);
                unique.iter().for_each(|name| put_bytes(out, name.as_bytes()));
            }
        }
    }

    /// Reads what [`Schema::encode`] wrote.
    ///
    /// # Errors
    /// [`BytesError`] when the bytes are no schema within the limits.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, BytesError> {
        let count = reader.varint_max(SCHEMA_TABLES_MAX as u64, "table count")?;
        let mut columns_left = SCHEMA_COLUMNS_MAX as u64;
        let tables = (0..count).map(|_| decode_table(reader, &mut columns_left)).collect::<Result<_, _>>()?;
        Ok(Self { tables })
    }
}

fn encode_column(out: &mut Vec<u8>, column: &ColumnSchema) {
    put_bytes(out, column.name.as_bytes());
    put_bytes(out, column.declared_type.as_bytes());
    out.push(u8::from(column.not_null) | u8::from(column.default.is_some()) << 1);
    put_varint(out, u64::from(column.key_place));
    put_bytes(out, column.collation.as_bytes());
    if let Some(default) = &column.default {
        put_bytes(out, default.as_bytes());
    }
}

/// A count of columns, which all tables together have no more of than `left`.
fn decode_count(reader: &mut Reader<'_>, left: &mut u64, what: &'static str) -> Result<u64, BytesError> {
    let count = reader.varint_max(COLUMNS_MAX.min(*left), what)?;
    *left -= count;
    Ok(count)
}

fn decode_flags(reader: &mut Reader<'_>) -> Result<[bool; 2], BytesError> {
    match reader.byte()? {
        flags @ 0..=3 => Ok([flags & 1 != 0, flags & 2 != 0]),
        _ => Err(BytesError::OutOfBounds("flags")),
    }
}

fn decode_table(reader: &mut Reader<'_>, left: &mut u64) -> Result<TableSchema, BytesError> {
    let name = decode_name(reader)?;
    let algorithm = decode_name(reader)?;
    let [strict, without_rowid] = decode_flags(reader)?;
    let columns = (0..decode_count(reader, left, "column count")?)
        .map(|_| decode_column(reader))
        .collect::<Result<_, _>>()?;
    let uniques = (0..decode_count(reader, left, "unique count")?)
        .map(|_| {
            let count = decode_count(reader, left, "unique columns")?;
            (0..count).map(|_| decode_name(reader)).collect()
        })
        .collect::<Result<_, _>>()?;
    Ok(TableSchema { name, algorithm, strict, without_rowid, columns, uniques })
}

fn decode_column(reader: &mut Reader<'_>) -> Result<ColumnSchema, BytesError> {
    let name = decode_name(reader)?;
    let declared_type = decode_text(reader, SCHEMA_TEXT_BYTES_MAX)?;
    let [not_null, has_default] = decode_flags(reader)?;
    let key_place = reader.varint_max(COLUMNS_MAX, "key place")? as u16;
    let collation = decode_name(reader)?;
    let default = if has_default { Some(decode_text(reader, SCHEMA_TEXT_BYTES_MAX)?) } else { None };
    Ok(ColumnSchema { name, declared_type, not_null, key_place, collation, default })
}

fn decode_name(reader: &mut Reader<'_>) -> Result<String, BytesError> {
    let name = decode_text(reader, NAME_BYTES_MAX)?;
    if name.is_empty() { Err(BytesError::OutOfBounds("name")) } else { Ok(name) }
}

fn decode_text(reader: &mut Reader<'_>, max: usize) -> Result<String, BytesError> {
    let bytes = reader.bytes(max as u64, "text")?;
    // SQL has no NUL: no table was ever made with one, and none could be made here.
    let text = core::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    text.map(ToOwned::to_owned).ok_or(BytesError::OutOfBounds("text"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    pub(crate) fn column(name: &str, declared_type: &str, key_place: u16) -> ColumnSchema {
        ColumnSchema {
            name: name.into(),
            declared_type: declared_type.into(),
            not_null: key_place > 0,
            key_place,
            collation: "BINARY".into(),
            default: (key_place == 0).then(|| "''".into()),
        }
    }

    fn table() -> TableSchema {
        TableSchema {
            name: "notes".into(),
            algorithm: "cls".into(),
            strict: false,
            without_rowid: true,
            columns: vec![column("id", "TEXT", 1), column("body", "TEXT", 0)],
            uniques: vec![vec!["body".into(), "id".into()]],
        }
    }

    #[test]
    fn encoding_round_trips() {
        let schema = Schema { tables: vec![table()] };
        let mut bytes = Vec::new();
        schema.encode(&mut bytes);
        assert_eq!(Schema::decode(&mut Reader::new(&bytes)), Ok(schema));
        for end in 0..bytes.len() {
            assert!(Schema::decode(&mut Reader::new(&bytes[..end])).is_err());
        }
    }

    #[test]
    fn a_short_message_does_not_unfold_to_a_vast_schema() {
        let columns = vec![column("c", "", 0); SCHEMA_COLUMNS_MAX / 16];
        let wide = |count| {
            let mut bytes = Vec::new();
            Schema {
                tables: vec![TableSchema { columns: columns.clone(), uniques: vec![], ..table() }; count],
            }
            .encode(&mut bytes);
            Schema::decode(&mut Reader::new(&bytes))
        };
        assert!(wide(16).is_ok());
        assert_eq!(wide(17), Err(BytesError::OutOfBounds("column count")));
        let uniques = vec![vec![]; SCHEMA_COLUMNS_MAX / 16];
        let tables = vec![TableSchema { uniques, ..table() }; 16];
        let mut bytes = Vec::new();
        Schema { tables }.encode(&mut bytes);
        assert!(Schema::decode(&mut Reader::new(&bytes)).is_err());
    }

    #[test]
    fn texts_that_no_schema_has_are_errors() {
        let decoded = |table: TableSchema| {
            let mut bytes = Vec::new();
            Schema { tables: vec![table] }.encode(&mut bytes);
            Schema::decode(&mut Reader::new(&bytes)).map(drop)
        };
        let named = |name: &str| TableSchema { name: name.to_owned(), ..table() };
        assert_eq!(decoded(named("no tes")), Ok(()));
        assert_eq!(decoded(named("note\0")), Err(BytesError::OutOfBounds("text")));
        let typed = TableSchema { columns: vec![column("c", "TE\0XT", 1)], ..table() };
        assert_eq!(decoded(typed), Err(BytesError::OutOfBounds("text")));
    }

    #[test]
    fn unknown_flags_are_errors() {
        let mut bytes = Vec::new();
        Schema { tables: vec![table()] }.encode(&mut bytes);
        // Behind the count and two names with their lengths.
        let at = 1 + 1 + "notes".len() + 1 + "cls".len();
        bytes[at] |= 4;
        assert_eq!(Schema::decode(&mut Reader::new(&bytes)), Err(BytesError::OutOfBounds("flags")));
    }

    #[test]
    fn another_type_is_a_conflict_that_names_both_definitions() {
        let mut other = table();
        other.columns[1].declared_type = "INTEGER".into();
        let text = compare(&table(), &other).unwrap_err().to_string();
        for part in ["notes", "body", "body TEXT", "body INTEGER"] {
            assert!(text.contains(part), "{text}");
        }
        use alloc::string::ToString as _;
    }

    #[test]
    fn columns_of_one_side_only_are_no_conflict() {
        let mut other = table();
        other.columns.push(column("added", "TEXT", 0));
        assert_eq!(compare(&table(), &other), Ok(()));
        assert_eq!(compare(&other, &table()), Ok(()));
    }

    #[test]
    fn types_are_compared_by_affinity() {
        assert_eq!(Affinity::of("VARCHAR(20)"), Affinity::Text);
        assert_eq!(Affinity::of("BIGINT"), Affinity::Integer);
        assert_eq!(Affinity::of(""), Affinity::Blob);
        assert_eq!(Affinity::of("DECIMAL(10,2)"), Affinity::Numeric);
        assert_eq!(Affinity::of("DOUBLE"), Affinity::Real);
        let mut other = table();
        other.columns[1].declared_type = "VARCHAR(10)".into();
        assert_eq!(compare(&table(), &other), Ok(()));
    }
}
