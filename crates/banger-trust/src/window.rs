//! The hours of the day in which a machine may be changed.

use std::fmt;
use std::str::FromStr;

use banger_model::Timestamp;
use thiserror::Error;

const DAY_MIN: u32 = 24 * 60;
/// The largest offset from UTC that any zone has is 14 hours.
const MAX_OFFSET_MIN: i32 = 14 * 60;

/// Where the hours of a window are counted: UTC, or a fixed offset from it. There is no summer
/// time in it: a window would come twice or not at all on two nights of the year.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    offset_min: i32,
}

/// A text that is no zone.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no time zone: write UTC or an offset such as +02:00")]
pub struct ParseZoneError(String);

impl FromStr for Zone {
    type Err = ParseZoneError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseZoneError(text.chars().take(40).collect());
        if matches!(text, "" | "UTC" | "Z") {
            return Ok(Self::default());
        }
        let (sign, time) = match text.split_at_checked(1) {
            Some(("+", time)) => (1, time),
            Some(("-", time)) => (-1, time),
            _ => return Err(bad()),
        };
        let minutes = minute_of_day(time).and_then(|m| i32::try_from(m).ok()).ok_or_else(bad)?;
        let offset_min = sign * minutes;
        if offset_min.abs() > MAX_OFFSET_MIN { Err(bad()) } else { Ok(Self { offset_min }) }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.offset_min == 0 {
            return f.write_str("UTC");
        }
        let (sign, min) = (if self.offset_min < 0 { '-' } else { '+' }, self.offset_min.abs());
        write!(f, "{sign}{:02}:{:02}", min / 60, min % 60)
    }
}

/// When a machine may be changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Window {
    /// At any time.
    #[default]
    Always,
    /// From the first minute of the day up to, and without, the second; over midnight if the
    /// second is smaller. Two equal ones are a window that never opens.
    Daily {
        /// The first minute that is inside.
        from_min: u32,
        /// The first minute that is outside again.
        to_min: u32,
    },
}

/// A text that is no window.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no maintenance window: write HH:MM-HH:MM, such as 22:00-04:00")]
pub struct ParseWindowError(String);

impl Window {
    /// Whether it is open.
    pub fn is_open(self, now: Timestamp, zone: Zone) -> bool {
        let Self::Daily { from_min, to_min } = self else { return true };
        let utc_min = i32::try_from(now.0 / 60_000 % u64::from(DAY_MIN)).unwrap_or(0);
        let day = DAY_MIN.cast_signed();
        let minute = (utc_min + zone.offset_min).rem_euclid(day).cast_unsigned();
        if from_min <= to_min {
            (from_min..to_min).contains(&minute)
        } else {
            minute >= from_min || minute < to_min
        }
    }
}

impl FromStr for Window {
    type Err = ParseWindowError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Ok(Self::Always);
        }
        let bad = || ParseWindowError(text.chars().take(40).collect());
        let (from, to) = text.split_once('-').ok_or_else(bad)?;
        let from_min = minute_of_day(from.trim_ascii()).ok_or_else(bad)?;
        let to_min = minute_of_day(to.trim_ascii()).ok_or_else(bad)?;
        Ok(Self::Daily { from_min, to_min })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Daily { from_min: from, to_min: to } = self else { return f.write_str("always") };
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

/// `HH:MM` from 00:00 to 23:59.
fn minute_of_day(text: &str) -> Option<u32> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str, below: u32| {
        let plain = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        let value: u32 = plain.then(|| text.parse().ok())??;
        (value < below).then_some(value)
    };
    Some(number(hour, 24)? * 60 + number(minute, 60)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: u64, minute: u64) -> Timestamp {
        Timestamp(((20_000 * 24 + hour) * 60 + minute) * 60_000)
    }

    fn open(window: &str, zone: &str, hour: u64, minute: u64) -> bool {
        let window: Window = window.parse().unwrap();
        window.is_open(at(hour, minute), zone.parse().unwrap())
    }

    #[test]
    fn f15_windows_are_half_open_and_wrap_midnight() {
        assert!(open("", "", 3, 0), "none is always open");
        assert!(open("02:00-04:00", "", 2, 0) && open("02:00-04:00", "", 3, 59));
        assert!(!open("02:00-04:00", "", 1, 59) && !open("02:00-04:00", "", 4, 0));
        assert!(open("22:30-01:15", "", 22, 30) && open("22:30-01:15", "", 0, 0));
        assert!(open("22:30-01:15", "", 1, 14) && !open("22:30-01:15", "", 1, 15));
        assert!(!open("22:30-01:15", "", 12, 0));
        assert!(open("00:00-23:59", "", 23, 58) && !open("00:00-23:59", "", 23, 59));
        assert!(open("00:01-00:00", "", 23, 59) && !open("00:01-00:00", "", 0, 0));
    }

    #[test]
    fn f15_a_window_of_no_length_never_opens() {
        for minute in 0..24 * 60 {
            assert!(!open("03:00-03:00", "", minute / 60, minute % 60), "{minute}");
        }
    }

    #[test]
    fn f15_the_zone_is_an_offset_from_utc() {
        assert!(open("02:00-04:00", "+02:00", 0, 0) && !open("02:00-04:00", "+02:00", 2, 0));
        assert!(open("22:00-23:00", "-05:30", 3, 30) && open("01:00-02:00", "+14:00", 11, 0));
        assert_eq!("-05:30".parse::<Zone>().unwrap().to_string(), "-05:30");
        for bad in ["CET", "+2", "+02", "02:00", "+15:00", "+14:01", "+02:60", "é"] {
            assert!(bad.parse::<Zone>().is_err(), "{bad}");
        }
    }

    #[test]
    fn f15_only_hours_and_minutes_are_taken() {
        for bad in [
            "24:00-01:00",
            "01:00-24:00",
            "1:00-2:00",
            "01:60-02:00",
            "01:00",
            "-",
            "a-b",
            "+1:00-02:00",
        ] {
            assert!(bad.parse::<Window>().is_err(), "{bad}");
        }
        assert_eq!("22:00 - 04:05".parse::<Window>().unwrap().to_string(), "22:00-04:05");
        assert_eq!(Window::Always.to_string(), "always");
    }
}
