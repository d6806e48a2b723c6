//! The header Retry-After, as seconds or as a date of HTTP.

use crate::calendar::days;

/// Milliseconds that a `Retry-After` asks to wait, seen at `now_ms` (milliseconds since 1970); 0 for what cannot be read
/// and for dates that are over. `date`, the header of that name, is the clock by which a date was meant: a device's own
/// clock may be years off.
pub(crate) fn retry_after_ms(text: &str, date: Option<&str>, now_ms: u64) -> u64 {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return seconds.saturating_mul(1000);
    }
    let now_ms = date.and_then(parse_date).unwrap_or(now_ms);
    parse_date(text).map_or(0, |due_ms| due_ms.saturating_sub(now_ms))
}

/// Reads `Sun, 06 Nov 1994 08:49:37 GMT`, the one form of a date that HTTP lets be sent; milliseconds since 1970.
fn parse_date(text: &str) -> Option<u64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let (_, rest) = text.trim().split_once(", ")?;
    let mut parts = rest.split(' ');
    let mut number = |length: usize| {
        let part = parts.next().filter(|part| part.len() == length)?;
        part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse::<u64>().ok())?
    };
    let day = number(2).filter(|day| (1..=31).contains(day))?;
    let mut parts = rest.split(' ').skip(1);
    let month = parts.next().filter(|month| month.len() == 3)?;
    let month = MONTHS.find(month).filter(|at| at % 3 == 0)? as u64 / 3 + 1;
    let year =
        parts.next().filter(|year| year.len() == 4)?.parse::<u64>().ok().filter(|year| *year >= 1970)?;
    let mut clock = parts.next()?.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if parts.next() != Some("GMT") || clock.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some((((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second) * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_read() {
        assert_eq!(retry_after_ms(" 7 ", None, 0), 7_000);
        assert_eq!(retry_after_ms("99999999999999999999", None, 0), 0);
        assert_eq!(retry_after_ms("18446744073709551615", None, 0), u64::MAX);
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(retry_after_ms(date, None, 784_111_770_000), 7_000);
        assert_eq!(retry_after_ms(date, None, 784_111_777_001), 0, "it is over");
        // By the clock of whoever sent it, however wrong the device's own is.
        assert_eq!(retry_after_ms(date, Some("Sun, 06 Nov 1994 08:49:30 GMT"), 0), 7_000);
        for (date, seconds) in [
            ("Thu, 01 Jan 1970 00:00:01 GMT", 1),
            ("Tue, 29 Feb 2000 00:00:00 GMT", 951_782_400),
            ("Wed, 01 Mar 2000 00:00:00 GMT", 951_868_800),
            ("Sun, 22 Nov 2026 18:18:22 GMT", 1_795_371_502),
        ] {
            assert_eq!(parse_date(date), Some(seconds * 1000), "{date}");
        }
    }

    #[test]
    fn rubbish_asks_for_nothing() {
        for text in [
            "",
            "-1",
            "1.5",
            "soon",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 nov 1994 08:49:37 GMT",
            "Sun, 06 anF 1994 08:49:37 GMT",
            "Sun, 06 Nov 1969 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37:1 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "\u{1F980}, \u{1F980}",
        ] {
            assert_eq!(retry_after_ms(text, None, 0), 0, "{text}");
        }
    }
}
