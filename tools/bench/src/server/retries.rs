//! Devices that lose their server all at one time: they must come back apart, and all of them must come back.
//!
//! While the server is away its port is a door that answers "busy" and notes when somebody knocks.

use super::child::{hear_all, order_all};
use super::figure::{Figures, Limit, Unit};
use super::fleet::{Order, Tally};
use super::load::{Plan, start_fleets, sum};
use super::served::Served;
use super::{Bench, app::now_ns};
use anyhow::{Context, Result, bail};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Most of all repeated requests that may come within [`WINDOW_NS`], in percent. Devices that keep step would bring as
/// many as there are, again and again: a third or a quarter of all.
const BUSIEST_PERCENT_MAX: f64 = 15.0;
const WINDOW_NS: u64 = 100_000_000;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 4_096;
const BUSY: &str = "{\"error\":{\"code\":\"CLOUDSYNC_BUSY\",\"message\":\"away\"}}";

pub(super) fn run(bench: &Bench<'_>, figures: &mut Figures) -> Result<()> {
    let devices = bench.extent.pick([10, 200, 1_000, 1_000]);
    let away_s = bench.extent.pick([1, 4, 4, 10]);
    let plan = Plan { devices, databases: 1, rows: 1, whole_rows: true, pull: false, warm_up: 1, rounds: 1 };
    let mut server = Served::start(bench.server, bench.custody, 1)?;
    // Each has a thread of its own, so that all of them can wait at one time.
    let mut fleets = start_fleets(&server, plan, devices)?;
    let mut tally = sum(hear_all(&mut fleets)?);
    tally.add(sum(order_all(&mut fleets, &Order::Rounds(plan.warm_up))?));
    server.stop();
    let door = Door::open(&server.address)?;
    fleets.iter_mut().try_for_each(|fleet| fleet.order(&Order::Rounds(plan.rounds)))?;
    thread::sleep(Duration::from_secs(away_s));
    let knocks = door.close();
    server.restart()?;
    let after = sum(hear_all::<Tally>(&mut fleets)?);
    let retries = after.retries;
    tally.add(after);
    let errors: u64 = tally.errors.values().sum();
    tally.errors.iter().for_each(|(error, count)| eprintln!("  {count} times: {error}"));
    if knocks.len() <= devices {
        bail!("{} requests came to the door of a server that was away", knocks.len());
    }
    let set_up = format!("{devices} devices whose server was away for {away_s} s");
    let busiest = busiest(&knocks[devices..]) as f64 / (knocks.len() - devices) as f64 * 100.0;
    figures.add("errors", &set_up, (errors as f64, Unit::Count), bench.judged(Limit::Max(0.0)));
    figures.add("retries", &set_up, (retries as f64, Unit::Count), None);
    let limit = bench.judged(Limit::Max(BUSIEST_PERCENT_MAX));
    figures.add("retries in the busiest 100 ms", set_up, (busiest, Unit::Share), limit);
    Ok(())
}

/// Most of these times that lie within one window; they are in order.
fn busiest(knocks: &[u64]) -> usize {
    let within = |from: usize| knocks[from..].iter().take_while(|at| *at - knocks[from] < WINDOW_NS).count();
    (0..knocks.len()).map(within).max().unwrap_or(0)
}

/// Stands in the place of a server that is away.
struct Door {
    knocks: Arc<Mutex<Vec<u64>>>,
    closing: Arc<AtomicBool>,
    address: String,
    thread: thread::JoinHandle<()>,
}

impl Door {
    fn open(address: &str) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        // Called once more, it sets the length of the queue: one that overflows would delay whoever knocks.
        rustix::net::listen(&listener, BACKLOG)?;
        let (knocks, closing) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (noted, ends) = (Arc::clone(&knocks), Arc::clone(&closing));
        let thread = thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                noted.lock().unwrap_or_else(PoisonError::into_inner).push(now_ns());
                // Whoever goes away before the answer comes again.
                thread::spawn(move || drop(answer(stream)));
            }
        });
        Ok(Self { knocks, closing, address: address.to_owned(), thread })
    }

    /// When somebody knocked.
    fn close(self) -> Vec<u64> {
        self.closing.store(true, Ordering::Relaxed);
        // The thread waits for one more.
        drop(TcpStream::connect(&self.address));
        // A panic of it is not to be expected, and what it noted is there.
        drop(self.thread.join());
        std::mem::take(&mut self.knocks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Reads a request and answers that nobody has time.
fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line)? > 2 {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncloudsync-protocol: 1\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        BUSY.len()
    );
    reader.get_mut().write_all((head + BUSY).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_keep_step_are_found() {
        let apart: Vec<u64> = (0..100).map(|number| number * 50_000_000).collect();
        assert_eq!(busiest(&apart), 2);
        let in_step: Vec<u64> = (0..100).map(|number| number / 25 * 1_000_000_000).collect();
        assert_eq!(busiest(&in_step), 25);
        assert_eq!(busiest(&[]), 0);
    }

    #[test]
    fn a_door_counts_and_says_that_nobody_has_time() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let door = Door::open(&free).unwrap();
        let mut stream = TcpStream::connect(&free).unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nxx").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 503 ") && text.ends_with(BUSY), "{text}");
        assert_eq!(door.close().len(), 1);
    }
}
