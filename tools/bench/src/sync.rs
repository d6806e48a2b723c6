//! What extraction and apply cost, and how many bytes travel. Plain SQLite reads the rows, or upserts them.

use crate::case::Case;
use crate::data::{Rows, Shape};
use crate::measure::timed;
use crate::report::Report;
use crate::subject::{Contest, Implementation, Sample, Wins};
use crate::writes::Write;
use crate::{delta, writes};
use anyhow::Result;

struct Data {
    /// With `third` for what the receivers write.
    author: writes::Data,
    fourth: Rows,
}

/// Measures all works of this group.
pub(crate) fn run(report: &mut Report, contest: &Contest, case: &Case) -> Result<()> {
    let data = Data { author: writes::Data::new(case.shape), fourth: Rows::new(case.shape, 4) };
    for round in 0..case.rounds {
        for implementation in contest.in_round(round) {
            let mut run = Run { report, contest, case, implementation, data: &data };
            run.all()?;
        }
    }
    Ok(())
}

/// One implementation in one round.
struct Run<'r> {
    report: &'r mut Report,
    contest: &'r Contest,
    case: &'r Case,
    implementation: Implementation,
    data: &'r Data,
}

impl Run<'_> {
    fn all(&mut self) -> Result<()> {
        let (data, shape) = (self.data, self.case.shape);
        let mut author = self.case.sample(self.contest, self.implementation)?;
        let mut receiver = self.case.sample(self.contest, self.implementation)?;

        author.mark()?;
        author.database.in_transaction(|| Write::Insert.run(&author.database, &data.author))?;
        let inserted = self.extract_all(&mut author)?;
        self.apply("apply_empty", "", &mut receiver, (&inserted, &data.author.rows), Wins::Local)?;
        self.apply("apply_same", "", &mut receiver, (&inserted, &data.author.rows), Wins::Local)?;
        receiver.database.expect(&data.author.rows)?;

        author.mark()?;
        write_all(&mut author, &[&data.author.others])?;
        let earlier = extract(&mut author)?;
        write_all(&mut receiver, &[&data.fourth, &data.author.third])?;
        let others = &data.author.others;
        self.apply("apply_conflict", "local_wins", &mut receiver, (&earlier, others), Wins::Local)?;
        if self.implementation != Implementation::Plain {
            receiver.database.expect(&data.author.third)?;
        }

        author.mark()?;
        write_all(&mut author, &[&data.author.third, &data.fourth])?;
        let later = extract(&mut author)?;
        self.apply("apply_conflict", "", &mut receiver, (&later, &data.fourth), Wins::Remote)?;
        receiver.database.expect(&data.fourth)?;

        self.delta(&mut author, shape)
    }

    fn extract_all(&mut self, author: &mut Sample) -> Result<Vec<Vec<u8>>> {
        settle(author)?;
        let mut pieces = Vec::new();
        let take = |piece| {
            pieces.push(piece);
            Ok(())
        };
        let read = |database: &crate::database::Database| database.read("SELECT * FROM t");
        let (cost, bytes) = timed(|| author.extract(read, take))?;
        let cells = self.data.author.rows.cell_count();
        self.case.add_cost(self.report, ("extract_all", ""), self.implementation, cost, cells);
        let each = bytes as f64 / cells as f64;
        self.case.add_bytes(self.report, ("payload_bytes", ""), self.implementation, each);
        Ok(pieces)
    }

    fn apply(
        &mut self,
        name: &'static str,
        own: &'static str,
        receiver: &mut Sample,
        (pieces, rows): (&[Vec<u8>], &Rows),
        wins: Wins,
    ) -> Result<()> {
        let (cost, ()) = timed(|| receiver.apply(pieces, rows, wins))?;
        self.case.add_cost(self.report, (name, own), self.implementation, cost, rows.cell_count());
        receiver.database.checkpoint()
    }

    /// The bytes of a few changes.
    fn delta(&mut self, author: &mut Sample, shape: Shape) -> Result<()> {
        let changed = delta::Changed::new(shape, 0);
        author.mark()?;
        author.database.in_transaction(|| changed.write(&author.database))?;
        author.settle()?;
        let bytes = author.extract(|database| changed.read(database), |_| Ok(()))?;
        let each = bytes as f64 / changed.count() as f64;
        self.case.add_bytes(self.report, ("payload_bytes", "100_changes"), self.implementation, each);
        Ok(())
    }
}

fn settle(sample: &mut Sample) -> Result<()> {
    sample.settle()?;
    sample.database.checkpoint()
}

/// Updates every cell, several times if several are given. Who is to win writes more often and later: cr-sqlite counts
/// the writes of a cell, and ours goes by time.
fn write_all(sample: &mut Sample, versions: &[&Rows]) -> Result<()> {
    for rows in versions {
        sample
            .database
            .in_transaction(|| sample.database.run_with_rows(&rows.shape.update_all_sql(), rows))?;
        settle(sample)?;
    }
    Ok(())
}

fn extract(sample: &mut Sample) -> Result<Vec<Vec<u8>>> {
    let mut pieces = Vec::new();
    sample.extract(
        |_| Ok(0),
        |piece| {
            pieces.push(piece);
            Ok(())
        },
    )?;
    Ok(pieces)
}
