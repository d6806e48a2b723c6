//! How many bytes travel, per changed cell.

use crate::Options;
use crate::data::{Keys, Rows};
use crate::database::{Database, insert_sql};
use crate::report::{Implementation, Report, Work};
use crate::sync::DELTA_ROWS;
use anyhow::{Context, Result};
use cloudsync_protocol::client::Goal;
use cloudsync_protocol::message::{Accepted, Request, Turn};

const BOTH: Goal = Goal { push: true, pull: true };

/// Measures all works of this group with `columns` value columns.
pub(crate) fn run(report: &mut Report, options: &Options, columns: usize) -> Result<()> {
    eprintln!("payload, {columns} columns");
    let rows = Rows::new(options.rows, columns, Keys::Ordered, 1);
    let mut note = |variant, bytes: usize, cells: usize| {
        let implementation = Implementation::Cloudsync;
        let work = Work { name: "payload_bytes", variant, columns, implementation };
        report.add_bytes(work, bytes as f64 / cells as f64);
    };
    let mut database = Database::create(columns, Implementation::Cloudsync)?;
    database.in_transaction(|| database.run_per_row(&insert_sql(columns), &rows))?;
    database.fold()?;
    note("all rows", bytes(&database.extract(0)?), rows.cell_count());

    for (variant, changed) in [("100 rows 1 cell", DELTA_ROWS), ("1 cell", 1)] {
        let before = database.replica()?.version()?;
        let mut update = database.prepare("UPDATE t SET c0 = c0 - 1 WHERE id = ?1")?;
        for row in 0..changed {
            let row = row * (rows.count() / DELTA_ROWS);
            update.run(&[rows.key(row)])?;
        }
        drop(update);
        database.fold()?;
        note(variant, bytes(&database.extract(before)?), changed);
    }
    note("1 cell request", request_bytes(columns)?, 1);
    Ok(())
}

fn bytes(chunks: &[Vec<u8>]) -> usize {
    chunks.iter().map(Vec::len).sum()
}

/// Bytes of the whole request that sends one changed cell, from a device that has synced before.
fn request_bytes(columns: usize) -> Result<usize> {
    let rows = Rows::new(DELTA_ROWS, columns, Keys::Ordered, 1);
    let mut database = Database::create(columns, Implementation::Cloudsync)?;
    database.run_per_row(&insert_sql(columns), &rows)?;
    let replica = database.replica()?;
    let request = replica.prepare(BOTH, false)?;
    let request = Request::decode(&request)?;
    let round = request.upload.context("nothing was uploaded")?.round;
    replica.absorb(&Turn {
        epoch: request.now,
        nonce: 1,
        now: request.now,
        accepted: Some(Accepted { round, committed: true, repeated: false, quarantined: 0 }),
        drained: true,
        cursor: request.now,
        position: &[],
        rows_total: 0,
        verdicts: &[],
        payload: &[],
    })?;
    database
        .execute("UPDATE t SET c0 = c0 + 1 WHERE id = (SELECT id FROM t ORDER BY id LIMIT 1 OFFSET 50)")?;
    Ok(database.replica()?.prepare(BOTH, false)?.len())
}
