//! The driver of a sync, over a transport in memory.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod host;

use cloudsync::connection_string::{Address, ConnectionString};
use cloudsync::net::{NetError, Patience, Reply, Round, Status, Transport, sync};
use cloudsync::{Error, Result};
use cloudsync_protocol::client::{Goal, Retry};
use cloudsync_protocol::message::{Accepted, Answer, Reason, Refusal, Request, Turn};
use cloudsync_replica::{Environment, Replica};
use cloudsync_sqlite_ffi::captured_api;
use host::{memory, rows, show, walkthrough};
use rusqlite::Connection;
use std::cell::Cell;
use std::rc::Rc;

const BOTH: Goal = Goal { push: true, pull: true };

/// Time that stands still but for pauses.
#[derive(Default)]
struct Clockwork {
    paused_ms: Cell<u64>,
    drawn: Cell<u8>,
}

impl Environment for Clockwork {
    fn now_ms(&self) -> u64 {
        1_790_000_000_000 + self.paused_ms.get()
    }

    fn random(&self, buffer: &mut [u8]) {
        for byte in buffer {
            self.drawn.set(self.drawn.get().wrapping_add(29));
            *byte = self.drawn.get();
        }
    }

    fn pause(&self, pause_ms: u64) {
        self.paused_ms.set(self.paused_ms.get() + pause_ms);
    }
}

/// Answers requests by a script; the last line of it is repeated.
struct Script<F> {
    address: Address,
    requests: usize,
    reply: F,
}

impl<F: FnMut(usize, &Request<'_>) -> Reply> Transport for Script<F> {
    fn address(&self) -> &Address {
        &self.address
    }

    fn exchange(&mut self, request: &[u8], _: Patience<'_>) -> Reply {
        self.requests += 1;
        (self.reply)(self.requests, &Request::decode(request).unwrap())
    }
}

fn drive(
    db: &Connection,
    retry: Retry,
    reply: impl FnMut(usize, &Request<'_>) -> Reply,
) -> (Round, Result<()>, u64, usize) {
    let clockwork = Rc::new(Clockwork::default());
    // SAFETY: the connection is open, of the only library in the process, and outlives the replica.
    let connection =
        unsafe { cloudsync_sqlite_ffi::Connection::from_raw(db.handle().cast(), captured_api().unwrap()) };
    let mut replica =
        Replica::open(connection.unwrap(), Rc::clone(&clockwork) as Rc<dyn Environment>).unwrap();
    let address = ConnectionString::parse("cloudsync://localhost/my_database").unwrap().address;
    let mut script = Script { address, requests: 0, reply };
    let (round, outcome) = sync(&mut replica, &mut script, &*clockwork, BOTH, retry);
    (round, outcome, clockwork.paused_ms.get(), script.requests)
}

fn answer_to<'a>(request: &Request<'_>) -> Turn<'a> {
    let accepted = request.upload.as_ref().map(|upload| Accepted {
        round: upload.round,
        repeated: false,
        differs: false,
        committed: upload.is_final,
        quarantined: 0,
    });
    Turn {
        epoch: 7,
        nonce: 3,
        now: request.now,
        accepted,
        drained: true,
        cursor: 11,
        position: b"",
        rows_total: 0,
        verdicts: &[],
        checked: &[],
        payload: b"",
    }
}

fn turn(request: &Request<'_>, payload: &[u8]) -> Reply {
    Reply::Answered(Answer::Turn(Turn { payload, ..answer_to(request) }).encode())
}

fn refuse(reason: Reason, request: &Request<'_>, text: &str) -> Reply {
    let refusal =
        Refusal { reason, epoch: request.epoch, nonce: request.nonce, now: request.now, text: text.into() };
    Reply::Answered(Answer::Refusal(refusal).encode())
}

fn device() -> Connection {
    let db = walkthrough(memory());
    db.execute_batch("INSERT INTO my_data VALUES ('1', 'one', 'x'), ('2', 'two', 'y')").unwrap();
    db
}

fn payload_of(db: &Connection) -> Vec<u8> {
    db.query_row("SELECT cloudsync_payload_encode()", [], |row| row.get(0)).unwrap()
}

