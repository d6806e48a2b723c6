//! Connections that end when nothing moves on them: a caller who sends a header byte by byte, stops in the middle of
//! a body or never reads his answer must not hold memory and file handles for ever.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep};

use crate::file_limit::FileLimit;

/// How long nothing may move on a connection on which the server is not working.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(60);
/// How long nothing is accepted when it failed, by want of files for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Accepts connections that end when they are idle for too long.
pub(super) struct IdleListener {
    inner: TcpListener,
    idle_max: Duration,
    file_limit: FileLimit,
}

impl IdleListener {
    pub(super) fn new(inner: TcpListener, idle_max: Duration, file_limit: FileLimit) -> Self {
        Self { inner, idle_max, file_limit }
    }
}

impl Listener for IdleListener {
    type Io = IdleStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = loop {
            match self.inner.accept().await {
                Ok(accepted) => break accepted,
                // It went away while it waited.
                Err(error) if is_callers_fault(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "no connection can be accepted: {}", self.file_limit);
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        };
        // An answer is written at one go; waiting for more to send with it only delays it.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        (IdleStream::new(stream, self.idle_max), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

fn is_callers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionRefused | ConnectionAborted | ConnectionReset)
}

/// Whether the server works for the caller at the other end of a connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Activity(Arc<AtomicUsize>);

/// Work for a caller. While it lasts, silence is no fault of his.
pub(super) struct Busy(Activity);

impl Activity {
    pub(super) fn busy(&self) -> Busy {
        self.0.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    fn is_busy(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connected<IncomingStream<'_, IdleListener>> for Activity {
    fn connect_info(stream: IncomingStream<'_, IdleListener>) -> Self {
        stream.io().activity.clone()
    }
}

/// A connection that fails when it is idle for too long.
pub(super) struct IdleStream {
    inner: TcpStream,
    activity: Activity,
    idle_max: Duration,
    timer: Pin<Box<Sleep>>,
}

impl IdleStream {
    fn new(inner: TcpStream, idle_max: Duration) -> Self {
        Self { inner, activity: Activity::default(), idle_max, timer: Box::pin(sleep(idle_max)) }
    }

    fn rewind(&mut self) {
        self.timer.as_mut().reset(Instant::now() + self.idle_max);
    }

    /// Takes what an operation on the connection gave: progress winds the timer up again, waiting may end in an error.
    fn watch<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.rewind();
            return polled;
        }
        loop {
            ready!(self.timer.as_mut().poll(context));
            if !self.activity.is_busy() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.rewind();
        }
    }
}

impl AsyncRead for IdleStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.watch(context, polled)
    }
}

impl AsyncWrite for IdleStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.watch(context, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.watch(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    async fn read(stream: &mut IdleStream) -> io::Result<usize> {
        let mut bytes = [0; 16];
        let mut buffer = ReadBuf::new(&mut bytes);
        poll_fn(|context| Pin::new(&mut *stream).poll_read(context, &mut buffer)).await?;
        Ok(buffer.filled().len())
    }

    #[tokio::test]
    async fn silence_ends_a_connection_unless_the_server_works() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut listener = IdleListener::new(listener, Duration::from_millis(20), FileLimit::raise());
        let peer = TcpStream::connect(address).await.unwrap();
        let (mut stream, _) = Listener::accept(&mut listener).await;
        peer.writable().await.unwrap();
        peer.try_write(b"hello").unwrap();
        assert_eq!(read(&mut stream).await.unwrap(), 5);
        let busy = stream.activity.clone().busy();
        let silent = tokio::time::timeout(Duration::from_millis(200), read(&mut stream)).await;
        assert!(silent.is_err(), "a caller who waits for the server's work is not idle");
        drop(busy);
        assert_eq!(read(&mut stream).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
