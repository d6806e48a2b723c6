//! Rows as apps have them, and others that are easier or harder; the same in every run.

use crate::words::WORDS;
use cloudsync_core::id::{uuid_text, uuid_v7};
use cloudsync_sqlite_ffi::Value;

/// A small generator whose stream never changes (xorshift64*, Vigna 2014).
struct Random(u64);

impl Random {
    /// The stream of one row, so that any part of the rows can be made without the rest.
    fn of_row(seed: u64, row: usize) -> Self {
        let mixed = (row as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (seed << 48);
        let mut random = Self(mixed | 1);
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }
}

/// What the primary key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    /// Texts of UUIDs of version 7: each behind the one before.
    Ordered,
    /// Texts of UUIDs whose every bit is random.
    Random,
    /// `INTEGER PRIMARY KEY`, counted up.
    Integer,
    /// UUIDs of version 7 as 16 bytes.
    Blob,
    /// Two columns: a word and a number.
    Composite,
}

/// What the value columns hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values {
    /// Integers, one to three words, reals with two decimals.
    Realistic,
    /// Products of row and column, and texts such as `val123`.
    Synthetic,
    /// As `Realistic`, with texts of three to eight words.
    Sentences,
    /// Texts of 1,024 bytes.
    Long,
}

/// A table and how many rows it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) rows: usize,
    /// Value columns.
    pub(crate) columns: usize,
    pub(crate) keys: Keys,
    pub(crate) values: Values,
}

impl Shape {
    /// The stated set-up: keys in order and realistic values.
    pub(crate) const fn new(rows: usize, columns: usize) -> Self {
        Self { rows, columns, keys: Keys::Ordered, values: Values::Realistic }
    }

    /// Columns of the primary key.
    pub(crate) const fn key_columns(self) -> usize {
        match self.keys {
            Keys::Composite => 2,
            Keys::Ordered | Keys::Random | Keys::Integer | Keys::Blob => 1,
        }
    }

    /// The definition of the table `t`.
    pub(crate) fn create_sql(self) -> String {
        let key = match self.keys {
            Keys::Ordered | Keys::Random => "id TEXT PRIMARY KEY NOT NULL",
            Keys::Integer => "id INTEGER PRIMARY KEY NOT NULL",
            Keys::Blob => "id BLOB PRIMARY KEY NOT NULL",
            Keys::Composite => "id TEXT NOT NULL, id2 INTEGER NOT NULL",
        };
        let values = self.list(|column| format!(", c{column} {}", self.column_type(column)), "");
        let constraint = if self.keys == Keys::Composite { ", PRIMARY KEY(id, id2)" } else { "" };
        format!("CREATE TABLE t({key}{values}{constraint})")
    }

    /// `INSERT INTO t` with a parameter for each column, those of the key first.
    pub(crate) fn insert_sql(self) -> String {
        let key = if self.key_columns() == 2 { "?1, ?2" } else { "?1" };
        format!(
            "INSERT INTO t VALUES({key}{})",
            self.list(|column| format!(", {}", self.parameter(column)), "")
        )
    }

    /// An insertion that updates every column of a row that is there already.
    pub(crate) fn upsert_sql(self) -> String {
        let key = if self.key_columns() == 2 { "id, id2" } else { "id" };
        let sets = self.list(|column| format!("c{column} = excluded.c{column}"), ", ");
        format!("{} ON CONFLICT({key}) DO UPDATE SET {sets}", self.insert_sql())
    }

    /// An update of every column, with the parameters of [`Shape::insert_sql`].
    pub(crate) fn update_all_sql(self) -> String {
        let sets = self.list(|column| format!("c{column} = {}", self.parameter(column)), ", ");
        format!("UPDATE t SET {sets} WHERE {}", self.key_condition())
    }

    /// An update of the first column, the parameter behind those of the key.
    pub(crate) fn update_one_sql(self) -> String {
        format!("UPDATE t SET c0 = {} WHERE {}", self.parameter(0), self.key_condition())
    }

    /// A deletion by key.
    pub(crate) fn delete_sql(self) -> String {
        format!("DELETE FROM t WHERE {}", self.key_condition())
    }

    /// Reads key and first column by key.
    pub(crate) fn select_one_sql(self) -> String {
        format!("SELECT id, c0 FROM t WHERE {}", self.key_condition())
    }

