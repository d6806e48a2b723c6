//! `cargo xtask docs`: `docs/sql.md` from the extension's table of functions.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::process;
use crate::project::Project;

const FILE: &str = "docs/sql.md";

pub(crate) fn run(project: &Project, args: &[String]) -> Result<()> {
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => write(project),
        ["--check"] => check(project),
        _ => bail!("docs takes nothing or --check"),
    }
}

fn write(project: &Project) -> Result<()> {
    let path = project.root().join(FILE);
    fs::write(&path, generate(project)?).with_context(|| format!("cannot write {FILE}"))?;
    println!("{FILE} written");
    Ok(())
}

/// Compares the checked-in file with what the table of functions gives.
pub(crate) fn check(project: &Project) -> Result<()> {
    let stored = fs::read_to_string(project.root().join(FILE))
        .with_context(|| format!("cannot read {FILE}: run `cargo xtask docs`"))?;
    if let Some((line, stored, generated)) = first_difference(&stored, &generate(project)?) {
        bail!(
            "{FILE} is not what the table of functions gives; run `cargo xtask docs`\n\
             line {line} is      {stored}\nline {line} should be {generated}"
        );
    }
    println!("{FILE} is up to date");
    Ok(())
}

/// The generator is an example of the extension, so that this program need not be built with it.
fn generate(project: &Project) -> Result<String> {
    let mut command = project.cargo();
    command.args(["run", "--quiet", "--package", "cloudsync-extension", "--example", "sql_docs"]);
    let text = process::capture(&mut command)?;
    if text.trim().is_empty() {
        bail!("the example sql_docs printed nothing");
    }
    Ok(text)
}

/// The number of the first differing line, and what each text has there.
fn first_difference<'t>(stored: &'t str, generated: &'t str) -> Option<(usize, &'t str, &'t str)> {
    if stored == generated {
        return None;
    }
    let (mut left, mut right) = (stored.lines(), generated.lines());
    for number in 1.. {
        match (left.next(), right.next()) {
            (Some(stored), Some(generated)) if stored == generated => {}
            (None, None) => return Some((number, "(end)", "(end, with another line ending)")),
            (stored, generated) => {
                return Some((number, stored.unwrap_or("(end)"), generated.unwrap_or("(end)")));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_differing_line_is_named() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), Some((2, "b", "c")));
        assert_eq!(first_difference("a\n", "a\nb\n"), Some((2, "(end)", "b")));
        assert!(first_difference("a\n", "a").is_some());
    }
}
