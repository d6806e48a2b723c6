//! Processes of this program that play devices, and how they talk with the one that measures: a JSON text a line, orders
//! on standard input and reports on standard output. A child ends when its standard input does.

use super::custody::Charge;
use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The name of the hidden command, which wants a kind of child and its task.
pub(crate) const COMMAND: &str = "server-child";
/// Longest time that any order may take.
const PATIENCE: Duration = Duration::from_secs(900);

/// A child, as its parent has it.
pub(super) struct Child {
    charge: Charge,
    kind: &'static str,
    lines: Receiver<String>,
}

impl Child {
    pub(super) fn start(kind: &'static str, task: &impl Serialize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([COMMAND, kind, &serde_json::to_string(task)?]);
        let mut charge = Charge::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let lines = read_lines(&mut charge)?;
        Ok(Self { charge, kind, lines })
    }

    pub(super) fn id(&self) -> u32 {
        self.charge.id()
    }

    /// Gives an order.
    pub(super) fn order(&mut self, order: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(order)? + "\n";
        let stdin = self.charge.process().stdin.as_mut().context("a child has no standard input")?;
        stdin.write_all(line.as_bytes()).with_context(|| format!("the {} has ended", self.kind))
    }

    /// Waits for the next report.
    pub(super) fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let line = next_line(&self.lines, PATIENCE).with_context(|| format!("the {}", self.kind))?;
        serde_json::from_str(&line).with_context(|| format!("the {} said {line}", self.kind))
    }
}

/// The lines that a process prints, read by a thread so that waiting for them can end.
pub(super) fn read_lines(charge: &mut Charge) -> Result<Receiver<String>> {
    let stdout = charge.process().stdout.take().context("a process has no standard output")?;
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // Read to the end even if nobody wants more: a full pipe would stop the process.
            let _ = sender.send(line);
        }
    });
    Ok(lines)
}

/// The next line, or an error when it does not come.
pub(super) fn next_line(lines: &Receiver<String>, patience: Duration) -> Result<String> {
    lines.recv_timeout(patience).map_err(|error| match error {
        RecvTimeoutError::Timeout => anyhow!("was silent for {} s", patience.as_secs()),
        RecvTimeoutError::Disconnected => anyhow!("ended before its work was done"),
    })
}

/// Gives all children the same order and waits for their reports.
pub(super) fn order_all<T: DeserializeOwned>(
    children: &mut [Child],
    order: &impl Serialize,
) -> Result<Vec<T>> {
    children.iter_mut().try_for_each(|child| child.order(order))?;
    hear_all(children)
}

/// Waits for a report of each child.
pub(super) fn hear_all<T: DeserializeOwned>(children: &mut [Child]) -> Result<Vec<T>> {
    children.iter_mut().map(Child::hear).collect()
}

/// In a child: reports.
pub(super) fn report(report: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(report)? + "\n";
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())?;
    Ok(out.flush()?)
}

/// In a child: the next order; `None` when there are no more.
pub(super) fn next_order<T: DeserializeOwned>() -> Result<Option<T>> {
    let mut line = String::new();
    match std::io::stdin().lock().read_line(&mut line)? {
        0 => Ok(None),
        _ => Ok(Some(serde_json::from_str(&line)?)),
    }
}

/// Tries something again and again until it gives a value.
pub(super) fn until<T>(
    what: &str,
    pause: Duration,
    patience: Duration,
    mut act: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(value) = act()? {
            return Ok(value);
        }
        if begun.elapsed() > patience {
            bail!("{what} did not come about within {} s", patience.as_secs());
        }
        thread::sleep(pause);
    }
}