    fn key_condition(self) -> &'static str {
        if self.key_columns() == 2 { "id = ?1 AND id2 = ?2" } else { "id = ?1" }
    }

    fn parameter(self, column: usize) -> String {
        format!("?{}", self.key_columns() + column + 1)
    }

    fn list(self, item: impl Fn(usize) -> String, between: &str) -> String {
        (0..self.columns).map(item).collect::<Vec<_>>().join(between)
    }

    fn column_type(self, column: usize) -> &'static str {
        match (self.values, column % 3) {
            (Values::Long, _) => "TEXT",
            (Values::Synthetic, _) => ["INTEGER", "TEXT"][column % 2],
            (Values::Realistic | Values::Sentences, 0) => "INTEGER",
            (Values::Realistic | Values::Sentences, 1) => "TEXT",
            (Values::Realistic | Values::Sentences, _) => "REAL",
        }
    }
}

enum Cell {
    Integer(i64),
    Real(f64),
    Text(Box<[u8]>),
    Blob(Box<[u8]>),
}

impl Cell {
    fn text(text: &str) -> Self {
        Self::Text(text.as_bytes().into())
    }

    fn value(&self) -> Value<'_> {
        match self {
            Self::Integer(integer) => Value::Integer(*integer),
            Self::Real(real) => Value::Real(*real),
            Self::Text(text) => Value::Text(text),
            Self::Blob(blob) => Value::Blob(blob),
        }
    }
}

/// The rows of one table, or a part of them.
pub(crate) struct Rows {
    pub(crate) shape: Shape,
    count: usize,
    keys: Vec<Cell>,
    cells: Vec<Cell>,
}

impl Rows {
    /// Makes all rows. Equal shapes give equal keys whatever `seed` the values have.
    pub(crate) fn new(shape: Shape, seed: u64) -> Self {
        Self::part(shape, 0..shape.rows, seed)
    }

    /// Makes the rows with these numbers.
    pub(crate) fn part(shape: Shape, numbers: impl ExactSizeIterator<Item = usize>, seed: u64) -> Self {
        let words: Vec<_> = WORDS.split(' ').collect();
        let count = numbers.len();
        let mut keys = Vec::with_capacity(count * shape.key_columns());
        let mut cells = Vec::with_capacity(count * shape.columns);
        for row in numbers {
            push_key(shape.keys, row, &words, &mut keys);
            let mut random = Random::of_row(seed, row);
            cells.extend((0..shape.columns).map(|column| match shape.values {
                Values::Realistic => realistic(column, seed, (1, 3), &words, &mut random),
                Values::Sentences => realistic(column, seed, (3, 8), &words, &mut random),
                Values::Synthetic => synthetic(row, column, seed),
                Values::Long => long(&words, &mut random),
            }));
        }
        Self { shape, count, keys, cells }
    }

    /// Number of rows.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Number of cells.
    pub(crate) fn cell_count(&self) -> usize {
        self.cells.len()
    }

    /// Key and all values of a row, in the buffer.
    pub(crate) fn fill<'r>(&'r self, row: usize, buffer: &mut Vec<Value<'r>>) {
        self.fill_key(row, buffer);
        let columns = self.shape.columns;
        buffer.extend(self.cells[row * columns..(row + 1) * columns].iter().map(Cell::value));
    }

    /// Key and first value of a row, in the buffer.
    pub(crate) fn fill_one<'r>(&'r self, row: usize, buffer: &mut Vec<Value<'r>>) {
        self.fill_key(row, buffer);
        buffer.push(self.cells[row * self.shape.columns].value());
    }

    /// The key of a row, in the buffer.
    pub(crate) fn fill_key<'r>(&'r self, row: usize, buffer: &mut Vec<Value<'r>>) {
        buffer.clear();
        let width = self.shape.key_columns();
        buffer.extend(self.keys[row * width..(row + 1) * width].iter().map(Cell::value));
    }
}

fn push_key(keys: Keys, row: usize, words: &[&str], out: &mut Vec<Cell>) {
    let uuid = || {
        let bits = Random::of_row(0xffff, row).next().to_le_bytes();
        // Sixteen rows in each millisecond.
        uuid_v7(1_750_000_000_000 + row as u64 / 16, (row % 16) as u16, bits)
    };
    match keys {
        Keys::Ordered => out.push(Cell::Text(uuid_text(&uuid())[..].into())),
        Keys::Random => {
            let mut uuid = uuid();
            uuid[..8].copy_from_slice(&Random::of_row(0xfffe, row).next().to_le_bytes());
            out.push(Cell::Text(uuid_text(&uuid)[..].into()));
        }
        Keys::Integer => out.push(Cell::Integer(row as i64 + 1)),
        Keys::Blob => out.push(Cell::Blob(uuid()[..].into())),
        Keys::Composite => {
            out.push(Cell::text(words[row % words.len()]));
            out.push(Cell::Integer((row / words.len()) as i64));
        }
    }
}

