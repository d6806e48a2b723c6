//! The real program, started and asked as a user would, and the smallest HTTP client that can do that.
#![allow(dead_code, reason = "each suite uses its part")]

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

pub(crate) const MEDIA_TYPE: &str = "application/vnd.cloudsync";
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// A data folder for one test.
pub(crate) struct Place {
    _temp: TempDir,
    pub(crate) data: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    /// In memory where the system has a folder for that: its times are the program's own.
    pub(crate) fn in_memory() -> Self {
        Self::at(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    fn at(temp: TempDir) -> Self {
        let data = temp.path().join("data");
        Self { _temp: temp, data }
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        command(&self.data, arguments)
    }

    /// Runs a command that must succeed, and gives what it printed.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "", "{arguments:?}");
        text(&output.stdout)
    }

    /// Runs a command that must fail, and gives its one line of error.
    pub(crate) fn fail(&self, arguments: &[&str]) -> String {
        failure(&self.command(arguments).output().unwrap())
    }

    /// Starts a server on a free port.
    pub(crate) fn serve(&self, arguments: &[&str]) -> Serving {
        Serving::start(self.command(["serve", "--addr", "127.0.0.1:0"]).args(arguments))
    }

    /// The same, with its log in a file.
    pub(crate) fn serve_with_log(&self, arguments: &[&str], log: &Path) -> Serving {
        let mut command = self.command(["serve", "--addr", "127.0.0.1:0"]);
        Serving::start(command.args(arguments).stderr(std::fs::File::create(log).unwrap()))
    }
}

pub(crate) fn command<S: AsRef<OsStr>>(data: &Path, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloudsync"));
    command.args(arguments).arg("--data-dir").arg(data).stdin(Stdio::null());
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("CLOUDSYNC_") {
            command.env_remove(variable);
        }
    }
    command
}

/// The one line of error of a command that must have failed.
pub(crate) fn failure(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    let error = text(&output.stderr);
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.starts_with("error: "), "{error}");
    error
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A running server; dropping it kills it.
pub(crate) struct Serving {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    pub(crate) address: String,
}

impl Serving {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().expect("the server says where it listens").unwrap();
        let address = first.strip_prefix("listening on http://").expect(&first).to_owned();
        Self { child, lines, address }
    }

    pub(crate) fn next_line(&mut self) -> String {
        self.lines.next().expect("one more line").unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        exchange(&self.address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), b"")
    }

    /// Sends a bearer through proxies that wrote these headers.
    pub(crate) fn ask_through(&self, bearer: &str, forwarded_for: &[&str]) -> Answer {
        let forwarded: String = forwarded_for.iter().map(|it| format!("X-Forwarded-For: {it}\r\n")).collect();
        let head = format!("Authorization: Bearer {bearer}\r\n{forwarded}Content-Length: 0\r\n");
        self.post("d", &head, b"")
    }

    /// Asks an endpoint of JSON with a key or token.
    pub(crate) fn ask(&self, method: &str, path: &str, bearer: &str, body: &str) -> Answer {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {bearer}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        exchange(&self.address, &head, body.as_bytes())
    }

    /// Listens to a database, which opens its store. Gives the connection once the first event or heartbeat is there.
    pub(crate) fn listen(&self, database: &str, key: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(ANSWER_WAIT)).unwrap();
        let head = format!(
            "GET /v1/databases/{database}/events?cursor=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\n\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
        assert!(seen.starts_with(b"HTTP/1.1 200"), "{}", text(&seen));
        stream
    }

    /// Posts a body to the sync endpoint of a database.
    pub(crate) fn sync(&self, database: &str, key: &str, body: &[u8]) -> Answer {
        let length = format!("Content-Length: {}\r\n", body.len());
        self.post(
            database,
            &format!("Authorization: Bearer {key}\r\nContent-Type: {MEDIA_TYPE}\r\n{length}"),
            body,
        )
    }

    pub(crate) fn post(&self, database: &str, headers: &str, body: &[u8]) -> Answer {
        let head = format!(
            "POST /v1/databases/{database}/sync HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n"
        );
        exchange(&self.address, &head, body)
    }

    /// Asks the server to stop, as a service manager does, and gives its exit code.
    #[cfg(unix)]
    pub(crate) fn stop(mut self) -> Option<i32> {
        self.signal("-TERM");
        self.wait()
    }

    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end, and gives the exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for the end of a stream of events.
pub(crate) fn read_end(stream: &mut TcpStream) {
    let mut last = [0; 5];
    while last != *b"0\r\n\r\n" {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("its listeners end");
        last.rotate_left(1);
        last[4] = byte[0];
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The status and code of an error, after checking that it has the form of all errors.
    pub(crate) fn error(&self) -> (u16, String) {
        assert_eq!(self.header("cloudsync-protocol"), Some("1"), "{}", self.head);
        assert_eq!(self.header("content-type"), Some("application/json"));
        let json = self.json();
        assert!(!json["error"]["message"].as_str().unwrap().is_empty());
        (self.status, json["error"]["code"].as_str().unwrap().to_owned())
    }
}

/// Sends a head and a body, and reads to the end of the answer.
pub(crate) fn exchange(address: &str, head: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(ANSWER_WAIT)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    read_answer(&mut stream)
}

pub(crate) fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let head = text(&bytes[..end]);
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: bytes[end + 4..].to_vec() }
}
