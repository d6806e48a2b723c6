use super::*;
use crate::range::Range;
use alloc::vec;
use proptest::prelude::*;

fn request(payload: &[u8]) -> Request<'_> {
    Request {
        site: SiteId([5; 16]),
        epoch: 1_790_000_000_000,
        nonce: 7,
        now: 1_790_000_000_001,
        cursor: 1_790_000_000_000,
        position: b"here",
        pull: true,
        echo: false,
        fingerprint: u64::MAX,
        schema: Some(Schema { tables: vec![] }),
        upload: Some(Upload {
            round: RoundId([1; 8]),
            chunk: 3,
            is_final: true,
            continues: false,
            base: 9,
            payload,
        }),
        check: Check {
            ranges: vec![Range { table: "notes", shape: 1, after: b"", until: b"k", rows: 2, digest: 3 }],
        },
    }
}

fn turn(payload: &[u8]) -> Answer<'_> {
    Answer::Turn(Turn {
        epoch: 1,
        nonce: 8,
        now: 3,
        accepted: Some(Accepted {
            round: RoundId([1; 8]),
            committed: true,
            repeated: true,
            differs: true,
            quarantined: 2,
        }),
        drained: true,
        cursor: 12,
        position: b"",
        rows_total: 100,
        checked: b"findings",
        verdicts: b"verdicts",
        payload,
    })
}

#[test]
fn messages_round_trip_and_every_truncation_fails() {
    let bytes = request(b"abc").encode();
    assert_eq!(Request::decode(&bytes), Ok(request(b"abc")));
    assert!((0..bytes.len()).all(|end| Request::decode(&bytes[..end]).is_err()));
    let bytes = turn(b"abc").encode();
    assert_eq!(Answer::decode(&bytes), Ok(turn(b"abc")));
    assert!((0..bytes.len()).all(|end| Answer::decode(&bytes[..end]).is_err()));
}

#[test]
fn every_refusal_round_trips() {
    for reason in REASONS {
        let refusal = Refusal { reason, epoch: 1, nonce: 2, now: 3, text: "why".into() };
        let bytes = Answer::Refusal(refusal.clone()).encode();
        assert_eq!(Answer::decode(&bytes), Ok(Answer::Refusal(refusal)));
    }
}

#[test]
fn numbers_beyond_their_bounds_are_refused() {
    let upload = |upload| Request { upload: Some(upload), ..request(b"") }.encode();
    let good = Upload {
        round: RoundId([1; 8]),
        chunk: UPLOAD_CHUNKS_MAX - 1,
        is_final: true,
        continues: false,
        base: 9,
        payload: b"",
    };
    assert!(Request::decode(&upload(good.clone())).is_ok());
    assert!(Request::decode(&upload(Upload { chunk: UPLOAD_CHUNKS_MAX, ..good.clone() })).is_err());
    assert!(Request::decode(&upload(Upload { base: 1 << 63, ..good.clone() })).is_err());
    let inner = Upload { is_final: false, continues: true, ..good };
    assert!(Request::decode(&upload(inner)).is_err(), "only a round's end can be followed by a round");
    let Answer::Turn(good) = turn(b"") else { unreachable!() };
    let accepted = good.accepted.map(|accepted| Accepted { quarantined: u64::MAX, ..accepted });
    for wrong in [
        Turn { cursor: u64::MAX, ..good.clone() },
        Turn { rows_total: u64::MAX, ..good.clone() },
        Turn { now: TIME_MAX.0 + 1, ..good.clone() },
        Turn { accepted, ..good },
    ] {
        assert!(Answer::decode(&Answer::Turn(wrong.clone()).encode()).is_err(), "{wrong:?}");
    }
    let refusal =
        Refusal { reason: Reason::ClockSkew, epoch: 1, nonce: 2, now: TIME_MAX.0 + 1, text: "".into() };
    assert!(Answer::decode(&Answer::Refusal(refusal).encode()).is_err());
}

#[test]
fn foreign_and_newer_messages_are_told_apart() {
    assert_eq!(Answer::decode(b"<html>"), Err(MessageError::NotCloudsync));
    assert_eq!(Answer::decode(&[0xC5, 0x41, 9, 0]), Err(MessageError::Version(9)));
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = request(b"abc").encode();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Request::decode(&damaged).is_err(), "bit {bit}");
    }
}

proptest! {
    #[test]
    fn any_bytes_decode_or_fail(bytes: Vec<u8>) {
        let _ = Request::decode(&bytes);
        let behind = |magic: u8| seal([&[0xC5, magic, 1][..], &bytes].concat());
        let _ = Answer::decode(&behind(0x41));
        let _ = Request::decode(&behind(0x52));
    }
}
