//! `cloudsync serve`: the server itself.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::{ArgMatches, Args};
use serde_json::json;
use tokio::net::TcpListener;

use super::{Place, config, db, print_line};
use crate::auth::credential::Credential;
use crate::config::{ADDR_DEFAULT, Config, LogFormat, Settings};
use crate::control::{Control, NewKey};
use crate::error::{Error, Result};
use crate::file_limit::FileLimit;
use crate::folder::{DatabaseName, Folder};
use crate::http::{self, Server, is_local, now_ms};
use crate::metrics::METRICS;
use crate::registry::{Registry, open_store};

/// What the key of `--dev` is called in lists.
const DEV_KEY_NAME: &str = "serve --dev";

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// For development: create this database and a readable key if missing, and print the SQL that joins
    #[arg(long, value_name = "DATABASE", env = "CLOUDSYNC_DEV")]
    dev: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

/// What a developer needs to join.
struct Dev {
    database: DatabaseName,
    key: Credential,
}

impl Serve {
    pub(super) fn run(self, place: &Place, matches: &ArgMatches) -> Result<()> {
        let dev = self.dev.as_deref().map(DatabaseName::new).transpose()?;
        let config = config::load(place, &self.settings, matches)?;
        start_log(&config);
        METRICS.set_by_db(config.metrics_by_db);
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
        let server = Server::new(folder, control, registry, file_limit, &config)?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Error::Runtime)?;
        let served = runtime.block_on(async {
            let (listener, address) = listen(&config.addr, "--addr").await?;
            let metrics = match &config.metrics_addr {
                Some(address) => Some(listen(address, "--metrics-addr").await?),
                None => None,
            };
            // Before the first line is out: who has read it may stop us.
            let stop = stop_signal().map_err(Error::Runtime)?;
            let told =
                Told { address, is_tls: config.tls.is_some(), metrics: metrics.as_ref().map(|it| it.1) };
            told.announce(place, dev.as_ref())?;
            http::serve(server, listener, metrics.map(|it| it.0), stop).await;
            Ok(())
        });
        // Waits for the turns that stores have begun, and closes the stores: the last connection to a file puts what is
        // in its WAL in its place. A disk that hangs must not keep the process for ever.
        runtime.shutdown_timeout(config.stop);
        if served.is_ok() {
            tracing::info!("stopped");
        }
        served
    }
}

fn start_log(config: &Config) {
    let log = tracing_subscriber::fmt().with_max_level(config.log).with_writer(io::stderr).with_target(false);
    match config.log_format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
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

/// Takes an address; port 0 becomes a real one.
async fn listen(address: &str, option: &'static str) -> Result<(TcpListener, SocketAddr)> {
    let fail = |source| Error::Listen { address: address.to_owned(), source, option };
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    Ok((listener, bound))
}

/// Where the server can be reached.
struct Told {
    address: SocketAddr,
    is_tls: bool,
    metrics: Option<SocketAddr>,
}

impl Told {
    /// Says where the server listens and how to join it.
    fn announce(&self, place: &Place, dev: Option<&Dev>) -> Result<()> {
        let Self { address, is_tls, metrics } = *self;
        if !is_local(&address) && !is_tls {
            eprintln!(
                "warning: keys and data travel in the clear to and from {address}: set tls_cert and tls_key, put a proxy \
             with TLS before it, or listen on {ADDR_DEFAULT}"
            );
        }
        let url = format!("{}://{address}", if is_tls { "https" } else { "http" });
        let sql = dev.map(|dev| join_sql(address, is_tls, dev)).unwrap_or_default();
        if place.json {
            let database = dev.map(|dev| dev.database.as_str());
            let key = dev.map(|dev| dev.key.reveal());
            return print_line(&json!({ "url": url, "metrics": metrics.map(|it| format!("http://{it}/metrics")), "database": database, "key": key, "sql": sql }).to_string());
        }
        print_line(&format!("listening on {url}"))?;
        if let Some(metrics) = metrics {
            print_line(&format!("metrics at http://{metrics}/metrics"))?;
        }
        sql.iter().try_for_each(|line| print_line(line))
    }
}

/// The lines to paste into a SQLite shell.
fn join_sql(address: SocketAddr, is_tls: bool, dev: &Dev) -> [String; 4] {
    // A device cannot connect to "every address", but one on this machine to the loopback one.
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let address = SocketAddr::new(ip, address.port());
    let (database, insecure) = (&dev.database, if is_tls || is_local(&address) { "" } else { "?insecure=1" });
    let scheme = if is_tls { "https" } else { "cloudsync" };
    [
        ".load ./cloudsync".to_owned(),
        format!("SELECT cloudsync_network_init('{scheme}://{address}/{database}{insecure}');"),
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
    fn the_lines_to_paste_fit_the_address() {
        let dev =
            Dev { database: DatabaseName::new("d").unwrap(), key: Credential::generate(Kind::Key).unwrap() };
        let connection = |address: &str| join_sql(address.parse().unwrap(), false, &dev)[1].clone();
        assert_eq!(connection("127.0.0.1:1"), "SELECT cloudsync_network_init('cloudsync://127.0.0.1:1/d');");
        assert_eq!(connection("0.0.0.0:1"), connection("127.0.0.1:1"));
        assert_eq!(connection("[::]:1"), "SELECT cloudsync_network_init('cloudsync://[::1]:1/d');");
        assert!(connection("10.0.0.1:1").ends_with("cloudsync://10.0.0.1:1/d?insecure=1');"));
    }
}
