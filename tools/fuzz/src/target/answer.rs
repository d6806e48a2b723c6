use cloudsync_protocol::message::{Accepted, Answer, Request, Turn};
use rusqlite::Connection;

use crate::{device, host, input, memory};

/// What one answer of at most 64 KiB may hold beside SQLite's own memory.
const HELD_BYTES_MAX: usize = 96 << 20;

/// The choices: bits 0 and 1 the kind of device, bit 2 whether the answer speaks of the round that it answers, bits 3 and 4
/// the status of HTTP.
pub(super) fn run(bytes: &[u8]) {
    let Some((choices, rest)) = input::split(bytes) else { return };
    let mut answer = input::answer(choices, rest);
    let db = device::of_kind(choices & 3);
    host::show(&db, "SELECT cloudsync_session_start()");
    let Some(request) = requested(&db) else { return };
    if choices & 4 != 0 {
        answer = for_request(&answer, &request);
    }
    let status = [200, 401, 404, 503][usize::from(choices >> 3 & 3)];
    let sql = format!("SELECT cloudsync_session_answer({status}, ?1)");
    let taken = memory::within(HELD_BYTES_MAX, || device::call(&db, &sql, &answer));
    if taken.is_ok() {
        // It may go on; the same again is no answer to what comes next, and must do as little harm.
        let _ = host::try_show(&db, "SELECT length(cloudsync_session_request())");
        let _ = device::call(&db, &sql, &answer);
    }
    device::judge(&db);
    host::show(&db, "SELECT cloudsync_session_start()");
    requested(&db);
    device::takes_what_is_right(&db);
}

fn requested(db: &Connection) -> Option<Vec<u8>> {
    db.query_row("SELECT cloudsync_session_request()", [], |row| row.get(0)).unwrap()
}

/// The answer with the round of the request, as if it had been made for it.
fn for_request(answer: &[u8], request: &[u8]) -> Vec<u8> {
    let (Ok(Answer::Turn(turn)), Ok(request)) = (Answer::decode(answer), Request::decode(request)) else {
        return answer.to_vec();
    };
    let Some(upload) = request.upload else { return answer.to_vec() };
    let accepted = turn.accepted.map(|accepted| Accepted { round: upload.round, ..accepted });
    Answer::Turn(Turn { accepted, ..turn.clone() }).encode()
}
