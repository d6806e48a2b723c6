//! The configuration of a server: one file, the environment and the flags, in one struct.
//!
//! What a flag says holds; else a variable of the environment, else the file, else the default. The file is
//! `cloudsync.toml` in the data folder, or the one that `--config` or `CLOUDSYNC_CONFIG` names. Its keys are the names of
//! the flags with underscores. A key that is no setting is an error, so that a slip of the pen does not leave a limit off.

mod file;
mod network;
mod settings;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;
use toml::{Table, Value};
use tracing::Level;

pub use self::file::{ConfigFile, FILE_NAME};
pub use self::network::Network;
pub use self::settings::{ADDR_DEFAULT, LogFormat, Settings};
use crate::error::{Error, Result};

/// Who says how a setting is set; the later one holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody.
    Default,
    /// The file.
    File(PathBuf),
    /// A variable of the environment.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File(path) => write!(formatter, "{}", path.display()),
            Self::Environment(name) | Self::Flag(name) => formatter.write_str(name),
        }
    }
}

/// One setting as it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// Its name.
    pub name: String,
    /// Its value, if it has one.
    pub value: Option<Value>,
    /// Who says so.
    pub origin: Origin,
}

/// The certificate and key of a server that speaks TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM file with the certificate and its chain.
    pub cert: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// How much one caller may ask for. 0 stands for any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Requests a second.
    pub requests_per_s: u64,
    /// Listeners at one time.
    pub listeners: u64,
}

/// The configuration of a server, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where to listen.
    pub addr: String,
    /// With what certificate; `None` for plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Where metrics are told, if anywhere.
    pub metrics_addr: Option<String>,
    /// Whether metrics have databases apart.
    pub metrics_by_db: bool,
    /// How much is logged.
    pub log: Level,
    /// In what form.
    pub log_format: LogFormat,
    /// For how long nothing may move on a connection.
    pub idle: Duration,
    /// For how long a body may be on its way.
    pub body: Duration,
    /// How long requests that run may still take after a signal to stop.
    pub stop: Duration,
    /// Largest body.
    pub request_bytes: usize,
    /// What one API key may ask for.
    pub key: Shares,
    /// What one user may ask for.
    pub user: Shares,
    /// Refused keys and tokens a second that one address may try; 0 stands for any number.
    pub refusals_per_s: u64,
    /// Proxies that are believed when they say for whom they ask.
    pub trusted_proxies: Vec<Network>,
    effective: Vec<Effective>,
}

impl Config {
    /// The configuration that a server of this data folder has.
    ///
    /// # Errors
    /// [`Error::Config`] with the setting, what is wrong with it, and where it was set.
    pub fn load(file: Option<&ConfigFile>, flags: &Settings, matches: &ArgMatches) -> Result<Self> {
        let mut origins = BTreeMap::new();
        let mut merged = table(&Settings::defaults())?;
        if let Some(file) = file {
            for (name, value) in file.settings()? {
                origins.insert(name.clone(), Origin::File(file.path().to_owned()));
                merged.insert(name, value);
            }
        }
        for (name, value) in table(flags)? {
            let variable = format!("CLOUDSYNC_{}", name.to_uppercase());
            let origin = match matches.value_source(&name) {
                Some(ValueSource::EnvVariable) => Origin::Environment(variable),
                _ => Origin::Flag(format!("--{}", name.replace('_', "-"))),
            };
            origins.insert(name.clone(), origin);
            merged.insert(name, value);
        }
        let origin = |name: &str| origins.get(name).cloned().unwrap_or(Origin::Default);
        let effective = Settings::names().into_iter().map(|name| Effective {
            value: merged.get(&name).cloned(),
            origin: origin(&name),
            name,
        });
        let effective: Vec<_> = effective.collect();
        check_ranges(&effective)?;
        let settings = merged.try_into().map_err(|error| Error::Config(error.to_string()))?;
        resolve(settings, effective, &origin)
    }

    /// The configuration of a server for which nothing is set.
    ///
    /// # Errors
    /// None, unless the defaults themselves are wrong.
    pub fn of_defaults() -> Result<Self> {
        Self::load(None, &Settings::default(), &ArgMatches::default())
    }

