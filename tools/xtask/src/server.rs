//! A server of our own build, started for the demo and ended with it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::process;

const START_SECONDS_MAX: u64 = 30;

/// A running server; dropping it ends the process.
pub(crate) struct Server {
    child: Child,
    /// What the server prints after it is ready. Closed when the process has ended.
    lines: Receiver<String>,
    /// What devices give to `cloudsync_network_init`.
    pub(crate) connection: String,
    /// What devices give to `cloudsync_network_set_apikey`.
    pub(crate) key: String,
}

impl Server {
    /// Starts `serve --dev` on a free loopback port and waits until it is ready.
    ///
    /// # Errors
    /// The program does not start, ends, or does not say within 30 seconds how to connect.
    pub(crate) fn start(program: &Path, data: &Path, database: &str) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["serve", "--dev", database, "--data-dir"]).arg(data).args(["--addr", "127.0.0.1:0"]);
        println!("$ {} &", process::display(&command));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let (sender, lines) = channel();
        let stdout = child.stdout.take().context("the server has no standard output")?;
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                println!("  server: {line}");
                // A demo that needs no more lines has dropped its end; the pipe is drained all the same,
                // because a full one would stop the server.
                let _ = sender.send(line);
            }
        });
        // Owned from here on, so that a start that fails half way ends the process too.
        let mut server = Self { child, lines, connection: String::new(), key: String::new() };
        server.await_ready()?;
        Ok(server)
    }

    fn await_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
        let mut listening = false;
        while !listening || self.connection.is_empty() || self.key.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = match self.lines.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the server did not say how to connect within {START_SECONDS_MAX} s")
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the server ended: {}", self.child.wait()?),
            };
            listening |= line.starts_with("listening on ");
            if let Some(connection) = argument_of(&line, "cloudsync_network_init") {
                self.connection = connection.to_owned();
            }
            if let Some(key) = argument_of(&line, "cloudsync_network_set_apikey") {
                self.key = key.to_owned();
            }
        }
        Ok(())
    }

    /// Waits for a while, and says whether the server still runs.
    pub(crate) fn runs_for(&mut self, duration: Duration) -> bool {
        !matches!(self.lines.recv_timeout(duration), Err(RecvTimeoutError::Disconnected))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The text between the quotes of `function('...')` in a line.
fn argument_of<'t>(line: &'t str, function: &str) -> Option<&'t str> {
    let (_, rest) = line.split_once(function)?;
    let (argument, _) = rest.strip_prefix("('")?.split_once('\'')?;
    Some(argument)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_to_paste_are_understood() {
        let line = "  SELECT cloudsync_network_init('cloudsync://127.0.0.1:1/my_database');";
        assert_eq!(argument_of(line, "cloudsync_network_init"), Some("cloudsync://127.0.0.1:1/my_database"));
        assert_eq!(argument_of(line, "cloudsync_network_set_apikey"), None);
        assert_eq!(argument_of("cloudsync_network_init('half", "cloudsync_network_init"), None);
    }
}
