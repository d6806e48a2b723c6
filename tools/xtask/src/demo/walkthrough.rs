//! The README's getting-started, on two devices and in both directions.

use anyhow::{Result, bail};

use super::device::{Device, connect};
use crate::server::Server;

/// The table of the walkthrough, its key and its columns.
pub(crate) const TABLE: super::compare::Table =
    super::compare::Table { name: "my_data", key: "id", columns: &["id", "value", "created_at"] };

// language=SQLite
const SCHEMA: &str = "\
CREATE TABLE IF NOT EXISTS my_data (id TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL DEFAULT '', \
created_at TEXT DEFAULT CURRENT_TIMESTAMP);
SELECT cloudsync_init('my_data');
";

// language=SQLite
const EDITS_A: &str = "\
INSERT INTO my_data (id, value) VALUES (cloudsync_uuid(), 'Hello from device A!'), \
(cloudsync_uuid(), 'Working offline is seamless!');
UPDATE my_data SET value = 'Updated: Hello from device A!' WHERE value LIKE 'Hello from device A!';
";

// language=SQLite
const EDITS_B: &str = "\
INSERT INTO my_data (id, value) VALUES (cloudsync_uuid(), 'Hello from device B!'), \
(cloudsync_uuid(), 'B works offline too.');
UPDATE my_data SET value = 'Updated: Hello from device B!' WHERE value LIKE 'Hello from device B!';
";

/// A writes and syncs, B writes and syncs, A syncs again: each then has what the other wrote. Gives the
/// bytes of all rounds.
pub(crate) fn play(a: &Device, b: &Device) -> Result<u64> {
    let first = a.run_and_sync(&format!("{SCHEMA}{EDITS_A}"))?;
    let second = b.run_and_sync(&format!("{SCHEMA}{EDITS_B}"))?;
    require_rows(b, second.received)?;
    let third = a.run_and_sync("")?;
    require_rows(a, third.received)?;
    let show = "SELECT id, value FROM my_data ORDER BY id;\n";
    if a.run(show)?.lines().count() != 4 || b.run(show)?.lines().count() != 4 {
        bail!("each device should have the four rows of the walkthrough");
    }
    Ok(first.bytes + second.bytes + third.bytes)
}

/// The SQL with which another device joins and sees the rows.
pub(crate) fn join(server: &Server) -> String {
    format!(
        ".load ./cloudsync\n{SCHEMA}{}SELECT cloudsync_network_sync();\nSELECT * FROM my_data;",
        connect(server)
    )
}

fn require_rows(device: &Device, received: u64) -> Result<()> {
    if received == 0 {
        bail!("device {} received nothing, though the other one wrote", device.name);
    }
    Ok(())
}
