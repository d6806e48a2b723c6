//! TLS from PEM files: the certificate with its chain, and its key. They are read again when they change, and when the
//! process is told to; what cannot be used then is left, and the certificate of before stays.

use std::fs;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use super::idle::{Activity, IdleListener, IdleStream};
use crate::config::TlsFiles;
use crate::error::{Error, Result};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// The certificate of a server, as it was last read.
pub(super) struct Tls {
    files: TlsFiles,
    current: RwLock<Arc<ServerConfig>>,
    /// What the files looked like when they were read.
    seen: Mutex<Option<Look>>,
}

/// What tells that a file has changed: when it was written, and its size, for both files.
type Look = [(SystemTime, u64); 2];

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Error::Config`] with the file that cannot be used.
    pub(super) fn load(files: TlsFiles) -> Result<Self> {
        let seen = look(&files).ok();
        let current = RwLock::new(Arc::new(read(&files)?));
        Ok(Self { files, current, seen: Mutex::new(seen) })
    }

    /// Reads the files again if they changed, or anyway.
    fn refresh(&self, anyway: bool) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let found = look(&self.files).ok();
        if !anyway && (found.is_none() || found == *seen) {
            return;
        }
        *seen = found;
        match read(&self.files) {
            Ok(config) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                tracing::info!("the certificate was read again");
            }
            Err(error) => tracing::error!(error = error.to_line(), "the certificate of before is kept"),
        }
    }

    fn accept(&self, stream: IdleStream) -> Accept<IdleStream> {
        let config = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        TlsAcceptor::from(config).accept(stream)
    }

    /// Looks after the files for as long as the server runs.
    pub(super) async fn watch(self: Arc<Self>) {
        let mut told = Hangup::new();
        loop {
            let anyway = tokio::select! {
                () = told.wait() => true,
                () = tokio::time::sleep(LOOK) => false,
            };
            let tls = Arc::clone(&self);
            // A panic in it is in the log already.
            let _ = tokio::task::spawn_blocking(move || tls.refresh(anyway)).await;
        }
    }
}

/// The signal by which an administrator tells a server to read its files again.
struct Hangup {
    #[cfg(unix)]
    signal: Option<tokio::signal::unix::Signal>,
}

impl Hangup {
    #[cfg(unix)]
    fn new() -> Self {
        let signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup());
        if let Err(error) = &signal {
            tracing::warn!(%error, "SIGHUP cannot be waited for");
        }
        Self { signal: signal.ok() }
    }

    #[cfg(unix)]
    async fn wait(&mut self) {
        match &mut self.signal {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }

    #[cfg(not(unix))]
    const fn new() -> Self {
        Self {}
    }

    #[cfg(not(unix))]
    async fn wait(&mut self) {
        std::future::pending().await
    }
}

fn look(files: &TlsFiles) -> io::Result<Look> {
    let one = |path: &Path| -> io::Result<_> {
        let metadata = fs::metadata(path)?;
        Ok((metadata.modified()?, metadata.len()))
    };
    Ok([one(&files.cert)?, one(&files.key)?])
}

fn read(files: &TlsFiles) -> Result<ServerConfig> {
    let fail = |path: &Path, why: String| Error::Config(format!("{}: {why}", path.display()));
    let cert_error = |why: String| fail(&files.cert, why);
    let chain = CertificateDer::pem_file_iter(&files.cert).map_err(|error| cert_error(error.to_string()))?;
    let chain = chain.collect::<std::result::Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| cert_error(error.to_string()))?;
    if chain.is_empty() {
        return Err(cert_error("there is no certificate in this PEM file".to_owned()));
    }
    // The library's text does not repeat what is in the file.
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| fail(&files.key, error.to_string()))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = builder
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
    let mut config = config.map_err(|error| cert_error(format!("{error} (key: {})", files.key.display())))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts connections, with TLS or without.
pub(super) struct Door {
    inner: IdleListener,
    tls: Option<Arc<Tls>>,
}

impl Door {
    pub(super) const fn new(inner: IdleListener, tls: Option<Arc<Tls>>) -> Self {
        Self { inner, tls }
    }
}

impl Listener for Door {
    type Io = Stream;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = self.inner.accept().await;
        let activity = stream.activity();
        let way = match &self.tls {
            Some(tls) => Way::Greeting(Box::new(tls.accept(stream))),
            None => Way::Plain(stream),
        };
        (Stream { way, activity }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// A connection. Its handshake is made by whoever reads from it first, so that one that does not come to its end holds up
/// nobody else.
pub(super) struct Stream {
    way: Way,
    activity: Activity,
}

enum Way {
    Plain(IdleStream),
    Greeting(Box<Accept<IdleStream>>),
    Secure(Box<TlsStream<IdleStream>>),
    Failed,
}

impl Stream {
    /// The connection once it can be read and written.
    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Pin<&mut dyn Both>>> {
        if let Way::Greeting(accept) = &mut self.way {
            self.way = match ready!(Pin::new(accept.as_mut()).poll(context)) {
                Ok(stream) => Way::Secure(Box::new(stream)),
                Err(error) => {
                    tracing::debug!(%error, "a TLS handshake failed");
                    self.way = Way::Failed;
                    return Poll::Ready(Err(error));
                }
            };
        }
        Poll::Ready(match &mut self.way {
            Way::Plain(stream) => Ok(Pin::new(stream)),
            Way::Secure(stream) => Ok(Pin::new(stream.as_mut())),
            Way::Greeting(_) | Way::Failed => Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

/// What can be read and written.
trait Both: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Both for T {}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_open(context))?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(context))?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(context))?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.way {
            Way::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Way::Secure(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
            // Nothing was said yet that would have to be ended.
            Way::Greeting(_) | Way::Failed => Poll::Ready(Ok(())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(context))?.poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.way {
            Way::Plain(stream) => stream.is_write_vectored(),
            Way::Greeting(_) | Way::Secure(_) | Way::Failed => true,
        }
    }
}

impl Connected<IncomingStream<'_, Door>> for Activity {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        stream.io().activity.clone()
    }
}
