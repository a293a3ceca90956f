//! Points in time as signed documents write them: RFC 3339 in UTC, to the second.

use banger_model::Timestamp;
use thiserror::Error;

const DAY_S: u64 = 86_400;
/// Days in 400 years of the calendar.
const ERA_DAYS: u64 = 146_097;
/// From 0000-03-01, where an era of the calendar begins, to 1970-01-01.
const EPOCH_DAYS: u64 = 719_468;

/// A text that is no point in time.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no time in UTC such as 2027-01-31T00:00:00Z")]
pub struct ParseTimeError(String);

/// Reads `2027-01-31T00:00:00Z`, or `2027-01-31`, which is its first second.
///
/// # Errors
/// For everything else, days that no calendar has included.
pub fn parse_time(text: &str) -> Result<Timestamp, ParseTimeError> {
    parse(text).ok_or_else(|| ParseTimeError(text.chars().take(40).collect()))
}

fn parse(text: &str) -> Option<Timestamp> {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, time.strip_suffix('Z')?),
        None => (text, "00:00:00"),
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let exists = (1970..10_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    let seconds = || days_before(year, month, day) * DAY_S + hour * 3600 + minute * 60 + second;
    exists.then(|| Timestamp(seconds() * 1000))
}

/// Three numbers of exactly so many digits.
fn numbers(text: &str, between: char, digits: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(between);
    let mut found = [0; 3];
    for (number, len) in found.iter_mut().zip(digits) {
        let part = parts.next()?;
        let plain = part.len() == len && part.bytes().all(|b| b.is_ascii_digit());
        *number = plain.then(|| part.parse().ok())??;
    }
    parts.next().is_none().then_some(found)
}

fn days_of(year: u64, month: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to this one. Years are counted from March, so that the leap day is the
/// last of its year.
fn days_before(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * ERA_DAYS + of_era * 365 + of_era / 4 - of_era / 100 + of_year - EPOCH_DAYS
}

/// As [`parse_time`] reads it; fractions of a second are left out.
pub fn show_time(time: Timestamp) -> String {
    let seconds = time.0 / 1000;
    let days = seconds / DAY_S + EPOCH_DAYS;
    let (era, of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / (ERA_DAYS - 1)) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute) = (seconds % DAY_S / 3600, seconds % 3600 / 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z", seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2038-01-19T03:14:08Z", 2_147_483_648),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
        ] {
            assert_eq!(parse_time(text), Ok(Timestamp(seconds * 1000)), "{text}");
            assert_eq!(show_time(Timestamp(seconds * 1000 + 999)), text);
        }
        assert_eq!(parse_time("2027-01-31"), parse_time("2027-01-31T00:00:00Z"));
    }

    #[test]
    fn what_no_calendar_or_clock_shows_is_refused() {
        for bad in [
            "",
            "2027-02-29",
            "2100-02-29",
            "2027-13-01",
            "2027-00-01",
            "2027-01-00",
            "1969-12-31",
            "2027-1-1",
            "2027-01-31T24:00:00Z",
            "2027-01-31T00:60:00Z",
            "2027-01-31T23:59:60Z",
            "2027-01-31T00:00:00",
            "2027-01-31T00:00:00+01:00",
            "2027-01-31T00:00:00.5Z",
            "2027-01-31 00:00:00Z",
            "+027-01-31",
            "2027-01-31-01",
        ] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_second_is_shown_and_read_back(seconds in 0_u64..253_402_300_800) {
            let time = Timestamp(seconds * 1000);
            proptest::prop_assert_eq!(parse_time(&show_time(time)), Ok(time));
        }
    }
}
