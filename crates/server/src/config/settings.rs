//! What can be set: each setting is a flag, a variable of the environment and a key of the file, all from this one struct.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, ValueEnum};
use cloudsync_protocol::limits::MESSAGE_BYTES_MAX;
use serde::{Deserialize, Serialize};

/// Where a server listens unless told otherwise.
pub const ADDR_DEFAULT: &str = "127.0.0.1:8484";

/// The settings of one source, each absent unless the source names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Address and port to listen on; port 0 takes a free one (default: 127.0.0.1:8484)
    #[arg(long, value_name = "ADDR", env = "CLOUDSYNC_ADDR")]
    pub addr: Option<String>,
    /// PEM file with the certificate and its chain: serves HTTPS; read again when it changes, and at SIGHUP
    #[arg(long, value_name = "FILE", env = "CLOUDSYNC_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's private key
    #[arg(long, value_name = "FILE", env = "CLOUDSYNC_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Another address at which GET /metrics answers without a key, for Prometheus; without it there is none
    #[arg(long, value_name = "ADDR", env = "CLOUDSYNC_METRICS_ADDR")]
    pub metrics_addr: Option<String>,
    /// Tell metrics of turns apart by database (default: false)
    #[arg(long, value_name = "BOOL", env = "CLOUDSYNC_METRICS_BY_DB", num_args = 0..=1)]
    #[arg(default_missing_value = "true")]
    pub metrics_by_db: Option<bool>,
    /// How much is logged: error, warn, info, debug or trace (default: info)
    #[arg(long, value_name = "LEVEL", env = "CLOUDSYNC_LOG")]
    pub log: Option<String>,
    /// Form of the log on standard error (default: text)
    #[arg(long, value_name = "FORM", env = "CLOUDSYNC_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// After how many milliseconds without any movement a connection is ended (default: 60000)
    #[arg(long, value_name = "MS", env = "CLOUDSYNC_IDLE_MS")]
    pub idle_ms: Option<u64>,
    /// How many milliseconds the body of a request may take to arrive (default: 600000)
    #[arg(long, value_name = "MS", env = "CLOUDSYNC_BODY_MS")]
    pub body_ms: Option<u64>,
    /// How many milliseconds requests that run may still take when the server is told to stop (default: 30000)
    #[arg(long, value_name = "MS", env = "CLOUDSYNC_STOP_MS")]
    pub stop_ms: Option<u64>,
    /// Largest body of a request, in bytes (default: 71303168)
    #[arg(long, value_name = "BYTES", env = "CLOUDSYNC_REQUEST_BYTES")]
    pub request_bytes: Option<u64>,
    /// Requests a second of one API key, after a reserve of ten seconds' worth; 0 for any number (default: 0)
    #[arg(long, value_name = "N", env = "CLOUDSYNC_KEY_REQUESTS_PER_S")]
    pub key_requests_per_s: Option<u64>,
    /// Requests a second of one user, with all devices and tokens together, as for a key (default: 50)
    #[arg(long, value_name = "N", env = "CLOUDSYNC_USER_REQUESTS_PER_S")]
    pub user_requests_per_s: Option<u64>,
    /// Devices of one API key that may listen to events; 0 for any number (default: 0)
    #[arg(long, value_name = "N", env = "CLOUDSYNC_KEY_LISTENERS")]
    pub key_listeners: Option<u64>,
    /// Devices of one user that may listen to events; 0 for any number (default: 100)
    #[arg(long, value_name = "N", env = "CLOUDSYNC_USER_LISTENERS")]
    pub user_listeners: Option<u64>,
    /// Refused keys and tokens a second of one address, as for a key; 0 for any number (default: 0)
    #[arg(long, value_name = "N", env = "CLOUDSYNC_REFUSALS_PER_S")]
    pub refusals_per_s: Option<u64>,
    /// Proxies whose X-Forwarded-For is believed: addresses or networks as 10.0.0.0/8, with commas between
    #[arg(long, value_name = "LIST", env = "CLOUDSYNC_TRUSTED_PROXIES")]
    pub trusted_proxies: Option<String>,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// Settings that are numbers, with the least and the most that they may be.
pub(super) const RANGES: [(&str, u64, u64); 9] = [
    ("idle_ms", 100, 3_600_000),
    ("body_ms", 100, 86_400_000),
    ("stop_ms", 100, 600_000),
    ("request_bytes", 4 << 10, MESSAGE_BYTES_MAX as u64),
    ("key_requests_per_s", 0, 1_000_000),
    ("user_requests_per_s", 0, 1_000_000),
    ("key_listeners", 0, 1_000_000),
    ("user_listeners", 0, 1_000_000),
    ("refusals_per_s", 0, 1_000_000),
];

/// Settings that name files: in a file they are meant from its folder on.
pub(super) const PATHS: [&str; 2] = ["tls_cert", "tls_key"];

impl Settings {
    /// What holds where no source says anything.
    pub(super) fn defaults() -> Self {
        Self {
            addr: Some(ADDR_DEFAULT.to_owned()),
            tls_cert: None,
            tls_key: None,
            metrics_addr: None,
            metrics_by_db: Some(false),
            log: Some("info".to_owned()),
            log_format: Some(LogFormat::Text),
            idle_ms: Some(60_000),
            body_ms: Some(600_000),
            stop_ms: Some(30_000),
            request_bytes: Some(MESSAGE_BYTES_MAX as u64),
            key_requests_per_s: Some(0),
            user_requests_per_s: Some(50),
            key_listeners: Some(0),
            user_listeners: Some(100),
            refusals_per_s: Some(0),
            trusted_proxies: None,
        }
    }

    /// The names of all settings, in the order in which they are shown.
    #[must_use]
    pub fn names() -> Vec<String> {
        let command = Alone::command();
        let names = command.get_arguments().map(|argument| argument.get_id().to_string());
        names.filter(|name| name != "help").collect()
    }
}

/// A command line of settings alone, of which their names are taken.
#[derive(clap::Parser)]
struct Alone {
    #[command(flatten)]
    _settings: Settings,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_tells_each_default_and_every_number_has_a_range() {
        let defaults = toml::Table::try_from(Settings::defaults()).unwrap();
        let command = Alone::command();
        for (name, value) in &defaults {
            let argument = command.get_arguments().find(|argument| argument.get_id() == name).unwrap();
            let help = argument.get_help().unwrap().to_string();
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            assert!(help.ends_with(&format!("(default: {value})")), "{name}: {help}");
            let variable = format!("CLOUDSYNC_{}", name.to_uppercase());
            assert_eq!(argument.get_env().unwrap().to_str(), Some(&*variable));
        }
        let numbers = defaults.iter().filter(|(_, value)| value.is_integer()).map(|(name, _)| name.as_str());
        let mut ranges: Vec<_> = RANGES.iter().map(|(name, ..)| *name).collect();
        ranges.sort_unstable();
        assert_eq!(numbers.collect::<Vec<_>>(), ranges);
        assert!(PATHS.iter().all(|path| Settings::names().iter().any(|name| name == path)));
    }
}
