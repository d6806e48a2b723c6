//! The command line. Every command works on the data folder, whether or not a server runs there.

mod backup;
mod config;
mod db;
mod doctor;
mod issuer;
mod key;
mod lifetime;
mod policy;
mod serve;
mod sql;
mod table;
mod token;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use serde::Serialize;

use crate::config::{self as configuration, ConfigFile};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::folder::{DatabaseName, Folder};

/// SQLite that syncs itself: the server and its commands.
#[derive(Debug, Parser)]
#[command(name = "cloudsync", version, max_term_width = 100)]
struct Cli {
    /// Folder with the databases, the keys and the lock (default: ./cloudsync-data)
    #[arg(long, value_name = "DIR", env = "CLOUDSYNC_DATA_DIR", global = true)]
    data_dir: Option<PathBuf>,
    /// File of settings, which may name the data folder (default: cloudsync.toml in the data folder, if it is there)
    #[arg(long, value_name = "FILE", env = "CLOUDSYNC_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// Print data as JSON, one value a line, and errors as an object on standard error
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::Serve),
    /// Create, list, back up, restore and delete databases, and run SQL on them
    #[command(subcommand)]
    Db(db::Db),
    /// Create, list and revoke API keys
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Mint, list and revoke tokens, each for one user of a database
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Name the issuers whose signed tokens (JWT) a database trusts
    #[command(subcommand)]
    Issuer(issuer::IssuerCommand),
    /// Say who may see and write which rows
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Choose which tables of a database sync
    #[command(subcommand)]
    Table(table::Table),
    /// Copy and restore the register of databases, keys, tokens and issuers
    #[command(subcommand)]
    Control(backup::ControlCommand),
    /// Say what is wrong with a data folder or a database file, and what to do; the exit code tells
    Doctor(doctor::Doctor),
    /// Show how a server is set
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

/// Runs the command that the process was started with, and prints an error as one line, or as JSON where that is asked for.
#[must_use]
pub fn run() -> ExitCode {
    let parsed = Cli::command().try_get_matches().and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        Ok((cli, matches))
    });
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return unparsed(&error),
    };
    let json = cli.json;
    match act(cli, &matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if json {
                eprintln!("{}", error_json(error.code(), &error.to_line()));
            } else {
                eprintln!("error: {}", error.to_line());
            }
            ExitCode::FAILURE
        }
    }
}

/// A command line that is none, or a wish for help.
fn unparsed(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || !std::env::args_os().any(|argument| argument == "--json") {
        error.exit();
    }
    let text = error.render().to_string();
    let text = text.lines().next().unwrap_or_default();
    eprintln!("{}", error_json("CLOUDSYNC_USAGE", text.strip_prefix("error: ").unwrap_or(text)));
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// As the server's answers say it.
fn error_json(code: &str, message: &str) -> serde_json::Value {
    serde_json::json!({ "error": { "code": code, "message": message } })
}

/// Every command, as the words that call it.
#[must_use]
pub fn commands() -> Vec<Vec<String>> {
    fn within(command: &clap::Command, words: &[String], all: &mut Vec<Vec<String>>) {
        for inner in command.get_subcommands() {
            let words = [words, &[inner.get_name().to_owned()]].concat();
            if inner.has_subcommands() {
                within(inner, &words, all);
            } else {
                all.push(words);
            }
        }
    }
    let mut all = Vec::new();
    within(&Cli::command(), &[], &mut all);
    all
}

fn act(cli: Cli, matches: &ArgMatches) -> Result<()> {
    let Cli { data_dir, config, json, command } = cli;
    let config_file = config.map(|path| ConfigFile::read(&path, true)).transpose()?;
    let data_dir = configuration::data_dir(data_dir, config_file.as_ref())?;
    let place = Place { data_dir, config_file, json };
    match command {
        Command::Serve(serve) => serve.run(&place, innermost(matches)),
        Command::Control(control) => control.run(&place),
        Command::Doctor(doctor) => doctor.run(&place),
        Command::Config(config) => config.run(&place, innermost(matches)),
        Command::Db(db) => db.run(&place),
        Command::Key(key) => key.run(&place),
        Command::Token(token) => token.run(&place),
        Command::Issuer(issuer) => issuer.run(&place),
        Command::Policy(policy) => policy.run(&place),
        Command::Table(table) => table.run(&place),
    }
}

/// What was parsed for the last of the commands within commands.
fn innermost(matches: &ArgMatches) -> &ArgMatches {
    matches.subcommand().map_or(matches, |(_, matches)| innermost(matches))
}

/// Where a command works and how it prints.
struct Place {
    data_dir: PathBuf,
    /// The file that the command line names.
    config_file: Option<ConfigFile>,
    json: bool,
}

impl Place {
    /// The folder and its control database, created when missing.
    fn create(&self) -> Result<(Folder, Control)> {
        let folder = Folder::create(&self.data_dir)?;
        let control = Control::open(&folder)?;
        Ok((folder, control))
    }

    /// The folder and its control database, which must exist.
    fn open(&self) -> Result<(Folder, Control)> {
        let folder = Folder::open(&self.data_dir)?;
        let control = Control::open(&folder)?;
        Ok((folder, control))
    }

    /// The file of a database that must exist.
    fn database(&self, name: &str) -> Result<PathBuf> {
        let name = DatabaseName::new(name)?;
        let (folder, control) = self.open()?;
        if control.has_database(&name)? {
            Ok(folder.database_path(&name))
        } else {
            Err(Error::NoDatabase(name.to_string()))
        }
    }

    /// Prints one thing, as JSON or as the text that `text` makes.
    fn print<T: Serialize>(&self, thing: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        let line = if self.json {
            serde_json::to_string(thing).map_err(|error| Error::Output(error.into()))?
        } else {
            text(thing)
        };
        print_line(&line)
    }

    /// Prints a list, as one JSON array or as aligned columns below their titles.
    fn print_list<T: Serialize, const N: usize>(
        &self,
        things: &[T],
        titles: [&str; N],
        cells: impl Fn(&T) -> [String; N],
    ) -> Result<()> {
        self.print(&things, |things| {
            let mut rows = vec![titles.map(str::to_owned)];
            rows.extend(things.iter().map(cells));
            align(&rows)
        })
    }
}

fn align<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Prints a line; a reader who has gone away wants no more, and that is no error.
fn print_line(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::Output(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lists_are_aligned() {
        let rows = [["NAME".to_owned(), "AGE".to_owned()], ["a".to_owned(), String::new()]];
        assert_eq!(align(&rows), "NAME  AGE\na");
    }
}
