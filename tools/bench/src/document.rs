//! The tables in `docs/bench.md`.

use anyhow::{Context, Result};
use std::path::Path;

/// Where a table stands.
pub(crate) struct Place {
    begin: &'static str,
    end: &'static str,
}

/// The table of works.
pub(crate) const WORKS: Place =
    Place { begin: "<!-- table: begin, written by cargo xtask bench --docs -->", end: "<!-- table: end -->" };
/// The tables of the server.
pub(crate) const SERVER: Place = Place {
    begin: "<!-- server tables: begin, written by cargo xtask bench server --docs -->",
    end: "<!-- server tables: end -->",
};

/// Says what the figures were taken with.
pub(crate) fn heading(arguments: &str) -> String {
    format!(
        "`cargo xtask bench{arguments}`, {}, SQLite {}. In a cell: the multiple of plain SQLite's CPU time (CPU / wall time \
         of one round), bytes (B) or instructions a row (i).\n\n",
        machine(),
        rusqlite::version()
    )
}

/// The same of the server's.
pub(crate) fn server_heading(arguments: &str) -> String {
    format!("`cargo xtask bench server{arguments}`, {}.\n\n", machine())
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let model = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let model = model.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    format!("{cores} cores of {model}")
}

impl Place {
    /// Replaces what stands between the two marks of a file.
    pub(crate) fn write(&self, path: &Path, text: &str) -> Result<()> {
        let page =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let page = self
            .replace(&page, text)
            .with_context(|| format!("{} lacks the marks of the table", path.display()))?;
        std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))
    }

    fn replace(&self, page: &str, text: &str) -> Option<String> {
        let Self { begin, end } = self;
        let (before, rest) = page.split_once(begin)?;
        let (_, after) = rest.split_once(end)?;
        Some(format!("{before}{begin}\n\n{}\n\n{end}{after}", text.trim_end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_table_is_replaced() {
        let Place { begin, end } = WORKS;
        let page = format!("one\n{begin}\nold\n{end}\ntwo\n{}\nother\n{}\n", SERVER.begin, SERVER.end);
        let page = WORKS.replace(&page, "new\n").unwrap();
        let rest = format!("{}\nother\n{}\n", SERVER.begin, SERVER.end);
        assert_eq!(page, format!("one\n{begin}\n\nnew\n\n{end}\ntwo\n{rest}"));
        assert_eq!(WORKS.replace(&page, "new").unwrap(), page);
        assert_eq!(WORKS.replace("no marks", "new"), None);
    }
}
