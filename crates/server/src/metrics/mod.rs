//! What a server counts, for Prometheus.
//!
//! One fixed set for the process: whatever counts adds to [`METRICS`], and [`METRICS`] as text is the answer of
//! `GET /metrics`. Labels are bounded, so that no caller makes the set grow: what does not fit is counted under `other`.
//! Names of tables and, where wished, of databases are the only names in it; there are no values, keys, users or sites.

mod kinds;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cloudsync_protocol::message::{Answer, Reason, Request};
use cloudsync_replica::Denial;

use self::kinds::{Counter, Family, Histogram};
use crate::folder::DatabaseName;
use crate::store::StoreError;

/// Bounds of times that are usually short, in seconds.
const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Bounds of how far a device may be behind, in seconds: up to a month.
const LAGS: &[f64] = &[1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0];
/// Different sets of labels of one metric.
const LABELS_MAX: usize = 500;

/// The counters of this process.
pub static METRICS: Metrics = Metrics::new();

/// What is counted.
pub struct Metrics {
    by_db: AtomicBool,
    requests: Family<2>,
    turns: Family<2>,
    turn_s: Histogram,
    lag_s: Histogram,
    received_bytes: Family<1>,
    sent_bytes: Family<1>,
    denials: Family<2>,
    queue_wait_s: Histogram,
    apply_s: Histogram,
    check_s: Histogram,
    /// Rows that range checks of devices looked at.
    pub check_rows: Counter,
    /// Range checks that were put off because another one ran.
    pub checks_put_off: Counter,
    /// Rows that uploads changed on the server.
    pub apply_rows: Counter,
    /// Rows that went to devices.
    pub pull_rows: Counter,
    /// Times that all rows of some tables were looked at anew to find out what a device may see.
    pub recomputations: Counter,
}

/// What is looked up when metrics are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Gauges {
    /// Devices that listen.
    pub listeners: u64,
    /// Databases whose store is open.
    pub open_databases: u64,
}

impl Metrics {
    const fn new() -> Self {
        Self {
            by_db: AtomicBool::new(false),
            requests: Family::new(LABELS_MAX),
            turns: Family::new(LABELS_MAX),
            turn_s: Histogram::new(SECONDS),
            lag_s: Histogram::new(LAGS),
            received_bytes: Family::new(LABELS_MAX),
            sent_bytes: Family::new(LABELS_MAX),
            denials: Family::new(LABELS_MAX),
            queue_wait_s: Histogram::new(SECONDS),
            apply_s: Histogram::new(SECONDS),
            check_s: Histogram::new(SECONDS),
            check_rows: Counter::new(),
            checks_put_off: Counter::new(),
            apply_rows: Counter::new(),
            pull_rows: Counter::new(),
            recomputations: Counter::new(),
        }
    }

    /// Tells databases apart from now on, or no more.
    pub fn set_by_db(&self, by_db: bool) {
        self.by_db.store(by_db, Ordering::Relaxed);
    }

    /// Counts an answer to a request, by the route as it is defined and not as it was asked.
    pub fn request(&self, route: &str, status: u16) {
        self.requests.add([route, &status.to_string()], 1);
    }

    /// Counts a turn and what it moved. `None` for `answer` and an error: the store failed.
    pub fn turn(
        &self,
        database: &DatabaseName,
        request: &Request<'_>,
        bytes: usize,
        answer: Result<&[u8], &StoreError>,
        elapsed: Duration,
    ) {
        let db = if self.by_db.load(Ordering::Relaxed) { database.as_str() } else { "" };
        self.received_bytes.add([db], bytes as u64);
        self.turn_s.observe(elapsed.as_secs_f64());
        let outcome = match answer {
            Err(StoreError::Busy(_)) => "busy",
            Err(StoreError::Failed(_)) => "failed",
            Ok(answer) => {
                self.sent_bytes.add([db], answer.len() as u64);
                self.answer(request, answer)
            }
        };
        self.turns.add([db, outcome], 1);
    }

