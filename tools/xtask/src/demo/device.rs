//! One device of the demo: a database file and the `sqlite3` shell.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process;
use crate::project::Project;
use crate::server::Server;

/// A database file that is reached only through the shell, as a user would.
pub(crate) struct Device {
    shell: PathBuf,
    library_folder: PathBuf,
    file: PathBuf,
    /// The name that is printed.
    pub(crate) name: String,
    connect: String,
}

/// What one sync did.
pub(crate) struct Round {
    /// Rows received and applied.
    pub(crate) received: u64,
    /// Sent and received, as `cloudsync_network_status` counts them.
    pub(crate) bytes: u64,
    /// Wall time of the whole shell session, in seconds.
    pub(crate) seconds: f64,
}

impl Device {
    pub(crate) fn new(shell: &Path, project: &Project, folder: &Path, name: &str, server: &Server) -> Self {
        Self {
            shell: shell.to_owned(),
            library_folder: project.dist_lib(),
            file: folder.join(format!("device-{name}.db")),
            name: name.to_uppercase(),
            connect: connect(server),
        }
    }

    /// The folder from which `.load ./cloudsync` works.
    pub(crate) fn library_folder(&self) -> &Path {
        &self.library_folder
    }

    /// A file in the folder of this device's database.
    pub(crate) fn file_beside(&self, name: &str) -> PathBuf {
        self.file.with_file_name(name)
    }

    /// Runs SQL and then syncs, in one session of the shell, as the walkthrough does.
    ///
    /// # Errors
    /// As [`Device::run`], or the session's last lines are not a count and a status.
    pub(crate) fn run_and_sync(&self, sql: &str) -> Result<Round> {
        let script = format!(
            ".load ./cloudsync\n{sql}{}SELECT cloudsync_network_sync();\n\
             SELECT cloudsync_network_status();\nSELECT cloudsync_terminate();\n",
            self.connect
        );
        let start = Instant::now();
        let printed = self.run(&script)?;
        let seconds = start.elapsed().as_secs_f64();
        let round = read_round(&printed, seconds)
            .with_context(|| format!("device {}: the shell printed no result of the sync", self.name))?;
        println!(
            "device {}: {} rows received, {} bytes sent and received, {seconds:.1} s",
            self.name, round.received, round.bytes
        );
        Ok(round)
    }

    /// Runs a script in the shell, prints both, and gives what the shell printed.
    ///
    /// # Errors
    /// The shell does not exit with 0, or complains.
    pub(crate) fn run(&self, script: &str) -> Result<String> {
        self.print(script);
        let printed = self.run_quietly(script)?;
        print!("{printed}");
        Ok(printed)
    }

    /// As [`Device::run`], and prints nothing: for results that are long.
    pub(crate) fn run_quietly(&self, script: &str) -> Result<String> {
        let mut child = Command::new(&self.shell)
            .args(["-batch", "-bail"])
            .arg(&self.file)
            .current_dir(&self.library_folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", self.shell.display()))?;
        // A script is far smaller than a pipe, so that writing it whole cannot block both sides.
        let mut stdin = child.stdin.take().context("the shell has no standard input")?;
        // A shell that bails out early closes the pipe; its own message is the better one.
        let _ = stdin.write_all(script.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().context("cannot wait for the shell")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() || !complaint.trim().is_empty() {
            print!("{}", String::from_utf8_lossy(&output.stdout));
            bail!("device {}: the shell failed ({}): {}", self.name, output.status, complaint.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Asks SQLite whether the file is sound, without the extension.
    pub(crate) fn check_integrity(&self) -> Result<()> {
        let answer = self.run("PRAGMA integrity_check;\n")?;
        if answer.trim() != "ok" {
            bail!("device {}: {} is damaged", self.name, self.file.display());
        }
        Ok(())
    }

    fn print(&self, script: &str) {
        let folder = process::quote(&self.library_folder.display().to_string());
        let file = process::quote(&self.file.display().to_string());
        println!("$ cd {folder} && sqlite3 {file} <<'SQL'    # device {}\n{script}SQL", self.name);
    }
}

/// The SQL that names the server and shows the key.
pub(crate) fn connect(server: &Server) -> String {
    format!(
        "SELECT cloudsync_network_init('{}');\nSELECT cloudsync_network_set_apikey('{}');\n",
        server.connection, server.key
    )
}

/// Finds the count of the sync and the status after it among the printed lines: the status is the last
/// line of JSON, the count the line before it.
fn read_round(printed: &str, seconds: f64) -> Option<Round> {
    let lines: Vec<&str> = printed.lines().collect();
    let at = lines.iter().rposition(|line| line.starts_with('{'))?;
    let received = lines.get(at.checked_sub(1)?)?.trim().parse().ok()?;
    let status: Value = serde_json::from_str(lines.get(at)?).ok()?;
    let bytes = |field: &str| status.get(field).and_then(Value::as_u64);
    Some(Round { received, bytes: bytes("bytes_sent")? + bytes("bytes_received")?, seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_read_from_the_printed_lines() {
        let printed = "0123abcd\n\n\n7\n{\"bytes_sent\":10,\"bytes_received\":5}\n\n";
        let round = read_round(printed, 1.0).unwrap();
        assert_eq!((round.received, round.bytes), (7, 15));
        assert!(read_round("7\n", 1.0).is_none());
        assert!(read_round("{\"bytes_sent\":10,\"bytes_received\":5}\n", 1.0).is_none());
        assert!(read_round("7\n{\"bytes_sent\":10}\n", 1.0).is_none());
    }
}
