//! Verdicts: what the server says of rows of a round that it did not let in, one by one, as values and as bytes.
//!
//! ```text
//! verdicts  flags 1 byte (1 = more verdicts wait), count, then for each: state 1 byte, table (bytes), key (bytes),
//!           reason (bytes); payload (bytes): the rows whose state is 1, whole, as the server has them
//! ```
//! The device undoes what was refused: it takes the server's row in place of its own, and keeps its own aside with
//! the reason. A verdict of state 3 refuses nothing: it asks for the whole of a row of which a part came.

use crate::limits::{NAME_BYTES_MAX, VERDICT_PAYLOAD_BYTES_MAX, VERDICT_REASON_BYTES_MAX, VERDICTS_MAX};
use crate::message::bounded_text;
use alloc::vec::Vec;
use cloudsync_core::bytes::{BytesError, Reader, put_bytes, put_varint};
use cloudsync_core::key::KEY_BYTES_MAX;

/// What the server has of a row that it refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing: it never knew the row.
    Absent,
    /// The row, alive or deleted, that is in the payload beside the verdicts.
    Given,
    /// A row too large to go with verdicts: the device forgets its own and fetches everything again.
    Fetch,
    /// No refusal: the server waits for the whole row, and asks for it.
    Wanted,
}

const STATES: [State; 4] = [State::Absent, State::Given, State::Fetch, State::Wanted];

/// The server's answer on one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// The table.
    pub table: &'a str,
    /// The packed key.
    pub key: &'a [u8],
    /// Why, in SQLite's words; at most `VERDICT_REASON_BYTES_MAX` bytes are sent.
    pub reason: &'a str,
    /// What the server has in its place.
    pub state: State,
}

/// The verdicts on a round.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdicts<'a> {
    /// One for each row.
    pub list: Vec<Verdict<'a>>,
    /// The rows whose state is [`State::Given`], as a payload; empty when there are none.
    pub payload: &'a [u8],
    /// True when more rows wait for their verdicts: a round without rows brings them.
    pub more: bool,
}

impl<'a> Verdicts<'a> {
    /// The verdicts as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.push(u8::from(self.more));
        put_varint(&mut out, self.list.len() as u64);
        for verdict in &self.list {
            out.push(STATES.iter().position(|state| *state == verdict.state).unwrap_or(0) as u8);
            put_bytes(&mut out, verdict.table.as_bytes());
            put_bytes(&mut out, verdict.key);
            put_bytes(&mut out, bounded_text(verdict.reason, VERDICT_REASON_BYTES_MAX).as_bytes());
        }
        put_bytes(&mut out, self.payload);
        out
    }

    /// Reads verdicts.
    ///
    /// # Errors
    /// [`BytesError`] when the bytes are no verdicts.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, BytesError> {
        let mut reader = Reader::new(bytes);
        let more = match reader.byte()? {
            flags @ 0..=1 => flags == 1,
            _ => return Err(BytesError::OutOfBounds("flags")),
        };
        let count = reader.varint_max(VERDICTS_MAX as u64, "number of verdicts")? as usize;
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(Verdict::decode(&mut reader)?);
        }
        let payload = reader.bytes(VERDICT_PAYLOAD_BYTES_MAX as u64, "payload")?;
        if reader.is_empty() {
            Ok(Self { list, payload, more })
        } else {
            Err(BytesError::OutOfBounds("end of the verdicts"))
        }
    }
}

impl<'a> Verdict<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, BytesError> {
        let state = usize::from(reader.byte()?);
        let state = STATES.get(state).copied().ok_or(BytesError::OutOfBounds("state of a row"))?;
        Ok(Self {
            state,
            table: text(reader, NAME_BYTES_MAX, "table")?,
            key: reader.bytes(KEY_BYTES_MAX as u64, "key")?,
            reason: text(reader, VERDICT_REASON_BYTES_MAX, "reason")?,
        })
    }
}

fn text<'a>(reader: &mut Reader<'a>, bytes_max: usize, what: &'static str) -> Result<&'a str, BytesError> {
    let bytes = reader.bytes(bytes_max as u64, what)?;
    core::str::from_utf8(bytes).map_err(|_| BytesError::OutOfBounds(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::vec;
    use proptest::prelude::*;

    fn verdicts() -> Verdicts<'static> {
        let verdict = |key, state| Verdict { table: "notes", key, reason: "CHECK constraint failed", state };
        let states = STATES.iter().map(|state| verdict(b"key" as &[u8], *state));
        Verdicts { list: states.collect(), payload: b"payload", more: true }
    }

    #[test]
    fn verdicts_round_trip_and_every_truncation_fails() {
        for verdicts in [verdicts(), Verdicts::default(), Verdicts { more: false, ..verdicts() }] {
            let bytes = verdicts.encode();
            assert_eq!(Verdicts::decode(&bytes), Ok(verdicts));
            assert!((0..bytes.len()).all(|end| Verdicts::decode(&bytes[..end]).is_err()));
            assert!(Verdicts::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
    }

    #[test]
    fn what_is_beyond_its_bounds_is_refused_and_long_reasons_are_cut() {
        let long: String = core::iter::repeat_n('\u{e4}', VERDICT_REASON_BYTES_MAX).collect();
        let verdict = Verdict { table: "t", key: b"k", reason: &long, state: State::Absent };
        let bytes = Verdicts { list: vec![verdict], ..Verdicts::default() }.encode();
        assert_eq!(Verdicts::decode(&bytes).unwrap().list[0].reason.len(), VERDICT_REASON_BYTES_MAX);
        let key = vec![1; KEY_BYTES_MAX + 1];
        let verdict = Verdict { key: &key, reason: "", ..verdict };
        assert!(Verdicts::decode(&Verdicts { list: vec![verdict], ..Verdicts::default() }.encode()).is_err());
        // More verdicts than bytes, another flag, another state, a reason that is no text.
        for wrong in
            [&[0, 0xff, 1, 0][..], &[2, 0, 0], &[0, 1, 4, 1, b't', 0, 0, 0], &[0, 1, 0, 0, 0, 1, 0xff, 0]]
        {
            assert!(Verdicts::decode(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn no_more_verdicts_are_taken_than_there_may_be() {
        let verdict = Verdict { table: "t", key: b"k", reason: "", state: State::Absent };
        let list = |count| Verdicts { list: vec![verdict; count], ..Verdicts::default() }.encode();
        assert!(Verdicts::decode(&list(VERDICTS_MAX)).is_ok());
        assert!(Verdicts::decode(&list(VERDICTS_MAX + 1)).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(bytes: Vec<u8>) {
            let _ = Verdicts::decode(&bytes);
        }
    }
}
