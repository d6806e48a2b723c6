//! Identities: the 16-byte id of a replica, and UUIDs with the time and the randomness handed in.

use alloc::string::String;
use core::fmt;

/// The id of one replica: 16 random bytes, in hex as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(pub [u8; 16]);

impl SiteId {
    /// Reads a site id from stored bytes; `None` unless there are exactly 16.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Makes the bytes of a version 7 UUID (RFC 9562, section 5.7) from `time_ms` since 1970, a 12-bit `counter`
/// that orders ids of one millisecond, and 8 bytes of randomness.
#[must_use]
pub fn uuid_v7(time_ms: u64, counter: u16, random: [u8; 8]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&time_ms.to_be_bytes()[2..]);
    bytes[6] = 0x70 | (counter >> 8) as u8 & 0x0f;
    bytes[7] = counter as u8;
    bytes[8..].copy_from_slice(&random);
    bytes[8] = 0x80 | bytes[8] & 0x3f;
    bytes
}

/// The canonical text of a UUID: 36 ASCII characters in lower case.
#[must_use]
pub fn uuid_text(uuid: &[u8; 16]) -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (i, byte) in uuid.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 0x0f)];
        at += 2;
    }
    text
}

/// The bytes of a UUID in canonical lower-case text; `None` for any other text, so that the way back is exact.
#[must_use]
pub fn uuid_parse(text: &[u8]) -> Option<[u8; 16]> {
    /// Where the two digits of each byte stand.
    const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let text: &[u8; 36] = text.try_into().ok()?;
    if [8, 13, 18, 23].iter().any(|at| text[*at] != b'-') {
        return None;
    }
    let mut seen = 0;
    let uuid = PLACES.map(|at| {
        let (high, low) = (DIGITS[usize::from(text[at])], DIGITS[usize::from(text[at + 1])]);
        seen |= high | low;
        high << 4 | low & 0xf
    });
    // One test for all digits: most texts of this length are UUIDs.
    (seen & NO_DIGIT == 0).then_some(uuid)
}

/// Lower-case hex of `bytes`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// What no hexadecimal digit is worth.
const NO_DIGIT: u8 = 0x80;

/// What each character is worth as a lower-case hexadecimal digit.
const DIGITS: [u8; 256] = {
    let mut digits = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    digits
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn uuid_text_round_trips(uuid: [u8; 16]) {
            prop_assert_eq!(uuid_parse(&uuid_text(&uuid)), Some(uuid));
        }
    }

    #[test]
    fn only_canonical_text_is_a_uuid() {
        assert!(uuid_parse(b"0190A3B4-0000-7000-8000-000000000000").is_none());
        assert!(uuid_parse(b"0190a3b40000-7000-8000-0000000000000").is_none());
        assert!(uuid_parse(b"").is_none());
    }

    #[test]
    fn version_7_sorts_by_time_then_counter() {
        let earlier = uuid_v7(1_000, 5, [0xff; 8]);
        assert!(earlier < uuid_v7(1_000, 6, [0; 8]));
        assert!(earlier < uuid_v7(1_001, 0, [0; 8]));
        assert_eq!(uuid_text(&earlier)[14], b'7');
    }
}
