//! `cloudsync serve`: the server itself.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::net::TcpListener;
use tracing::Level;

use super::{Place, db, print_line};
use crate::auth::credential::Credential;
use crate::control::{Control, NewKey};
use crate::error::{Error, Result};
use crate::file_limit::FileLimit;
use crate::folder::{DatabaseName, Folder};
use crate::http::{self, Patience, Server, is_local, now_ms};
use crate::registry::{Registry, open_store};

/// Where a server listens unless told otherwise.
const ADDR_DEFAULT: &str = "127.0.0.1:8484";
/// What the key of `--dev` is called in lists.
const DEV_KEY_NAME: &str = "serve --dev";

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// For development: create this database and a readable key if missing, and print the SQL that joins
    #[arg(long, value_name = "DATABASE", env = "CLOUDSYNC_DEV")]
    dev: Option<String>,
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", env = "CLOUDSYNC_ADDR", default_value = ADDR_DEFAULT)]
    addr: String,
    /// Form of the log on standard error
    #[arg(long, value_name = "FORM", env = "CLOUDSYNC_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// How much is logged: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", env = "CLOUDSYNC_LOG", default_value = "info")]
    log: String,
    /// After how many milliseconds without any movement a connection is ended
    #[arg(long, value_name = "MS", env = "CLOUDSYNC_IDLE_MS", default_value_t = 60_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    idle_ms: u64,
    /// How many milliseconds the body of a request may take to arrive
    #[arg(long, value_name = "MS", env = "CLOUDSYNC_BODY_MS", default_value_t = 600_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(100..=86_400_000))]
    body_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// What a developer needs to join.
struct Dev {
    database: DatabaseName,
    key: Credential,
}

impl Serve {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        let dev = self.dev.as_deref().map(DatabaseName::new).transpose()?;
        start_log(&self.log, self.log_format)?;
        let folder = Folder::create(&place.data_dir)?;
        // Held until the process ends: the stores are closed before it.
        let _lock = folder.lock()?;
        let control = Control::open(&folder)?;
        let dev = dev.map(|database| prepare_dev(&folder, &control, database)).transpose()?;
        let registry = Registry::new(folder.clone(), Box::new(open_store));
        let file_limit = FileLimit::raise();
        if file_limit.is_short() {
            tracing::warn!("{file_limit}");
        }
        let server = Server::new(folder, control, registry, file_limit).with_patience(Patience {
            idle: Duration::from_millis(self.idle_ms),
            body: Duration::from_millis(self.body_ms),
        });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Error::Runtime)?;
        let served = runtime.block_on(async {
            let listen_error = |source| Error::Listen { address: self.addr.clone(), source };
            let listener = TcpListener::bind(&self.addr).await.map_err(listen_error)?;
            let address = listener.local_addr().map_err(listen_error)?;
            // Before the first line is out: who has read it may stop us.
            let stop = stop_signal().map_err(Error::Runtime)?;
            announce(place, address, dev.as_ref())?;
            http::serve(server, listener, stop).await;
            Ok(())
        });
        // Waits for the turns that stores have begun.
        drop(runtime);
        served
    }
}

fn start_log(level: &str, format: LogFormat) -> Result<()> {
    let level = log_level(level).ok_or_else(|| Error::LogLevel(level.to_owned()))?;
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).with_target(false);
    match format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

/// The level of that name. A filter of targets would take any word for one, and log nothing.
fn log_level(name: &str) -> Option<Level> {
    let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
    levels.into_iter().find(|level| level.as_str().eq_ignore_ascii_case(name))
}

/// Creates the database if missing, and finds the key that an earlier start left or makes one.
fn prepare_dev(folder: &Folder, control: &Control, database: DatabaseName) -> Result<Dev> {
    db::create(folder, control, &database)?;
    if let Some(key) = folder.read_dev_key()?.as_deref().and_then(Credential::parse)
        && control.key_principal(&key, Some(&database), now_ms())?.is_some()
    {
        return Ok(Dev { database, key });
    }
    let (_, key) = control.create_key(NewKey::for_all(DEV_KEY_NAME), now_ms())?;
    folder.write_dev_key(key.reveal())?;
    Ok(Dev { database, key })
}

/// Says where the server listens and how to join it.
fn announce(place: &Place, address: SocketAddr, dev: Option<&Dev>) -> Result<()> {
    if !is_local(&address) {
        eprintln!(
            "warning: keys and data travel in the clear to and from {address}: put a proxy with TLS before it, \
             or listen on {ADDR_DEFAULT}"
        );
    }
    let url = format!("http://{address}");
    let sql = dev.map(|dev| join_sql(address, dev)).unwrap_or_default();
    if place.json {
        let database = dev.map(|dev| dev.database.as_str());
        let key = dev.map(|dev| dev.key.reveal());
        return print_line(&json!({ "url": url, "database": database, "key": key, "sql": sql }).to_string());
    }
    print_line(&format!("listening on {url}"))?;
    sql.iter().try_for_each(|line| print_line(line))
}

/// The lines to paste into a SQLite shell.
fn join_sql(address: SocketAddr, dev: &Dev) -> [String; 4] {
    // A device cannot connect to "every address", but one on this machine to the loopback one.
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let address = SocketAddr::new(ip, address.port());
    let (database, insecure) = (&dev.database, if is_local(&address) { "" } else { "?insecure=1" });
    [
        ".load ./cloudsync".to_owned(),
        format!("SELECT cloudsync_network_init('cloudsync://{address}/{database}{insecure}');"),
        format!("SELECT cloudsync_network_set_apikey('{}');", dev.key.reveal()),
        "SELECT cloudsync_network_sync();".to_owned(),
    ]
}

/// Becomes ready at the first signal to stop. The second ends the process at once.
#[cfg(unix)]
fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        tracing::info!("stopping: requests that run are finished; another signal ends at once");
        tokio::spawn(async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            std::process::exit(1);
        });
    })
}

/// Becomes ready at the first Ctrl-C.
#[cfg(not(unix))]
fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    Ok(async {
        // Without the handler the system ends the process itself.
        let _ = tokio::signal::ctrl_c().await;
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::credential::Kind;

    #[test]
    fn a_level_is_one_of_five_words() {
        assert_eq!(log_level("info"), Some(Level::INFO));
        assert_eq!(log_level("WARN"), Some(Level::WARN));
        for name in ["", "loud", "info,hyper=debug", "3"] {
            assert_eq!(log_level(name), None, "{name}");
        }
    }

    #[test]
    fn the_lines_to_paste_fit_the_address() {
        let dev =
            Dev { database: DatabaseName::new("d").unwrap(), key: Credential::generate(Kind::Key).unwrap() };
        let connection = |address: &str| join_sql(address.parse().unwrap(), &dev)[1].clone();
        assert_eq!(connection("127.0.0.1:1"), "SELECT cloudsync_network_init('cloudsync://127.0.0.1:1/d');");
        assert_eq!(connection("0.0.0.0:1"), connection("127.0.0.1:1"));
        assert_eq!(connection("[::]:1"), "SELECT cloudsync_network_init('cloudsync://[::1]:1/d');");
        assert!(connection("10.0.0.1:1").ends_with("cloudsync://10.0.0.1:1/d?insecure=1');"));
    }
}
