//! `cloudsync config`: how a server of this folder is set, and by whom.

use clap::{ArgMatches, Args, Subcommand};
use serde_json::json;

use super::{Place, print_line};
use crate::config::{Config, ConfigFile, Effective, Settings};
use crate::error::Result;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print every setting with its value and where it is from: flag, environment, file or default
    Show(Show),
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    settings: Settings,
}

impl ConfigCommand {
    pub(super) fn run(self, place: &Place, matches: &ArgMatches) -> Result<()> {
        let Self::Show(Show { settings }) = self;
        let config = load(place, &settings, matches)?;
        if place.json {
            let shown = config.effective().iter().map(|setting| {
                let Effective { name, value, origin } = setting;
                json!({ "name": name, "value": value, "from": origin.to_string() })
            });
            return print_line(&serde_json::Value::from_iter(shown).to_string());
        }
        let lines: Vec<_> = config.effective().iter().map(line).collect();
        let width = lines.iter().map(|(setting, _)| setting.chars().count()).max().unwrap_or(0);
        lines.iter().try_for_each(|(setting, from)| print_line(&format!("{setting:width$}  # {from}")))
    }
}

/// The setting as a line of a file, and where it is from.
fn line(setting: &Effective) -> (String, String) {
    match &setting.value {
        Some(value) => (format!("{} = {}", setting.name, value), setting.origin.to_string()),
        None => (format!("# {} =", setting.name), "not set".to_owned()),
    }
}

/// The configuration of a server of the place.
pub(super) fn load(place: &Place, settings: &Settings, matches: &ArgMatches) -> Result<Config> {
    let file = match &place.config_file {
        Some(file) => Some(file.clone()),
        None => ConfigFile::of_folder(&place.data_dir)?,
    };
    Config::load(file.as_ref(), settings, matches)
}
