//! Places in what changed.

use cloudsync_core::bytes::{Reader, put_bytes, put_varint};
use cloudsync_core::key::KEY_BYTES_MAX;

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
}

impl Position {
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
        }
        out
    }

    /// True when an extraction that stands here has gone as far as `until`.
    pub(crate) fn reaches(&self, until: &Self) -> bool {
        match (self, until) {
            (Self::Scan { after, .. }, Self::Scan { after: until, .. }) => after >= until,
            (Self::List { after, skip, .. }, Self::List { after: until, skip: until_skip, .. }) => {
                (after, skip) >= (until, until_skip)
            }
            // The list is read behind the scan.
            (Self::List { .. }, Self::Scan { .. }) => true,
            (Self::Scan { .. }, Self::List { .. }) => false,
        }
    }

    /// Reads what [`Position::encode`] wrote; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let position = match reader.byte().ok()? {
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
        for position in [
            Position::Scan { head: 9, after: b"abc".to_vec() },
            Position::List { after: 77, skip: 3, compactions: 2 },
        ] {
            let bytes = position.encode();
            assert_eq!(Position::decode(&bytes), Some(position));
            assert!((0..bytes.len()).all(|end| Position::decode(&bytes[..end]).is_none()));
        }
        assert_eq!(Position::decode(&[3, 0, 0]), None);
    }
}