fn text(outcome: Result<()>) -> String {
    outcome.unwrap_err().to_string()
}

#[test]
fn one_request_sends_and_receives() {
    let (db, other) = (device(), walkthrough(memory()));
    other.execute_batch("INSERT INTO my_data VALUES ('3', 'three', 'z')").unwrap();
    let news = payload_of(&other);
    let (round, outcome, _, requests) = drive(&db, Retry::none(), |_, request| turn(request, &news));
    outcome.unwrap();
    assert_eq!((round.totals.rows_sent, round.totals.rows_received, round.totals.turns), (2, 1, 1));
    assert_eq!(requests, 1);
    assert!(round.bytes_sent > 100 && round.bytes_received > news.len() as u64);
    assert_eq!(show(&db, "SELECT count(*) FROM my_data"), "3");
    assert_eq!(show(&db, "SELECT cloudsync_network_has_unsent_changes()"), "0");
}

#[test]
fn every_failure_says_what_it_is_and_touches_nothing() {
    let status = |status, code: &str, message: &str| {
        let (code, message) = (code.to_owned(), message.to_owned());
        move |_: usize, _: &Request<'_>| {
            let (code, message) = (code.clone(), message.clone());
            Reply::Status(Status { status, code, message, retry_after_ms: 0, had_key: true })
        }
    };
    type Script = Box<dyn FnMut(usize, &Request<'_>) -> Reply>;
    let scripts: Vec<(Script, &str)> = vec![
        (
            Box::new(|_, _| Reply::Unreachable("Connection refused".into())),
            "cannot reach the server at localhost:8484: Connection refused",
        ),
        (
            Box::new(|_, _| Reply::Broken("it was gone".into())),
            "the connection to the server at localhost:8484 broke off: it was gone; sync again",
        ),
        (Box::new(|_, _| Reply::Foreign), "not a cloudsync server at localhost:8484"),
        (Box::new(|_, _| Reply::Answered(b"<html>".to_vec())), "not a cloudsync server at localhost:8484"),
        (Box::new(|_, _| Reply::Answered(Vec::new())), "not a cloudsync server at localhost:8484"),
        (
            Box::new(|_, _| Reply::Answered(vec![0xC5, 0x41, 9, 0])),
            "the server at localhost:8484 cannot sync with this library: protocol version 9 is spoken there",
        ),
        (Box::new(|_, _| Reply::Answered(vec![0xC5, 0x41, 1, 0, 1])), "damaged message"),
        (
            Box::new(status(401, "CLOUDSYNC_REFUSED_KEY", "")),
            "the server at localhost:8484 refused the key: call cloudsync_network_set_apikey with a valid one",
        ),
        (Box::new(status(404, "CLOUDSYNC_UNKNOWN_DATABASE", "")), "has no database \"my_database\""),
        (Box::new(status(503, "CLOUDSYNC_BUSY", "")), "the server at localhost:8484 is busy"),
        (Box::new(status(429, "", "")), "the server at localhost:8484 is busy"),
        (
            Box::new(status(500, "CLOUDSYNC_INTERNAL", "look at the log")),
            "the server at localhost:8484 answered HTTP 500: look at the log",
        ),
        (Box::new(status(502, "", "")), "the server at localhost:8484 answered HTTP 502"),
        (
            Box::new(|_, request| refuse(Reason::SchemaConflict, request, "table \"t\" column \"c\"")),
            "the tables here and on the server at localhost:8484 differ: table \"t\" column \"c\"",
        ),
        (Box::new(|_, request| refuse(Reason::Denied, request, "read only")), "denies it: read only"),
        (Box::new(|_, request| refuse(Reason::NeedSchema, request, "unknown")), "again and again: unknown"),
        (
            Box::new(|_, request| refuse(Reason::PrincipalChanged, request, "")),
            "go on with that user's token, or call cloudsync_network_logout() first",
        ),
    ];
    let db = device();
    let before = rows(&db);
    for (script, expected) in scripts {
        let (_, outcome, ..) = drive(&db, Retry::none(), script);
        let text = text(outcome);
        assert!(text.contains(expected), "{text}\n{expected}");
        assert_eq!(rows(&db), before);
        assert_eq!(show(&db, "SELECT cloudsync_network_has_unsent_changes()"), "1");
    }
    // And the next one completes.
    let (round, outcome, ..) = drive(&db, Retry::none(), |_, request| turn(request, b""));
    outcome.unwrap();
    assert_eq!(round.totals.rows_sent, 2);
}

