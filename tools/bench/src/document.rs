//! The table in `docs/bench.md`.

use anyhow::{Context, Result};
use std::path::Path;

const BEGIN: &str = "<!-- table: begin, written by cargo xtask bench --docs -->";
const END: &str = "<!-- table: end -->";

/// Says what the figures were taken with.
pub(crate) fn heading(arguments: &str) -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let model = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let model = model.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    format!(
        "`cargo xtask bench{arguments}`, {cores} cores of {model}, SQLite {}. In a cell: the multiple of plain SQLite's CPU \
         time (CPU / wall time of one round), bytes (B) or instructions a row (i).\n\n",
        rusqlite::version()
    )
}

/// Replaces what stands between the two marks of a file.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let page = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let page =
        replace(&page, text).with_context(|| format!("{} lacks the marks of the table", path.display()))?;
    std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))
}

fn replace(page: &str, text: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_table_is_replaced() {
        let page = format!("one\n{BEGIN}\nold\n{END}\ntwo\n");
        let page = replace(&page, "new\n").unwrap();
        assert_eq!(page, format!("one\n{BEGIN}\n\nnew\n\n{END}\ntwo\n"));
        assert_eq!(replace(&page, "new").unwrap(), page);
        assert_eq!(replace("no marks", "new"), None);
    }
}
