use cloudsync_core::bytes::Reader;
use cloudsync_protocol::message::{Answer, Request};
use cloudsync_protocol::range::{Check, Checked};
use cloudsync_protocol::schema::Schema;
use cloudsync_protocol::verdict::Verdicts;

use crate::{input, memory};

/// What reading a message of at most 64 KiB may hold: descriptions of tables take some twenty times their bytes.
const HELD_BYTES_MAX: usize = 8 << 20;

pub(super) fn run(bytes: &[u8]) {
    let Some((choices, rest)) = input::split(bytes) else { return };
    memory::within(HELD_BYTES_MAX, || match choices & 7 {
        0 => {
            let bytes = input::request(choices, rest);
            let Ok(request) = Request::decode(&bytes) else { return };
            let encoded = request.encode();
            assert_eq!(Request::decode(&encoded).unwrap(), request);
        }
        1 => {
            let bytes = input::answer(choices, rest);
            let Ok(answer) = Answer::decode(&bytes) else { return };
            let encoded = answer.encode();
            assert_eq!(Answer::decode(&encoded).unwrap(), answer);
            let Answer::Turn(turn) = &answer else { return };
            let _ = (Verdicts::decode(turn.verdicts), Checked::decode(turn.checked));
        }
        2 => {
            let Ok(verdicts) = Verdicts::decode(rest) else { return };
            assert_eq!(Verdicts::decode(&verdicts.encode()).unwrap(), verdicts);
        }
        3 => {
            let Ok(check) = Check::decode(rest) else { return };
            assert_eq!(Check::decode(&check.encode()).unwrap(), check);
        }
        4 => {
            let Ok(checked) = Checked::decode(rest) else { return };
            assert_eq!(Checked::decode(&checked.encode()).unwrap(), checked);
        }
        _ => {
            let Ok(schema) = Schema::decode(&mut Reader::new(rest)) else { return };
            let mut encoded = Vec::new();
            schema.encode(&mut encoded);
            let again = Schema::decode(&mut Reader::new(&encoded)).unwrap();
            assert_eq!((&again, again.fingerprint()), (&schema, schema.fingerprint()));
        }
    });
}
