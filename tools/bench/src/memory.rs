//! Peak memory of extraction and apply, each in a process of its own.
//!
//! The parent starts this program three times: to fill the author's file, to extract it into a file of pieces, and to
//! apply those to a fresh file. Each of the latter says how far its memory rose above what it was after the database
//! had been opened.

use crate::case::Case;
use crate::data::{Rows, Shape};
use crate::report::Report;
use crate::subject::{Contest, Implementation, Sample, Wins};
use crate::writes::{BATCH, fill_table};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _, Write as _};
use std::path::Path;
use std::process::Command;

/// The name of the hidden command.
pub(crate) const COMMAND: &str = "memory";

/// Measures all works of this group.
pub(crate) fn run(report: &mut Report, contest: &Contest, case: &Case) -> Result<()> {
    if !cfg!(target_os = "linux") {
        eprintln!("peak memory is read from /proc, which this system does not have");
        return Ok(());
    }
    let program = std::env::current_exe()?;
    for implementation in
        contest.entrants().into_iter().filter(|entrant| !matches!(entrant, Implementation::Peer(_)))
    {
        let folder = tempfile::tempdir()?;
        let stage = |stage: &str| -> Result<f64> {
            let mut command = Command::new(&program);
            command.args([COMMAND, implementation.name(), stage]);
            command.args([case.shape.rows.to_string(), case.shape.columns.to_string()]).arg(folder.path());
            let output = command.stderr(std::process::Stdio::inherit()).output()?;
            if !output.status.success() {
                bail!("the process for {} {stage} failed: {}", implementation.name(), output.status);
            }
            let text = String::from_utf8(output.stdout)?;
            text.trim().parse().with_context(|| format!("{stage} printed {text}"))
        };
        stage("fill")?;
        for (own, name) in [("", "encode"), ("apply", "apply")] {
            let bytes = stage(name)?;
            case.add_bytes(report, ("peak_memory", own), implementation, bytes);
        }
    }
    Ok(())
}

/// What a process that [`run`] started does: prints the bytes of its peak above idle.
pub(crate) fn main(args: &[String]) -> Result<()> {
    let [name, stage, rows, columns, folder] = args else {
        bail!("memory wants IMPLEMENTATION STAGE ROWS COLUMNS FOLDER");
    };
    let implementation = Implementation::from_name(name)?;
    let shape = Shape::new(rows.parse()?, columns.parse()?);
    let contest = Contest::default();
    let folder = Path::new(folder);
    let (author, pieces) = (folder.join("author.db"), folder.join("pieces"));
    let create = |path: &Path| Sample::create_at(&contest, implementation, shape, false, path);
    let bytes = match stage.as_str() {
        // What a session recorded is in its process only, so there this is a part of extraction.
        "fill" if implementation == Implementation::Session => 0,
        "fill" => {
            fill_table(&mut create(&author)?, shape)?;
            0
        }
        "encode" if implementation == Implementation::Session => {
            let mut sample = create(&author)?;
            let idle = resident()?;
            fill_table(&mut sample, shape)?;
            encode(&mut sample, &pieces)?;
            peak()?.saturating_sub(idle)
        }
        "encode" => {
            let mut sample = Sample::open(&contest, implementation, shape, &author)?;
            let idle = resident()?;
            encode(&mut sample, &pieces)?;
            peak()?.saturating_sub(idle)
        }
        "apply" => {
            let mut sample = create(&folder.join("receiver.db"))?;
            let idle = resident()?;
            apply(&mut sample, implementation, &pieces, shape)?;
            let peak = peak()?;
            let count = sample.database.connection().query_i64("SELECT count(*) FROM t", &[])?;
            if count != Some(shape.rows as i64) {
                bail!("{count:?} rows were applied, and not {}", shape.rows);
            }
            peak.saturating_sub(idle)
        }
        other => bail!("{other} is no stage"),
    };
    println!("{bytes}");
    Ok(())
}

fn encode(sample: &mut Sample, path: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    sample.extract(
        |database| database.read("SELECT * FROM t"),
        |piece| {
            file.write_all(&(piece.len() as u64).to_le_bytes())?;
            Ok(file.write_all(&piece)?)
        },
    )?;
    Ok(file.flush()?)
}

fn apply(sample: &mut Sample, implementation: Implementation, path: &Path, shape: Shape) -> Result<()> {
    if implementation == Implementation::Plain {
        return sample.database.in_transaction(|| {
            (0..shape.rows).step_by(BATCH).try_for_each(|first| {
                let rows = Rows::part(shape, first..shape.rows.min(first + BATCH), 1);
                sample.database.run_with_rows(&shape.upsert_sql(), &rows)
            })
        });
    }
    let nothing = Rows::part(shape, 0..0, 1);
    let mut file = BufReader::new(File::open(path)?);
    let mut length = [0; 8];
    // The file ends between two pieces.
    while file.read(&mut length[..1])? == 1 {
        file.read_exact(&mut length[1..])?;
        let mut piece = vec![0; usize::try_from(u64::from_le_bytes(length))?];
        file.read_exact(&mut piece)?;
        sample.apply(&[piece], &nothing, Wins::Local)?;
    }
    Ok(())
}

fn resident() -> Result<u64> {
    field(&std::fs::read_to_string("/proc/self/status")?, "VmRSS:")
}

fn peak() -> Result<u64> {
    field(&std::fs::read_to_string("/proc/self/status")?, "VmHWM:")
}

/// Bytes in a line such as `VmRSS:     1234 kB`.
pub(crate) fn field(status: &str, name: &str) -> Result<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    let number = value.and_then(|value| value.split_whitespace().next());
    let kilobytes: u64 = number.with_context(|| format!("/proc/self/status has no {name}"))?.parse()?;
    Ok(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_a_process_is_read() {
        let status = "VmPeak:\t  99 kB\nVmHWM:\t    7 kB\nVmRSS:\t    5 kB\n";
        assert_eq!(field(status, "VmHWM:").unwrap(), 7 * 1024);
        assert_eq!(field(status, "VmRSS:").unwrap(), 5 * 1024);
        assert!(field(status, "VmSwap:").is_err());
    }
}