    /// Every setting with its value and where it is from. None of them is a secret.
    #[must_use]
    pub fn effective(&self) -> &[Effective] {
        &self.effective
    }
}

/// The settings that are set.
fn table(settings: &Settings) -> Result<Table> {
    Table::try_from(settings).map_err(|error| {
        // TOML has no integers beyond those of an i64, and its error no name.
        let all = serde_json::to_value(settings).unwrap_or_default();
        let is_too_large =
            |value: &serde_json::Value| value.as_u64().is_some_and(|number| number > i64::MAX as u64);
        let large = all.as_object().into_iter().flatten().find(|(_, value)| is_too_large(value));
        Error::Config(match large {
            Some((name, value)) => format!("{name} = {value} is too large"),
            None => error.to_string(),
        })
    })
}

fn check_ranges(effective: &[Effective]) -> Result<()> {
    for (name, least, most) in settings::RANGES {
        let setting = effective.iter().find(|setting| setting.name == name);
        if let Some(Effective { value: Some(Value::Integer(number)), origin, .. }) = setting
            && !u64::try_from(*number).is_ok_and(|number| (least..=most).contains(&number))
        {
            return Err(Error::Config(format!(
                "{name} must be from {least} to {most}, not {number} ({origin})"
            )));
        }
    }
    Ok(())
}

