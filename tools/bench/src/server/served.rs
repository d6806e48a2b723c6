//! The server under test: the program that users get, in a process of its own, on a port that was free.

use super::child::{next_line, read_lines};
use super::custody::{Charge, Custody};
use super::usage::Usage;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const START_MAX: Duration = Duration::from_secs(30);

/// A server with empty databases `d0`, `d1` and so on, and a key for all of them.
pub(super) struct Served {
    /// The process, while it runs.
    charge: Option<Charge>,
    program: PathBuf,
    data: PathBuf,
    pub(super) address: String,
    pub(super) key: String,
    // Removed last.
    folder: TempDir,
}

impl Served {
    pub(super) fn start(program: &Path, custody: &Custody, databases: usize) -> Result<Self> {
        let folder = custody.folder()?;
        let data = folder.path().join("data");
        for number in 1..databases {
            let mut create = Command::new(program);
            create.args(["db", "create", &database_name(number), "--data-dir"]).arg(&data);
            let output = create.stdin(Stdio::null()).output().context("cannot run the server's program")?;
            if !output.status.success() {
                bail!("a database was not created: {}", String::from_utf8_lossy(&output.stderr));
            }
        }
        let (address, key) = ("127.0.0.1:0".to_owned(), String::new());
        let mut served = Self { charge: None, program: program.to_owned(), data, address, key, folder };
        served.restart()?;
        Ok(served)
    }

    /// Ends the process, as a power cut would.
    pub(super) fn stop(&mut self) {
        self.charge = None;
    }

    /// Starts the process, on the address that it had before.
    pub(super) fn restart(&mut self) -> Result<()> {
        let mut serve = Command::new(&self.program);
        serve
            .args(["serve", "--dev", &database_name(0), "--addr", &self.address, "--data-dir"])
            .arg(&self.data);
        let mut charge = Charge::start(serve.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let lines = read_lines(&mut charge)?;
        let (mut address, mut key) = (None, None);
        while address.is_none() || key.is_none() {
            let line = next_line(&lines, START_MAX).context("the server")?;
            if let Some(listening) = line.strip_prefix("listening on http://") {
                address = Some(listening.to_owned());
            } else if line.contains("cloudsync_network_set_apikey") {
                key = line.split('\'').nth(1).map(str::to_owned);
            }
        }
        (self.address, self.key) = (address.unwrap_or_default(), key.unwrap_or_default());
        self.charge = Some(charge);
        Ok(())
    }

    /// What devices connect to.
    pub(super) fn connection(&self, database: usize) -> String {
        format!("cloudsync://{}/{}", self.address, database_name(database))
    }

    /// The file of a database.
    pub(super) fn file(&self, database: usize) -> PathBuf {
        self.data.join("databases").join(database_name(database) + ".db")
    }

    /// A folder for the files of devices, on the same disk.
    pub(super) fn devices(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn usage(&self) -> Result<Usage> {
        Usage::of(self.charge.as_ref().context("the server does not run")?.id())
    }
}

pub(super) fn database_name(number: usize) -> String {
    format!("d{number}")
}
