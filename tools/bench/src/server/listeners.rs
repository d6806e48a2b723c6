//! Many who only listen for events, in processes of their own.

use super::Served;
use super::app::now_ns;
use super::child::{Child, hear_all, next_order, report};
use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::ops::Range;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;
use tokio::time::timeout;

/// The kind of child.
pub(super) const KIND: &str = "listeners";
/// Processes that listen.
const CROWDS: usize = 2;
/// Files that a process needs beside its listeners.
const FILES_BESIDE: u64 = 200;
/// Longest time that an event may take.
const EVENT_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
struct Task {
    address: String,
    key: String,
    listeners: Range<usize>,
}

/// What all listeners of a process do next.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Order {
    /// Each waits for one event.
    Event,
}

/// What they heard.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Heard {
    /// When each of them heard the event.
    pub(super) at_ns: Vec<u64>,
    /// Connections that have ended.
    pub(super) lost: usize,
}

/// Says how to have files for so many listeners.
pub(super) fn require_files(count: usize) -> Result<()> {
    // A server keeps a quarter of its files for requests.
    let wanted = count as u64 / 3 * 4 + FILES_BESIDE;
    let may = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    if may < wanted {
        bail!(
            "{count} listeners need {wanted} open files, and this shell may have {may}: raise it with ulimit -Hn"
        );
    }
    Ok(())
}

/// Starts the processes, and waits until all listen.
pub(super) fn start(server: &Served, count: usize) -> Result<Vec<Child>> {
    let crowd = |crowd| {
        let listeners = count * crowd / CROWDS..count * (crowd + 1) / CROWDS;
        let task = Task { address: server.address.clone(), key: server.key.clone(), listeners };
        Child::start(KIND, &task)
    };
    let mut crowds = (0..CROWDS).map(crowd).collect::<Result<Vec<_>>>()?;
    hear_all::<Heard>(&mut crowds)?;
    Ok(crowds)
}

/// What a listener tells its process.
enum News {
    Event(u64),
    Lost,
}

/// What the process does.
pub(super) fn main(task: &str) -> Result<()> {
    let task: Task = serde_json::from_str(task)?;
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, listen(&task))
}

async fn listen(task: &Task) -> Result<()> {
    let (told, mut news) = unbounded_channel();
    for number in task.listeners.clone() {
        let stream = open(task, number).await.with_context(|| format!("listener {number}"))?;
        tokio::task::spawn_local(follow(stream, told.clone()));
    }
    report(&Heard { at_ns: Vec::new(), lost: 0 })?;
    // Orders come by a thread that waits for them.
    let (ordering, mut orders) = unbounded_channel();
    std::thread::spawn(move || {
        while let Ok(Some(order)) = next_order::<Order>() {
            if ordering.send(order).is_err() {
                return;
            }
        }
    });
    while let Some(Order::Event) = orders.recv().await {
        report(&gather(&mut news, task.listeners.len()).await?)?;
    }
    Ok(())
}

async fn gather(news: &mut UnboundedReceiver<News>, count: usize) -> Result<Heard> {
    let mut heard = Heard { at_ns: Vec::with_capacity(count), lost: 0 };
    while heard.at_ns.len() + heard.lost < count {
        let next = timeout(EVENT_MAX, news.recv()).await;
        match next.with_context(|| format!("{} of {count} heard of an event", heard.at_ns.len()))? {
            Some(News::Event(at_ns)) => heard.at_ns.push(at_ns),
            Some(News::Lost) => heard.lost += 1,
            None => bail!("nobody listens any more"),
        }
    }
    Ok(heard)
}

/// A connection on which the first sign of life has come.
async fn open(task: &Task, number: usize) -> Result<TcpStream> {
    let stream = TcpStream::connect(&task.address).await?;
    // No device has these ids: what others upload concerns all of them.
    let request = format!(
        "GET /v1/databases/d0/events?site={number:032x} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        task.key
    );
    let mut sent = 0;
    while sent < request.len() {
        stream.writable().await?;
        match stream.try_write(&request.as_bytes()[sent..]) {
            Ok(bytes) => sent += bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut text = Vec::new();
    while !text.ends_with(b":\n\n\r\n") {
        let part = read(&stream).await?;
        if part.is_empty() || text.len() > 4096 {
            bail!("the server answered {}", String::from_utf8_lossy(&text));
        }
        text.extend(part);
    }
    if !text.starts_with(b"HTTP/1.1 200 ") {
        bail!("the server answered {}", String::from_utf8_lossy(&text));
    }
    Ok(stream)
}

/// Tells of each event until the connection ends.
async fn follow(stream: TcpStream, told: UnboundedSender<News>) {
    let mut text = Vec::new();
    loop {
        let part = match read(&stream).await {
            Ok(part) if !part.is_empty() => part,
            // Nobody is there to be told any more when the process ends.
            _ => return drop(told.send(News::Lost)),
        };
        let at_ns = now_ns();
        text.extend(part);
        // An event ends with an empty line, a heartbeat is a comment.
        while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
            let piece: Vec<u8> = text.drain(..end + 2).collect();
            if piece.windows(10).any(|word| word == b"event: new") && told.send(News::Event(at_ns)).is_err() {
                return;
            }
        }
    }
}

async fn read(stream: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut buffer = [0; 512];
    loop {
        stream.readable().await?;
        match stream.try_read(&mut buffer) {
            Ok(bytes) => return Ok(buffer[..bytes].to_vec()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
