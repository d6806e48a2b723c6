//! Whether two devices hold the same rows, bit for bit.

use anyhow::{Result, bail};

use super::device::Device;

/// A table to compare.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// The key column, by which rows are paired.
    pub(crate) key: &'static str,
    pub(crate) columns: &'static [&'static str],
}

/// Compares tables on two devices and gives how many rows they hold.
///
/// # Errors
/// A row differs or is missing; the text names the first such key.
pub(crate) fn tables(a: &Device, b: &Device, tables: &[Table]) -> Result<usize> {
    let mut rows = 0;
    for table in tables {
        let query = query(table);
        println!("compared on both devices: {query}");
        let (left, right) = (a.run_quietly(&query)?, b.run_quietly(&query)?);
        if let Some(key) = first_difference(&left, &right) {
            bail!("table {} differs between the devices; the first differing key is {key}", table.name);
        }
        let count = left.lines().count();
        println!("{}: {count} rows identical", table.name);
        rows += count;
    }
    Ok(rows)
}

/// One line per row: the key to show, a tab, then every value. Text goes as its bytes, because as text it
/// would end at a NUL and break at a newline; `quote` keeps every digit of numbers.
fn query(table: &Table) -> String {
    let values = table.columns.iter().map(|name| {
        format!(
            "CASE WHEN typeof({name}) IN ('text', 'blob') THEN typeof({name}) || hex({name}) \
             ELSE quote({name}) END"
        )
    });
    let values = values.collect::<Vec<_>>().join(" || '|' || ");
    let Table { name, key, .. } = table;
    format!("SELECT quote({key}) || char(9) || {values} FROM {name} ORDER BY {key};\n")
}

/// The key at which two sorted lists of lines first differ.
fn first_difference<'t>(left: &'t str, right: &'t str) -> Option<&'t str> {
    let key_of = |line: &'t str| line.split('\t').next().unwrap_or(line);
    let (mut left, mut right) = (left.lines(), right.lines());
    loop {
        match (left.next(), right.next()) {
            (None, None) => return None,
            (Some(left), Some(right)) if left == right => {}
            // The smaller key is the one that the other side lacks.
            (Some(left), Some(right)) => return Some(key_of(left).min(key_of(right))),
            (Some(line), None) | (None, Some(line)) => return Some(key_of(line)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_differing_key_is_found() {
        assert_eq!(first_difference("'a'\t1\n'b'\t2\n", "'a'\t1\n'b'\t2\n"), None);
        assert_eq!(first_difference("'a'\t1\n'b'\t2\n", "'a'\t1\n'b'\t3\n"), Some("'b'"));
        assert_eq!(first_difference("'a'\t1\n'c'\t2\n", "'b'\t1\n'c'\t2\n"), Some("'a'"));
        assert_eq!(first_difference("'a'\t1\n", ""), Some("'a'"));
    }
}
