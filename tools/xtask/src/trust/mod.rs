//! `cargo xtask trust`: `docs/trust.md`, from what the long commands counted.
//!
//! Nothing is measured here, and what was counted on another machine stays on the page until it is counted anew. [`Totals`] says how a command keeps its counts, `page` which of them the page shows.

mod figures;
mod page;
mod totals;

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::project::Project;
use figures::Runs;
pub(crate) use totals::Totals;

const FILE: &str = "docs/trust.md";

pub(crate) fn run(project: &Project, args: &[String]) -> Result<()> {
    if let Some(argument) = args.first() {
        bail!("trust takes nothing, and there is `{argument}`");
    }
    let file = project.root().join(FILE);
    let before = fs::read_to_string(&file).unwrap_or_default();
    let page = page::render(&before, |kind| Runs::read(project, kind))?;
    fs::write(file, page).with_context(|| format!("cannot write {FILE}"))?;
    println!("{FILE} written from {}", project.target().join(totals::FOLDER).display());
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use super::*;

    /// The page that is checked in has what the command would write, but for the figures.
    #[test]
    fn the_page_has_every_section() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(FILE);
        let page = fs::read_to_string(file).unwrap();
        for section in page::SECTIONS {
            assert!(page.contains(&section.heading()), "{}: run `cargo xtask trust`", section.title);
        }
        assert!(page.contains("\n## Known limits\n"));
    }

    #[test]
    fn what_has_not_run_is_said() {
        let line = r#"{"at":1,"commit":"abc","seconds":5,"failed":0,"counts":{"seeds":7,"fault: lost":3}}"#;
        let read = |kind: &str| Runs::parse(if kind == "sim" { line } else { "" });
        let text = page::render("", read).unwrap();
        assert_eq!(text, page::render("", read).unwrap());
        assert!(text.contains("| seeds | 7 |\n| fault: lost | 3 |\n"), "{text}");
        assert!(text.contains("The command: `cargo xtask mutants`"));
    }

    #[test]
    fn what_was_counted_elsewhere_stays_until_it_is_counted_here() {
        let line = |seeds| {
            format!(r#"{{"at":1,"commit":"abc","seconds":5,"failed":0,"counts":{{"seeds":{seeds}}}}}"#)
        };
        let runs =
            |kind: &str, of: &str, seeds| Runs::parse(&if kind == of { line(seeds) } else { String::new() });
        let elsewhere = page::render("", |kind| runs(kind, "sim", 7)).unwrap();
        let here = page::render(&elsewhere, |kind| runs(kind, "torture", 8)).unwrap();
        assert!(here.contains("| seeds | 7 |\n\n## Crashes") && here.contains("| seeds | 8 |"), "{here}");
        assert_eq!(here, page::render(&here, |kind| runs(kind, "", 0)).unwrap());
        let anew = page::render(&here, |kind| runs(kind, "sim", 9)).unwrap();
        assert!(anew.contains("| seeds | 9 |") && !anew.contains("| seeds | 7 |"), "{anew}");
    }
}