#[test]
fn a_server_without_a_key_is_told_apart() {
    let reply = |_: usize, _: &Request<'_>| Reply::Status(Status { status: 401, ..Status::default() });
    let (_, outcome, ..) = drive(&device(), Retry::none(), reply);
    assert!(matches!(outcome.unwrap_err(), Error::Net(NetError::NoKey(_))));
}

#[test]
fn what_may_pass_is_tried_again_after_growing_pauses() {
    let db = device();
    let retry = Retry { attempts_max: 3, pause_ms: 100, awaits_news: true, ..Retry::none() };
    let (round, outcome, paused_ms, requests) = drive(&db, retry, |number, request| match number {
        1 => Reply::Unreachable("away".into()),
        2 => Reply::Answered(vec![0xC5, 0x41, 1, 0, 1]),
        _ => turn(request, b""),
    });
    outcome.unwrap();
    // The last attempt brought nothing and is repeated as well, after the whole of its pause.
    assert_eq!((round.totals.rows_sent, requests), (2, 4));
    assert!((400..=100 + 200 + 400).contains(&paused_ms), "{paused_ms}");
    let busy = |_: usize, _: &Request<'_>| {
        Reply::Status(Status {
            status: 503,
            code: "CLOUDSYNC_BUSY".into(),
            retry_after_ms: 5_000,
            ..Status::default()
        })
    };
    let (_, outcome, paused_ms, _) =
        drive(&db, Retry { attempts_max: 1, pause_ms: 1, ..Retry::none() }, busy);
    assert!(text(outcome).contains("is busy"));
    assert!((5_000..=7_500).contains(&paused_ms), "{paused_ms}");
    let patient = |_: usize, _: &Request<'_>| {
        Reply::Status(Status { status: 429, retry_after_ms: u64::MAX, ..Status::default() })
    };
    let (_, _, paused_ms, _) = drive(&db, Retry { attempts_max: 1, pause_ms: 1, ..Retry::none() }, patient);
    let most_ms = cloudsync::net::RETRY_AFTER_MS_MAX;
    assert!((most_ms..=most_ms * 3 / 2).contains(&paused_ms), "a server cannot hold a device for longer");
}

#[test]
fn the_total_time_ends_the_sync_and_the_next_one_goes_on() {
    let db = device();
    let hurried = Retry { attempts_max: 1_000, pause_ms: 1_000, total_ms: 5_000, ..Retry::none() };
    let (_, outcome, paused_ms, requests) = drive(&db, hurried, |_, _| Reply::Unreachable("away".into()));
    assert!(text(outcome).contains("cannot reach the server at localhost:8484: away"));
    assert!(paused_ms < 5_000 && requests > 2, "{paused_ms} {requests}");
    // A download that goes on and on, a second each turn.
    let (_, outcome, _, requests) = drive(&db, Retry { total_ms: 0, ..Retry::none() }, |number, request| {
        let turn = Turn { drained: false, cursor: 0, position: &[number as u8], ..answer_to(request) };
        Reply::Answered(Answer::Turn(turn).encode())
    });
    let text = text(outcome);
    assert!(
        text.contains("not complete after its whole time") && text.contains("network_total_ms"),
        "{text}"
    );
    assert_eq!(requests, 1);
    drive(&db, Retry::none(), |_, request| turn(request, b"")).1.unwrap();
    assert_eq!(show(&db, "SELECT cloudsync_network_has_unsent_changes()"), "0");
}

#[test]
fn a_redirect_is_told_with_its_place() {
    let (_, outcome, ..) = drive(&device(), Retry::none(), |_, _| Reply::Moved("https://portal/".into()));
    let text = text(outcome);
    assert!(
        text.contains("not a cloudsync server at localhost:8484: it redirects to https://portal/"),
        "{text}"
    );
}