fn resolve(settings: Settings, effective: Vec<Effective>, origin: &dyn Fn(&str) -> Origin) -> Result<Config> {
    let ms = |value: Option<u64>| Duration::from_millis(value.unwrap_or_default());
    let level = settings.log.unwrap_or_default();
    let log = log_level(&level).ok_or_else(|| {
        let origin = origin("log");
        Error::Config(format!("log must be error, warn, info, debug or trace, not {level:?} ({origin})"))
    })?;
    let tls = match (settings.tls_cert, settings.tls_key) {
        (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
        (None, None) => None,
        (Some(_), None) => return Err(Error::Config("tls_cert is set: set tls_key too".to_owned())),
        (None, Some(_)) => return Err(Error::Config("tls_key is set: set tls_cert too".to_owned())),
    };
    let shares = |requests: Option<u64>, listeners: Option<u64>| Shares {
        requests_per_s: requests.unwrap_or_default(),
        listeners: listeners.unwrap_or_default(),
    };
    let trusted_proxies = settings.trusted_proxies.unwrap_or_default();
    let trusted_proxies = Network::list(&trusted_proxies).map_err(|part| {
        let origin = origin("trusted_proxies");
        Error::Config(format!(
            "trusted_proxies must be addresses or networks as 10.0.0.0/8, with commas between, not {part:?} ({origin})"
        ))
    })?;
    Ok(Config {
        trusted_proxies,
        refusals_per_s: settings.refusals_per_s.unwrap_or_default(),
        addr: settings.addr.unwrap_or_default(),
        tls,
        metrics_addr: settings.metrics_addr,
        metrics_by_db: settings.metrics_by_db.unwrap_or_default(),
        log,
        log_format: settings.log_format.unwrap_or(LogFormat::Text),
        idle: ms(settings.idle_ms),
        body: ms(settings.body_ms),
        stop: ms(settings.stop_ms),
        request_bytes: usize::try_from(settings.request_bytes.unwrap_or_default()).unwrap_or(usize::MAX),
        key: shares(settings.key_requests_per_s, settings.key_listeners),
        user: shares(settings.user_requests_per_s, settings.user_listeners),
        effective,
    })
}

/// The level of that name. A filter of targets would take any word for one, and log nothing.
fn log_level(name: &str) -> Option<Level> {
    let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
    levels.into_iter().find(|level| level.as_str().eq_ignore_ascii_case(name))
}

/// Where the data folder is: what the flag or the environment says, else the file that `--config` names, else here.
///
/// # Errors
/// [`Error::Config`] when the file has something else than a path there.
pub fn data_dir(flag: Option<PathBuf>, file: Option<&ConfigFile>) -> Result<PathBuf> {
    match (flag, file) {
        (Some(path), _) => Ok(path),
        (None, Some(file)) => Ok(file.data_dir()?.unwrap_or_else(|| Path::new(DATA_DIR_DEFAULT).to_owned())),
        (None, None) => Ok(Path::new(DATA_DIR_DEFAULT).to_owned()),
    }
}

/// The data folder unless something else is said.
const DATA_DIR_DEFAULT: &str = "./cloudsync-data";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, Command, FromArgMatches as _};

    fn load(file: Option<&str>, flags: &[&str]) -> Result<Config> {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(FILE_NAME);
        let file = file.map(|text| {
            std::fs::write(&path, text).unwrap();
            ConfigFile::read(&path, false)
        });
        let file = file.transpose()?;
        let command = Settings::augment_args(Command::new("serve"));
        let matches = command.get_matches_from([&["serve"], flags].concat());
        let settings = Settings::from_arg_matches(&matches).unwrap();
        Config::load(file.as_ref(), &settings, &matches)
    }

    #[test]
    fn the_defaults_are_a_configuration() {
        assert_eq!(Config::of_defaults().unwrap(), load(None, &[]).unwrap());
    }

    fn message(file: &str) -> String {
        load(Some(file), &[]).unwrap_err().to_line()
    }

    #[test]
    fn flags_hold_before_the_file_and_the_file_before_the_default() {
        let config =
            load(Some("idle_ms = 7000\nbody_ms = 8000\nlog_format = \"json\""), &["--body-ms", "9000"]);
        let config = config.unwrap();
        assert_eq!((config.idle, config.body), (Duration::from_millis(7000), Duration::from_millis(9000)));
        assert_eq!((config.stop, config.log_format), (Duration::from_secs(30), LogFormat::Json));
        let origin = |name: &str| {
            let setting = config.effective().iter().find(|setting| setting.name == name).unwrap();
            setting.origin.to_string()
        };
        assert_eq!((origin("body_ms").as_str(), origin("stop_ms").as_str()), ("--body-ms", "default"));
        assert!(origin("idle_ms").ends_with(FILE_NAME));
    }

    #[test]
    fn a_number_that_no_file_could_hold_is_named() {
        let text = load(None, &["--request-bytes", "18446744073709551615"]).unwrap_err().to_line();
        assert!(text.contains("request_bytes = 18446744073709551615 is too large"), "{text}");
    }

    #[test]
    fn an_unknown_key_is_an_error_with_the_nearest_name() {
        let text = message("idel_ms = 5");
        assert!(text.contains("idel_ms") && text.contains("did you mean idle_ms?"), "{text}");
        assert!(!message("xyzzy = 5").contains("did you mean"), "{}", message("xyzzy = 5"));
        assert!(message("[limits]\nidle_ms = 5").contains("limits"));
    }

    #[test]
    fn values_are_checked_wherever_they_come_from() {
        assert!(message("idle_ms = 5").contains("idle_ms must be from 100 to 3600000, not 5"));
        assert!(message("idle_ms = -5").contains("idle_ms"));
        assert!(message("idle_ms = \"long\"").contains("idle_ms"));
        assert!(message("log = \"loud\"").contains("trace, not \"loud\""));
        assert!(message("tls_cert = \"a.pem\"").contains("set tls_key too"));
        assert!(message("log_format = \"xml\"").contains("log_format"));
        assert!(message("trusted_proxies = \"::1, proxy\"").contains("not \"proxy\""));
        assert!(message("\naddr = ").contains("cloudsync.toml: line 2: "), "{}", message("\naddr = "));
        let error = load(None, &["--stop-ms", "1"]).unwrap_err().to_line();
        assert!(error.contains("not 1 (--stop-ms)"), "{error}");
    }

    #[test]
    fn files_are_meant_from_the_folder_of_the_file_that_names_them() {
        let config = load(Some("tls_cert = \"c.pem\"\ntls_key = \"/abs/k.pem\""), &[]).unwrap();
        let tls = config.tls.unwrap();
        assert!(tls.cert.is_absolute() && tls.cert.ends_with("c.pem"), "{tls:?}");
        assert_eq!(tls.key, Path::new("/abs/k.pem"));
    }

    #[test]
    fn a_level_is_one_of_five_words() {
        assert_eq!(log_level("info"), Some(Level::INFO));
        assert_eq!(log_level("WARN"), Some(Level::WARN));
        for name in ["", "loud", "info,hyper=debug", "3"] {
            assert_eq!(log_level(name), None, "{name}");
        }
    }
}
