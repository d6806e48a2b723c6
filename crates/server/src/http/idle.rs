//! Connections that end when nothing moves on them: a caller who sends a header byte by byte, stops in the middle of
//! a body or never reads his answer must not hold memory and file handles for ever.
//!
//! What counts as moving: the first byte of a head, so that the whole of it must come in time; any byte of a body, since
//! the request bounds that; and of an answer what empties the buffer, or a fair amount.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep};

use crate::file_limit::FileLimit;

/// An answer moves when so many bytes of it are taken within that time: a device gives up on anything slower.
const ANSWER_BYTES_MIN: usize = 64 * 1024;
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
        (IdleStream::new(stream, address.ip(), self.idle_max), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

fn is_callers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionRefused | ConnectionAborted | ConnectionReset)
}

/// What the server does for the caller at the other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Activity(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    /// Who is at the other end.
    peer: IpAddr,
    /// Turns on which the server works.
    busy: AtomicUsize,
    /// Requests whose head has come and whose answer is not made yet.
    in_hand: AtomicUsize,
    /// Heads that have come until now.
    heads: AtomicUsize,
}

/// Work for a caller. While it lasts, silence is no fault of his.
pub(super) struct Busy(Activity);

/// A request whose body may be arriving.
pub(super) struct InHand(Activity);

impl Activity {
    /// Nothing is done yet for a caller at this address.
    pub(super) fn new(peer: IpAddr) -> Self {
        let zero = || AtomicUsize::new(0);
        Self(Arc::new(Counts { peer, busy: zero(), in_hand: zero(), heads: zero() }))
    }

    /// The address at the other end of the connection.
    pub(super) fn peer(&self) -> IpAddr {
        self.0.peer
    }

    pub(super) fn busy(&self) -> Busy {
        self.0.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// Notes that the head of a request has come.
    pub(super) fn request(&self) -> InHand {
        self.0.heads.fetch_add(1, Ordering::Relaxed);
        self.0.in_hand.fetch_add(1, Ordering::Relaxed);
        InHand(self.clone())
    }

    fn is_busy(&self) -> bool {
        self.0.busy.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.0.in_hand.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that fails when it is idle for too long.
pub(super) struct IdleStream {
    inner: TcpStream,
    activity: Activity,
    idle_max: Duration,
    timer: Pin<Box<Sleep>>,
    /// How many heads had come when the first byte of the next one did.
    head_begun: Option<usize>,
    /// Bytes of an answer that were taken since the timer was wound up.
    taken: usize,
}

impl IdleStream {
    fn new(inner: TcpStream, peer: IpAddr, idle_max: Duration) -> Self {
        let (activity, timer) = (Activity::new(peer), Box::pin(sleep(idle_max)));
        Self { inner, activity, idle_max, timer, head_begun: None, taken: 0 }
    }

    /// What the server does for its caller.
    pub(super) fn activity(&self) -> Activity {
        self.activity.clone()
    }

    fn rewind(&mut self) {
        self.taken = 0;
        self.timer.as_mut().reset(Instant::now() + self.idle_max);
    }

    /// Bytes have come.
    fn note_read(&mut self) {
        let Counts { in_hand, heads, .. } = &*self.activity.0;
        if in_hand.load(Ordering::Relaxed) > 0 {
            self.rewind();
            return;
        }
        let heads = heads.load(Ordering::Relaxed);
        if self.head_begun != Some(heads) {
            self.head_begun = Some(heads);
            self.rewind();
        }
    }

    /// Bytes of what was offered were taken.
    fn note_written(&mut self, bytes: usize, offered: usize) {
        self.taken += bytes;
        if bytes == offered || self.taken >= ANSWER_BYTES_MIN {
            self.rewind();
        }
    }

    /// Waiting on the connection may end in an error.
    fn poll_idle<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        loop {
            ready!(self.timer.as_mut().poll(context));
            if !self.activity.is_busy() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.rewind();
        }
    }

    fn watch_write(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<usize>>,
        offered: usize,
    ) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Ready(Ok(bytes)) => self.note_written(bytes, offered),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => return self.poll_idle(context),
        }
        polled
    }
}

impl AsyncRead for IdleStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        match polled {
            Poll::Ready(Ok(())) => self.note_read(),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => return self.poll_idle(context),
        }
        polled
    }
}

impl AsyncWrite for IdleStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.watch_write(context, polled, bytes.len())
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
        let offered = slices.iter().map(|slice| slice.len()).sum();
        let polled = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.watch_write(context, polled, offered)
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

    const IDLE: Duration = Duration::from_millis(50);

    async fn pair() -> (TcpStream, IdleStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut listener = IdleListener::new(listener, IDLE, FileLimit::raise());
        let peer = TcpStream::connect(address).await.unwrap();
        peer.set_nodelay(true).unwrap();
        let (stream, _) = Listener::accept(&mut listener).await;
        (peer, stream)
    }

    async fn send(peer: &TcpStream, bytes: &[u8]) {
        peer.writable().await.unwrap();
        peer.try_write(bytes).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_connection_unless_the_server_works() {
        let (peer, mut stream) = pair().await;
        send(&peer, b"hello").await;
        assert_eq!(read(&mut stream).await.unwrap(), 5);
        let busy = stream.activity.clone().busy();
        let silent = tokio::time::timeout(4 * IDLE, read(&mut stream)).await;
        assert!(silent.is_err(), "a caller who waits for the server's work is not idle");
        drop(busy);
        assert_eq!(read(&mut stream).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    /// Sends a byte again and again, more often than the connection may be idle; gives for how long that was read.
    async fn trickle(mut stream: IdleStream, peer: TcpStream, until: Duration) -> Duration {
        let begun = Instant::now();
        let sending = async {
            let mut pulse = tokio::time::interval(IDLE / 10);
            while begun.elapsed() < until {
                pulse.tick().await;
                peer.writable().await.unwrap();
                if peer.try_write(b"x").is_err() {
                    break;
                }
            }
        };
        let reading = async {
            while begun.elapsed() < until && read(&mut stream).await.is_ok() {}
            begun.elapsed()
        };
        tokio::join!(sending, reading).1
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_ends_in_time_and_a_body_is_the_requests_affair() {
        let (peer, stream) = pair().await;
        let lasted = trickle(stream, peer, 20 * IDLE).await;
        assert!(lasted >= IDLE && lasted < 10 * IDLE, "{lasted:?}");
        let (peer, stream) = pair().await;
        let in_hand = stream.activity.request();
        assert!(trickle(stream, peer, 6 * IDLE).await >= 6 * IDLE);
        drop(in_hand);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_taken_byte_by_byte_ends_in_time() {
        let (peer, mut stream) = pair().await;
        let begun = Instant::now();
        let taking = async {
            let mut pulse = tokio::time::interval(IDLE / 10);
            while begun.elapsed() < 40 * IDLE {
                pulse.tick().await;
                let _ = peer.try_read(&mut [0; 16]);
            }
        };
        let writing = async {
            let bytes = [0; 65536];
            while poll_fn(|context| Pin::new(&mut stream).poll_write(context, &bytes)).await.is_ok() {}
            begun.elapsed()
        };
        tokio::select! {
            lasted = writing => assert!(lasted >= IDLE),
            () = taking => panic!("the connection did not end"),
        }
    }
}
