//! Rows as apps have them: words, integers, prices; the same in every run.

use cloudsync_core::id::{uuid_text, uuid_v7};
use cloudsync_sqlite_ffi::Value;

const WORDS: &str = "\
    about account after again amber answer april archive arrow autumn balance basket before bicycle \
    billing blue bottle branch bridge bright budget button cable calendar camera candle castle chair \
    charge cherry circle city client cloud coffee contract copper corner country credit crystal daily \
    dance delivery desert dinner discount doctor dollar draft dream early east electric empty engine \
    evening export failed family field final finger flower forest forward friday friend garden gentle \
    glass golden green ground hammer harbor height hidden holiday honest house icon import inside \
    invoice island january journal juice kitchen ladder lake lemon letter library light linen little \
    machine market meadow meeting member metal middle minute mirror monday monthly morning mountain \
    museum music nature needle network north notice number ocean office open orange order outside owner \
    paper partner pending pepper person phone picture planet pocket popular postal private project \
    purple quarter question quiet quote railway random ready receipt record refund region remote report \
    river round sailor school season second secret shadow shipped signal silver simple sister south \
    spring square station stone storm street student summer sunday supply surface table ticket timber \
    today total travel update urgent valley velvet village violet visit voice warehouse water weekly \
    window winter wonder yellow yesterday young zebra";

/// A small generator whose stream never changes (xorshift64*, Vigna 2014).
struct Random(u64);

impl Random {
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

/// How keys follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    /// UUIDs of version 7: each behind the one before.
    Ordered,
    /// UUIDs whose every bit is random.
    Random,
}

/// The kind of a column's values, by its number.
pub(crate) const fn column_type(column: usize) -> &'static str {
    match column % 3 {
        0 => "INTEGER",
        1 => "TEXT",
        _ => "REAL",
    }
}

enum Cell {
    Integer(i64),
    Text(String),
    Real(f64),
}

/// The rows of one table.
pub(crate) struct Rows {
    keys: Vec<[u8; 36]>,
    cells: Vec<Cell>,
    /// Value columns.
    pub(crate) columns: usize,
}

impl Rows {
    /// Makes `count` rows. Equal `keys` and `count` give equal keys whatever `seed` the values have.
    pub(crate) fn new(count: usize, columns: usize, keys: Keys, seed: u64) -> Self {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let keys = (0..count).map(|row| key(row, keys, &mut random)).collect();
        let mut random = Random(0xd1b5_4a32_d192_ed03 ^ (seed << 32));
        let words: Vec<_> = WORDS.split(' ').collect();
        let cells =
            (0..count).flat_map(|_| 0..columns).map(|column| cell(column, &words, &mut random)).collect();
        Self { keys, cells, columns }
    }

    /// Number of rows.
    pub(crate) fn count(&self) -> usize {
        self.keys.len()
    }

    /// Number of cells.
    pub(crate) fn cell_count(&self) -> usize {
        self.cells.len()
    }

    /// The key of a row.
    pub(crate) fn key(&self, row: usize) -> Value<'_> {
        Value::Text(&self.keys[row])
    }

    /// One value.
    pub(crate) fn value(&self, row: usize, column: usize) -> Value<'_> {
        match &self.cells[row * self.columns + column] {
            Cell::Integer(integer) => Value::Integer(*integer),
            Cell::Text(text) => Value::Text(text.as_bytes()),
            Cell::Real(real) => Value::Real(*real),
        }
    }

    /// Key and all values of a row, in the buffer.
    pub(crate) fn fill<'r>(&'r self, row: usize, buffer: &mut Vec<Value<'r>>) {
        buffer.clear();
        buffer.push(self.key(row));
        buffer.extend((0..self.columns).map(|column| self.value(row, column)));
    }
}

fn key(row: usize, keys: Keys, random: &mut Random) -> [u8; 36] {
    let bits = random.next().to_le_bytes();
    // Sixteen rows in each millisecond.
    let (time, counter) = (1_750_000_000_000 + row as u64 / 16, (row % 16) as u16);
    let mut uuid = uuid_v7(time, counter, bits);
    if keys == Keys::Random {
        uuid[..8].copy_from_slice(&random.next().to_le_bytes());
    }
    uuid_text(&uuid)
}

fn cell(column: usize, words: &[&str], random: &mut Random) -> Cell {
    match column % 3 {
        0 => Cell::Integer(random.below(1_000_000) as i64),
        1 => {
            let count = 1 + random.below(3);
            let chosen: Vec<_> =
                (0..count).map(|_| words[random.below(words.len() as u64) as usize]).collect();
            Cell::Text(chosen.join(" "))
        }
        _ => Cell::Real(random.below(100_000) as f64 / 100.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_repeat_and_ordered_keys_are_in_order() {
        let (one, two) = (Rows::new(100, 3, Keys::Ordered, 1), Rows::new(100, 3, Keys::Ordered, 2));
        assert_eq!(one.keys, two.keys);
        assert!(one.keys.windows(2).all(|pair| pair[0] < pair[1]));
        assert_ne!(one.value(0, 0), two.value(0, 0));
        assert_eq!(one.value(7, 1), Rows::new(100, 3, Keys::Ordered, 1).value(7, 1));
    }
}
