//! Places in what changed.

use cloudsync_core::bytes::{Reader, put_bytes, put_varint};
use cloudsync_core::key::KEY_BYTES_MAX;
use cloudsync_protocol::limits::SET_BYTES_MAX;
use cloudsync_protocol::payload::SetId;
use std::cmp::Ordering;

/// Where an extraction stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// In the tree of clocks, behind this key; the list follows behind version `head`.
    Scan {
        /// The last version when the scan began.
        head: u64,
        /// The key of the last row that was sent.
        after: Vec<u8>,
    },
    /// In the change list, behind the entry `after`, and behind `skip` keys of the next one.
    List {
        /// The last entry that was sent whole.
        after: i64,
        /// Keys of the next entry that were sent.
        skip: u64,
        /// How often the list had been compacted by then: after another run the keys cannot be counted.
        compactions: u64,
    },
    /// Before a row of which a part of the large values was sent.
    Inside(Box<Inside>),
}

/// A place inside the large values of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// The place before the row; not inside of another one.
    pub row: Position,
    /// The set that its large values make.
    pub set: SetId,
    /// What they were made of: key, life, and columns with their clocks, hashed.
    pub made_of: u64,
    /// Bytes of the set that were sent.
    pub sent: u64,
}

impl Position {
    /// The place before the row in whose values it stands, or itself.
    #[must_use]
    pub fn place(&self) -> &Self {
        match self {
            Self::Inside(inside) => &inside.row,
            Self::Scan { .. } | Self::List { .. } => self,
        }
    }

    /// The position as bytes that its receiver hands back unread.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Scan { head, after } => {
                out.push(1);
                put_varint(&mut out, *head);
                put_bytes(&mut out, after);
            }
            Self::List { after, skip, compactions } => {
                out.push(2);
                put_varint(&mut out, *after as u64);
                put_varint(&mut out, *skip);
                put_varint(&mut out, *compactions);
            }
            Self::Inside(inside) => {
                // 3 begins the positions of a server's users.
                out.push(4);
                put_bytes(&mut out, &inside.row.encode());
                out.extend_from_slice(&inside.set.0);
                out.extend_from_slice(&inside.made_of.to_le_bytes());
                put_varint(&mut out, inside.sent);
            }
        }
        out
    }

    /// True when an extraction that stands here has gone as far as `until`.
    pub(crate) fn reaches(&self, until: &Self) -> bool {
        match (self.order(until), self, until) {
            (Ordering::Equal, Self::Inside(at), Self::Inside(until)) => {
                at.set == until.set && at.sent >= until.sent
            }
            (Ordering::Equal, _, Self::Inside(_)) | (Ordering::Less, _, _) => false,
            (Ordering::Equal | Ordering::Greater, _, _) => true,
        }
    }

    /// The order of the places before the rows: the list is read behind the scan.
    fn order(&self, other: &Self) -> Ordering {
        match (self.place(), other.place()) {
            (Self::Scan { after, .. }, Self::Scan { after: other, .. }) => after.cmp(other),
            (Self::List { after, skip, .. }, Self::List { after: other, skip: other_skip, .. }) => {
                (after, skip).cmp(&(other, other_skip))
            }
            (Self::List { .. }, _) => Ordering::Greater,
            (Self::Scan { .. } | Self::Inside(_), _) => Ordering::Less,
        }
    }

    /// Reads what [`Position::encode`] wrote; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let position = match reader.byte().ok()? {
            4 => {
                let row = reader.bytes(KEY_BYTES_MAX as u64 + 64, "position").ok()?;
                let row = Self::decode(row).filter(|row| row.place() == row)?;
                let (set, made_of) = (SetId(reader.array().ok()?), u64::from_le_bytes(reader.array().ok()?));
                let sent = reader.varint_max(SET_BYTES_MAX, "position").ok()?;
                Self::Inside(Box::new(Inside { row, set, made_of, sent }))
            }
            1 => Self::Scan {
                head: reader.varint().ok()?,
                after: reader.bytes(KEY_BYTES_MAX as u64 + 16, "position").ok()?.to_vec(),
            },
            2 => Self::List {
                after: reader.varint_max(i64::MAX as u64, "position").ok()? as i64,
                skip: reader.varint().ok()?,
                compactions: reader.varint().ok()?,
            },
            _ => return None,
        };
        reader.is_empty().then_some(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_round_trip_and_rubbish_is_refused() {
        let row = Position::List { after: 77, skip: 3, compactions: 2 };
        let inside =
            |row| Position::Inside(Box::new(Inside { row, set: SetId([7; 16]), made_of: 5, sent: 300 }));
        let nested = inside(inside(row.clone())).encode();
        assert_eq!(Position::decode(&nested), None);
        for position in [Position::Scan { head: 9, after: b"abc".to_vec() }, row.clone(), inside(row)] {
            let bytes = position.encode();
            assert_eq!(Position::decode(&bytes), Some(position));
            assert!((0..bytes.len()).all(|end| Position::decode(&bytes[..end]).is_none()));
        }
        assert_eq!(Position::decode(&[3, 0, 0]), None);
    }

    #[test]
    fn a_place_inside_a_row_lies_behind_the_place_before_it() {
        let list = |after, skip| Position::List { after, skip, compactions: 0 };
        let inside = |row, set, sent| {
            Position::Inside(Box::new(Inside { row, set: SetId([set; 16]), made_of: 0, sent }))
        };
        let at = inside(list(5, 1), 1, 100);
        for (position, reaches) in [
            (list(5, 1), false),
            (list(5, 2), true),
            (inside(list(5, 1), 1, 99), false),
            (inside(list(5, 1), 1, 100), true),
            (inside(list(5, 1), 2, 100), false),
            (inside(list(6, 0), 2, 1), true),
            (Position::Scan { head: 9, after: vec![9] }, false),
        ] {
            assert_eq!(position.reaches(&at), reaches, "{position:?}");
        }
        assert!(at.reaches(&list(5, 1)) && !at.reaches(&list(5, 2)));
    }
}