#[test]
fn refusals_are_mended() {
    let db = device();
    let site = show(&db, "SELECT cloudsync_siteid()");
    let (round, outcome, _, requests) = drive(&db, Retry::none(), |number, request| match number {
        1 => refuse(Reason::NeedSchema, request, "unknown"),
        2 => {
            assert!(request.schema.is_some());
            refuse(Reason::Clone, request, "a copy")
        }
        _ => turn(request, b""),
    });
    outcome.unwrap();
    // The last one checks what a copy may have that the server does not.
    assert_eq!(requests, 4);
    assert_eq!(round.totals.rows_sent, 2);
    assert_ne!(show(&db, "SELECT cloudsync_siteid()"), site, "a copy takes a new id");
}

#[test]
fn damaged_payloads_are_refused_whole() {
    let (db, other) = (device(), walkthrough(memory()));
    other.execute_batch("INSERT INTO my_data VALUES ('3', 'three', 'z'), ('4', 'four', 'z')").unwrap();
    let news = payload_of(&other);
    let before = rows(&db);
    for at in 0..news.len() {
        let mut damaged = news.clone();
        damaged[at] ^= 0x55;
        let (_, outcome, ..) = drive(&db, Retry::none(), |_, request| turn(request, &damaged));
        assert!(outcome.is_err(), "byte {at}");
        assert_eq!(rows(&db), before);
    }
    drive(&db, Retry::none(), |_, request| turn(request, &news)).1.unwrap();
    assert_eq!(show(&db, "SELECT count(*) FROM my_data"), "4");
    assert_eq!(show(&db, "PRAGMA integrity_check"), "ok");
}

#[test]
fn the_host_can_interrupt_the_pauses() {
    let db = device();
    let handle = db.get_interrupt_handle();
    // The statement around the sync keeps the wish alive, as the SELECT of a function call does.
    let mut statement = db.prepare("SELECT id FROM my_data").unwrap();
    let mut open = statement.query([]).unwrap();
    assert!(open.next().unwrap().is_some());
    let retry = Retry { attempts_max: 1_000, pause_ms: 1_000, ..Retry::none() };
    let (_, outcome, _, requests) = drive(&db, retry, |number, _| {
        if number == 2 {
            handle.interrupt();
        }
        Reply::Unreachable("away".into())
    });
    let error = outcome.unwrap_err();
    assert!(matches!(error, Error::Net(NetError::Interrupted)), "{error}");
    assert_eq!(requests, 2);
}

/// In a library without the feature `net` as well.
#[test]
fn a_host_can_bring_its_own_network() {
    let db = device();
    let request = || -> Option<Vec<u8>> {
        db.query_row("SELECT cloudsync_session_request()", [], |row| row.get(0)).unwrap()
    };
    let answer = |status: u16, body: &[u8]| -> rusqlite::Result<Option<i64>> {
        db.query_row("SELECT cloudsync_session_answer(?1, ?2)", (status, body), |row| row.get(0))
    };
    assert_eq!(show(&db, "SELECT cloudsync_session_start()"), "NULL", "no server was named");
    let first = request().unwrap();
    assert!(answer(503, b"").unwrap().is_some());
    let Reply::Answered(refusal) = refuse(Reason::NeedSchema, &Request::decode(&first).unwrap(), "unknown")
    else {
        panic!()
    };
    request().unwrap();
    assert_eq!(answer(200, &refusal).unwrap(), Some(0));
    let second = request().unwrap();
    let second = Request::decode(&second).unwrap();
    assert!(second.schema.is_some());
    assert_eq!(second.upload.as_ref().unwrap().round, Request::decode(&first).unwrap().upload.unwrap().round);
    let Reply::Answered(taken) = turn(&second, b"") else { panic!() };
    assert_eq!(answer(200, &taken).unwrap(), None);
    assert_eq!(request(), None);
    assert_eq!(show(&db, "SELECT cloudsync_network_has_unsent_changes()"), "0");
    let error = answer(200, &taken).unwrap_err().to_string();
    assert!(error.contains("no request is on its way"), "{error}");
}
