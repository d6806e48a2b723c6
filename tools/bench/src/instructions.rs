//! Instructions per row, counted by callgrind: they repeat exactly, whatever else the machine does.
//!
//! The parent starts this program under `valgrind`, once for each work. Callgrind counts only inside the function that
//! measures, so filling the table costs nothing.

use crate::data::Shape;
use crate::measure::{COUNTED_FUNCTION, timed};
use crate::report::{Report, Work};
use crate::subject::{Contest, Implementation, Sample, Wins};
use crate::writes::{Data, Write};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};

/// The name of the hidden command.
pub(crate) const COMMAND: &str = "count";

/// The works that are counted, by the names that they have when they are timed.
pub(crate) const WORKS: [&str; 7] =
    ["insert", "update_one", "update_all", "delete", "insert_and_fold", "extract_all", "apply_empty"];

/// Counts all works, or says once why it cannot. Keeps callgrind's files in `folder`, if there is one.
pub(crate) fn run(report: &mut Report, contest: &Contest, shape: Shape, folder: Option<&Path>) -> Result<()> {
    let version =
        Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        eprintln!("valgrind is not installed: no instructions are counted");
        return Ok(());
    }
    let own = tempfile::tempdir()?;
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    for name in WORKS {
        for implementation in contest.entrants() {
            if matches!(implementation, Implementation::Peer(_)) {
                continue;
            }
            let file = format!("callgrind.{}.{name}", implementation.name());
            let file = folder.unwrap_or(own.path()).join(file);
            let variant = "instructions".to_owned();
            let work = Work { name, variant, columns: shape.columns, implementation };
            report.note(&work, format!("per row, of {}", shape.rows));
            match count(&work, shape, &file) {
                Ok(instructions) => report.set_instructions(work, instructions / shape.rows as f64),
                // A figure is missing then, as without valgrind.
                Err(error) => eprintln!("{name} of {} was not counted: {error:#}", implementation.name()),
            }
        }
    }
    Ok(())
}

fn count(work: &Work, shape: Shape, file: &Path) -> Result<f64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--collect-atstart=no", "--quiet"]);
    command.arg(format!("--toggle-collect={COUNTED_FUNCTION}"));
    command.arg(format!("--callgrind-out-file={}", file.display()));
    command.arg(std::env::current_exe()?);
    command.args([COMMAND, work.implementation.name(), work.name]);
    command.args([shape.rows.to_string(), shape.columns.to_string()]);
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    total(&std::fs::read_to_string(file)?)
}

/// The sum in a file of callgrind.
fn total(text: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("summary:").or(line.strip_prefix("totals:")));
    match line.context("callgrind wrote no sum")?.trim().parse()? {
        0.0 => bail!("callgrind did not find {COUNTED_FUNCTION}; the binary was stripped"),
        total => Ok(total),
    }
}

/// What a process that [`run`] started does.
pub(crate) fn main(args: &[String]) -> Result<()> {
    let [implementation, work, rows, columns] = args else {
        bail!("count wants IMPLEMENTATION WORK ROWS COLUMNS");
    };
    let implementation = Implementation::from_name(implementation)?;
    let shape = Shape::new(rows.parse()?, columns.parse()?);
    let contest = Contest::default();
    let data = Data::new(shape);
    let create = || Sample::create(&contest, implementation, shape, false);
    let mut sample = create()?;
    sample.mark()?;
    for write in Write::ALL {
        let name = write.name();
        let act = |sample: &Sample| sample.database.in_transaction(|| write.run(&sample.database, &data));
        if work == name || (work == "insert_and_fold" && write == Write::Insert) {
            timed(|| act(&sample))?;
            if work != name {
                timed(|| sample.settle())?;
            }
            return Ok(());
        }
        act(&sample)?;
        sample.settle()?;
        if write == Write::Insert && matches!(work.as_str(), "extract_all" | "apply_empty") {
            return exchange(work, &mut sample, create()?, &data);
        }
        sample.database.checkpoint()?;
    }
    bail!("{work} cannot be counted")
}

fn exchange(work: &str, author: &mut Sample, mut receiver: Sample, data: &Data) -> Result<()> {
    let mut pieces = Vec::new();
    let mut extract = || {
        author.extract(
            |database| database.read("SELECT * FROM t"),
            |piece| {
                pieces.push(piece);
                Ok(())
            },
        )
    };
    if work == "extract_all" {
        timed(extract)?;
    } else {
        extract()?;
        timed(|| receiver.apply(&pieces, &data.rows, Wins::Local))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_read() {
        assert_eq!(total("events: Ir\nsummary: 4711\n\nfn=x\n").unwrap(), 4711.0);
        assert_eq!(total("fn=x\ntotals: 12\n").unwrap(), 12.0);
        assert!(total("summary: 0\n").unwrap_err().to_string().contains("stripped"));
        assert!(total("").is_err());
    }

    #[test]
    fn every_counted_work_can_be_done() {
        for work in WORKS {
            for implementation in ["plain", "cloudsync"] {
                let args = [implementation, work, "50", "3"].map(str::to_owned);
                main(&args).unwrap_or_else(|error| panic!("{work} of {implementation}: {error:#}"));
            }
        }
        assert!(main(&["plain", "nothing", "50", "3"].map(str::to_owned)).is_err());
    }
}
