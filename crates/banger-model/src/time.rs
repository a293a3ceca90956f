//! Points in time and spans of it, written as people write them: `90s`, `30m`, `8h`, `7d`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A point in time: milliseconds since 1970, UTC.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The point in time so much later; saturates.
    #[must_use]
    pub fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.as_millis()))
    }

    /// How long after `earlier` this is; nothing when it is before.
    pub fn since(self, earlier: Self) -> Span {
        Span::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// A span of time in milliseconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Span(u64);

/// Why a text is not a span of time.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no time span: write a whole number and a unit, such as 90s, 30m, 8h or 7d")]
pub struct ParseSpanError(String);

/// Units with their milliseconds, longest first.
const UNITS: [(char, u64); 4] = [('d', 86_400_000), ('h', 3_600_000), ('m', 60_000), ('s', 1000)];

impl Span {
    /// Longest span that can be asked for: a hundred years.
    pub const MAX: Self = Self(100 * 365 * 86_400_000);

    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// So many seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs * 1000)
    }

    /// The span in milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The span as the standard library has it.
    pub const fn as_duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl FromStr for Span {
    type Err = ParseSpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseSpanError(text.to_owned());
        let mut rest = text;
        let mut total: u64 = 0;
        let mut largest = u64::MAX;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
            let unit = rest[digits..].chars().next().ok_or_else(bad)?;
            let (_, millis) = UNITS.into_iter().find(|(u, _)| *u == unit).ok_or_else(bad)?;
            // `1h30m` is a span; `30m1h` and `1h1h` are slips.
            if millis >= largest {
                return Err(bad());
            }
            largest = millis;
            let part = number.checked_mul(millis).ok_or_else(bad)?;
            total = total.checked_add(part).ok_or_else(bad)?;
            rest = &rest[digits + unit.len_utf8()..];
        }
        if total == 0 || total > Self::MAX.0 {
            return Err(bad());
        }
        Ok(Self(total))
    }
}

/// The two largest units that are not zero, rounded down: `7d 3h`, `45s`, `0s`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut shown = 0;
        for (unit, millis) in UNITS {
            let count = rest / millis;
            rest %= millis;
            if count > 0 {
                let gap = if shown == 0 { "" } else { " " };
                write!(f, "{gap}{count}{unit}")?;
                shown += 1;
            } else if shown > 0 {
                break;
            }
            if shown == 2 {
                break;
            }
        }
        if shown == 0 { f.write_str("0s") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        let span = |text: &str| text.parse::<Span>().map(Span::as_millis);
        assert_eq!(span("90s"), Ok(90_000));
        assert_eq!(span("8h"), Ok(8 * 3_600_000));
        assert_eq!(span("1h30m"), Ok(5_400_000));
        assert_eq!(span("7d"), Ok(7 * 86_400_000));
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for bad in [
            "",
            "0s",
            "5",
            "h",
            "-1h",
            "1.5h",
            "30m1h",
            "1h1h",
            "1w",
            "99999999999999999d",
            "36501d",
            "1é",
        ] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    #[test]
    fn spans_are_shown_by_their_two_largest_units() {
        let shown = |millis| Span::from_millis(millis).to_string();
        assert_eq!(shown(0), "0s");
        assert_eq!(shown(999), "0s");
        assert_eq!(shown(61_000), "1m 1s");
        assert_eq!(shown(3_600_000 + 1000), "1h");
        assert_eq!(shown(8 * 86_400_000 + 3_600_000 + 60_000), "8d 1h");
    }

    #[test]
    fn time_neither_wraps_nor_goes_negative() {
        assert_eq!(Timestamp(u64::MAX).after(Span::from_secs(1)), Timestamp(u64::MAX));
        assert_eq!(Timestamp(5).since(Timestamp(9)), Span::default());
    }
}