fn realistic(
    column: usize,
    seed: u64,
    (least, most): (u64, u64),
    words: &[&str],
    random: &mut Random,
) -> Cell {
    match column % 3 {
        // Neighbouring seeds give no integer twice, so that an update with them changes something.
        0 => Cell::Integer((random.below(125_000) * 8 + seed % 8) as i64),
        1 => {
            let mut text = String::new();
            for number in 0..least + random.below(most - least + 1) {
                text.push_str(if number == 0 { "" } else { " " });
                text.push_str(word(words, random));
                text.push_str(ENDINGS[random.below(ENDINGS.len() as u64) as usize]);
            }
            Cell::text(&text)
        }
        _ => Cell::Real(random.below(100_000) as f64 / 100.0),
    }
}

fn synthetic(row: usize, column: usize, seed: u64) -> Cell {
    match column % 2 {
        0 => Cell::Integer(row as i64 * column as i64 + seed as i64),
        _ => Cell::text(&format!("val{}", row as u64 + seed)),
    }
}

fn long(words: &[&str], random: &mut Random) -> Cell {
    let mut text = String::with_capacity(LONG_BYTES + 16);
    while text.len() < LONG_BYTES {
        text.push_str(word(words, random));
        text.push(' ');
    }
    text.truncate(LONG_BYTES);
    Cell::text(&text)
}

const LONG_BYTES: usize = 1024;

/// Makes some 2,000 forms of the words, so that texts are as hard to compress as people's.
const ENDINGS: [&str; 8] = ["", "s", "ed", "ing", "er", "ly", "ness", "ful"];

fn word<'w>(words: &[&'w str], random: &mut Random) -> &'w str {
    words[random.below(words.len() as u64) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_keys(keys: Keys, seed: u64) -> Vec<String> {
        let shape = Shape { keys, ..Shape::new(1_000, 3) };
        let rows = Rows::new(shape, seed);
        let print = |row| {
            let mut buffer = Vec::new();
            rows.fill_key(row, &mut buffer);
            let part = |value: &Value<'_>| match value {
                Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
                other => format!("{other:?}"),
            };
            buffer.iter().map(part).collect::<Vec<_>>().join(" ")
        };
        (0..1_000).map(print).collect()
    }

    #[test]
    fn keys_are_unique_and_those_in_order_are_in_order() {
        for keys in [Keys::Ordered, Keys::Random, Keys::Integer, Keys::Blob, Keys::Composite] {
            let mut list = all_keys(keys, 1);
            assert_eq!(list, all_keys(keys, 2), "the keys depend on the seed");
            if keys == Keys::Ordered {
                assert!(list.windows(2).all(|pair| pair[0] < pair[1]));
            }
            list.sort();
            list.dedup();
            assert_eq!(list.len(), 1_000, "{keys:?}");
        }
    }

    #[test]
    fn a_part_of_the_rows_is_as_in_the_whole() {
        for values in [Values::Realistic, Values::Synthetic, Values::Sentences, Values::Long] {
            let shape = Shape { values, ..Shape::new(100, 4) };
            let (whole, part) = (Rows::new(shape, 1), Rows::part(shape, 40..50, 1));
            let (mut one, mut two) = (Vec::new(), Vec::new());
            whole.fill(43, &mut one);
            part.fill(3, &mut two);
            assert_eq!(one, two);
            let other = Rows::new(shape, 2);
            other.fill(43, &mut two);
            assert_ne!(one, two);
        }
    }

    #[test]
    fn a_composite_key_takes_two_parameters() {
        let shape = Shape { keys: Keys::Composite, ..Shape::new(1, 2) };
        assert_eq!(shape.insert_sql(), "INSERT INTO t VALUES(?1, ?2, ?3, ?4)");
        assert_eq!(shape.update_one_sql(), "UPDATE t SET c0 = ?3 WHERE id = ?1 AND id2 = ?2");
    }
}
