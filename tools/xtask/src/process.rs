//! Running other programs.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs a command to its end; its output goes to the terminal as it comes.
///
/// # Errors
/// The command cannot be started, or does not exit with 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let text = display(command);
    println!("$ {text}");
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot run {text}"))?;
    require_success(&text, status)
}

/// Runs a command to its end; each line of its standard output is printed and handed to `read_line`.
///
/// # Errors
/// The command cannot be started. Its exit status is the caller's to judge.
pub(crate) fn run_lines(command: &mut Command, mut read_line: impl FnMut(&str)) -> Result<ExitStatus> {
    let text = display(command);
    println!("$ {text}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {text}"))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.with_context(|| format!("cannot read what {text} prints"))?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            read_line(&line);
        }
    }
    child.wait().with_context(|| format!("cannot wait for {text}"))
}

/// Runs a command to its end and gives its standard output; errors go to the terminal.
///
/// # Errors
/// The command cannot be started, does not exit with 0, or prints something other than UTF-8.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let text = display(command);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {text}"))?;
    require_success(&text, output.status)?;
    String::from_utf8(output.stdout).with_context(|| format!("{text} printed something other than UTF-8"))
}

/// Whether a command can be started and exits with 0; prints nothing.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The full path of a program on `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A command as one would type it, with the variables that it sets.
pub(crate) fn display(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(name, value)| {
        Some(format!("{}={}", name.to_string_lossy(), quote(&value?.to_string_lossy())))
    });
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| quote(&word.to_string_lossy()));
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

/// A word as a POSIX shell takes it.
pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn require_success(text: &str, status: ExitStatus) -> Result<()> {
    if status.success() { Ok(()) } else { bail!("{text} failed: {status}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_a_shell_takes_it() {
        let mut command = Command::new("sqlite3");
        command.args(["my app.db", "SELECT 'x'", ""]).env("A", "b c").env_remove("D");
        assert_eq!(display(&command), r"A='b c' sqlite3 'my app.db' 'SELECT '\''x'\''' ''");
    }
}
