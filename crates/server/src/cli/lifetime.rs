//! How long something is good, as people write it: `90s`, `15m`, `12h`, `30d`.

use std::str::FromStr;

use crate::error::Error;

/// Longest lifetime, in seconds: ten years.
const SECONDS_MAX: u64 = 3_653 * 24 * 3_600;

/// A length of time of at least a second and at most ten years.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lifetime {
    pub(super) seconds: u64,
}

impl Lifetime {
    /// When it is over if it begins at `now_ms`, in milliseconds since 1970.
    pub(super) const fn end_ms(self, now_ms: u64) -> u64 {
        now_ms.saturating_add(self.seconds * 1000)
    }
}

impl FromStr for Lifetime {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let fail = || Error::Duration(text.to_owned());
        let unit = text.chars().last().ok_or_else(fail)?;
        let unit_s = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 24 * 3_600,
            _ => return Err(fail()),
        };
        let count: u64 = text[..text.len() - 1].parse().map_err(|_| fail())?;
        let seconds = count.checked_mul(unit_s).filter(|seconds| (1..=SECONDS_MAX).contains(seconds));
        seconds.map(|seconds| Self { seconds }).ok_or_else(fail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_read() {
        for (text, seconds) in [("1s", 1), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000)] {
            assert_eq!(text.parse::<Lifetime>().unwrap().seconds, seconds);
        }
        for text in ["", "d", "0s", "-1d", "1.5h", "30", "4000d", "99999999999999999999d", "1\u{e4}"] {
            assert!(text.parse::<Lifetime>().is_err(), "{text:?}");
        }
        assert_eq!(Lifetime { seconds: 2 }.end_ms(1_000), 3_000);
    }
}