    /// Looks at an answer, and gives the name of what it is.
    fn answer(&self, request: &Request<'_>, answer: &[u8]) -> &'static str {
        let turn = match Answer::decode(answer) {
            Ok(Answer::Turn(turn)) => turn,
            Ok(Answer::Refusal(refusal)) => return reason(refusal.reason),
            Err(_) => return "failed",
        };
        // Versions are milliseconds: what a device did not have yet is as old as its cursor is behind the newest one.
        if turn.drained && request.pull && request.cursor > 1 {
            self.lag_s.observe(turn.cursor.saturating_sub(request.cursor) as f64 / 1000.0);
        }
        "taken"
    }

    /// Counts rows of uploads that were refused, by table and reason.
    pub fn denied(&self, denied: &BTreeMap<(String, Denial), u64>) {
        for ((table, denial), count) in denied {
            self.denials.add([table, denial.name()], *count);
        }
    }

    /// Counts how long a turn waited for the writer.
    pub fn queue_wait(&self, waited: Duration) {
        self.queue_wait_s.observe(waited.as_secs_f64());
    }

    /// Counts how long a transaction of the writer took, its flush to disk included.
    pub fn applied(&self, elapsed: Duration) {
        self.apply_s.observe(elapsed.as_secs_f64());
    }

    /// Counts how long a range check took, and the rows that it looked at.
    pub fn checked(&self, elapsed: Duration, rows: u64) {
        self.check_s.observe(elapsed.as_secs_f64());
        self.check_rows.add(rows);
    }

    /// Everything as Prometheus reads it.
    #[must_use]
    pub fn to_text(&self, gauges: Gauges) -> String {
        let mut out = String::new();
        let db = ["db"];
        self.requests.write(
            &mut out,
            "requests_total",
            "Answers to requests, by route and status.",
            ["route", "status"],
        );
        self.turns.write(&mut out, "turns_total", "Turns, by what became of them.", ["db", "outcome"]);
        self.turn_s.write(&mut out, "turn_seconds", "Time to take a turn, once its body is there.");
        self.lag_s.write(
            &mut out,
            "cursor_lag_seconds",
            "Age of what a device did not have yet when it asked.",
        );
        self.received_bytes.write(&mut out, "received_bytes_total", "Bytes of the bodies of turns.", db);
        self.sent_bytes.write(&mut out, "sent_bytes_total", "Bytes of the answers to turns.", db);
        self.denials.write(
            &mut out,
            "denials_total",
            "Rows of uploads that were refused, by table and reason.",
            ["table", "reason"],
        );
        self.queue_wait_s.write(
            &mut out,
            "write_queue_wait_seconds",
            "Time that turns waited for the writer.",
        );
        self.apply_s.write(&mut out, "apply_seconds", "Time of the writer's transactions, to the disk.");
        self.check_s.write(&mut out, "check_seconds", "Time of range checks of devices.");
        self.check_rows.write(&mut out, "check_rows_total", "Rows that range checks looked at.");
        self.checks_put_off.write(
            &mut out,
            "checks_put_off_total",
            "Range checks that were put off because another one ran.",
        );
        self.apply_rows.write(&mut out, "apply_rows_total", "Rows that uploads changed here.");
        self.pull_rows.write(&mut out, "pull_rows_total", "Rows that went to devices.");
        self.recomputations.write(
            &mut out,
            "visibility_recomputations_total",
            "Times that all rows of tables were looked at anew for a device.",
        );
        for (name, help, value) in [
            ("listeners", "Devices that listen for news.", gauges.listeners),
            ("open_databases", "Databases whose store is open.", gauges.open_databases),
        ] {
            kinds::head(&mut out, name, help, "gauge");
            // Writing to a text does not fail.
            let _ = writeln!(out, "cloudsync_{name} {value}");
        }
        kinds::head(&mut out, "build_info", "The version that runs.", "gauge");
        let _ = writeln!(out, "cloudsync_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
        out
    }
}

const fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::NeedSchema => "need_schema",
        Reason::SchemaConflict => "schema_conflict",
        Reason::ClockSkew => "clock_skew",
        Reason::Clone => "clone",
        Reason::Restored => "restored",
        Reason::LostChunks => "lost_chunks",
        Reason::BadPayload => "bad_payload",
        Reason::Denied => "denied",
        Reason::PrincipalChanged => "principal_changed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloudsync_core::id::SiteId;
    use cloudsync_protocol::range::Check;

    #[test]
    fn the_text_is_as_prometheus_reads_it() {
        let metrics = Metrics::new();
        metrics.request("/v1/databases/{db}/sync", 200);
        metrics.request("/v1/databases/{db}/sync", 200);
        metrics.queue_wait(Duration::from_millis(3));
        metrics.apply_rows.add(7);
        let text = metrics.to_text(Gauges { listeners: 3, open_databases: 1 });
        for line in [
            "cloudsync_requests_total{route=\"/v1/databases/{db}/sync\",status=\"200\"} 2",
            "cloudsync_write_queue_wait_seconds_bucket{le=\"0.0025\"} 0",
            "cloudsync_write_queue_wait_seconds_bucket{le=\"0.005\"} 1",
            "cloudsync_write_queue_wait_seconds_bucket{le=\"+Inf\"} 1",
            "cloudsync_write_queue_wait_seconds_count 1",
            "cloudsync_apply_rows_total 7",
            "cloudsync_listeners 3",
            "# TYPE cloudsync_turn_seconds histogram",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with("cloudsync_") && value.parse::<f64>().is_ok(), "{line}");
        }
    }

    #[test]
    fn databases_are_told_apart_only_if_wished() {
        let metrics = Metrics::new();
        let request = Request {
            site: SiteId([7; 16]),
            epoch: 0,
            nonce: 0,
            now: 0,
            cursor: 0,
            position: &[],
            pull: true,
            echo: false,
            fingerprint: 0,
            schema: None,
            upload: None,
            check: Check::default(),
        };
        let database = DatabaseName::new("private_name").unwrap();
        let failed = StoreError::Failed(String::new());
        let turn = || metrics.turn(&database, &request, 9, Err(&failed), Duration::ZERO);
        turn();
        let gauges = Gauges { listeners: 0, open_databases: 0 };
        let text = metrics.to_text(gauges);
        assert!(text.contains("cloudsync_turns_total{outcome=\"failed\"} 1"), "{text}");
        assert!(
            text.contains("cloudsync_received_bytes_total 9") && !text.contains("private_name"),
            "{text}"
        );
        metrics.set_by_db(true);
        turn();
        let text = metrics.to_text(gauges);
        assert!(text.contains("cloudsync_turns_total{db=\"private_name\",outcome=\"failed\"} 1"), "{text}");
    }
}
