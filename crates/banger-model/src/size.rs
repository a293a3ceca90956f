//! Sizes in bytes, written as people write them: `512M`, `1G`, `64KiB`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(u64);

/// Why a text is not a size.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ParseBytesError {
    /// No digits where the number should be.
    #[error("not a size: write a whole number and a unit, such as 512M or 2G")]
    NotANumber,
    /// A suffix that is none of K, M, G, T.
    #[error("unknown unit {0:?}: use K, M, G or T (powers of 1024)")]
    UnknownUnit(String),
    /// More than 2^64 bytes.
    #[error("the size is too large")]
    Overflow,
}

impl Bytes {
    /// No bytes at all.
    pub const ZERO: Self = Self(0);

    /// `n` bytes.
    pub const fn new(n: u64) -> Self {
        Self(n)
    }

    /// `n` × 1024 bytes.
    pub const fn kib(n: u64) -> Self {
        Self(n * 1024)
    }

    /// `n` × 1024² bytes.
    pub const fn mib(n: u64) -> Self {
        Self(n * 1024 * 1024)
    }

    /// `n` × 1024³ bytes.
    pub const fn gib(n: u64) -> Self {
        Self(n * 1024 * 1024 * 1024)
    }

    /// The size in bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The size in whole mebibytes, rounded down.
    pub const fn as_mib(self) -> u64 {
        self.0 / (1024 * 1024)
    }

    /// The size rounded up to a multiple of `unit` bytes; saturates at the largest multiple.
    #[must_use]
    pub const fn round_up_to(self, unit: u64) -> Self {
        match self.0.checked_next_multiple_of(unit) {
            Some(n) => Self(n),
            None => Self(u64::MAX - u64::MAX % unit),
        }
    }
}

impl FromStr for Bytes {
    type Err = ParseBytesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(ParseBytesError::NotANumber);
        }
        let number: u64 = number.parse().map_err(|_| ParseBytesError::Overflow)?;
        let factor: u64 = match unit.to_ascii_uppercase().as_str() {
            "" | "B" => 1,
            "K" | "KB" | "KIB" => 1 << 10,
            "M" | "MB" | "MIB" => 1 << 20,
            "G" | "GB" | "GIB" => 1 << 30,
            "T" | "TB" | "TIB" => 1 << 40,
            _ => return Err(ParseBytesError::UnknownUnit(unit.to_owned())),
        };
        number.checked_mul(factor).map(Self).ok_or(ParseBytesError::Overflow)
    }
}

/// Exact where the size is a whole number of a unit (`512M`), else rounded to a tenth (`1.3G`).
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] =
            [(1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
        for (factor, unit) in UNITS {
            if self.0 < factor {
                continue;
            }
            if self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
            let tenths = u128::from(self.0) * 10 / u128::from(factor);
            return write!(f, "{}.{}{unit}", tenths / 10, tenths % 10);
        }
        write!(f, "{}B", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("4k", 4096),
            ("512M", 512 << 20),
            ("512MiB", 512 << 20),
            ("1G", 1 << 30),
            ("2t", 2 << 40),
        ] {
            assert_eq!(text.parse::<Bytes>(), Ok(Bytes::new(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_says_why() {
        assert_eq!("".parse::<Bytes>(), Err(ParseBytesError::NotANumber));
        assert_eq!("-1M".parse::<Bytes>(), Err(ParseBytesError::NotANumber));
        assert_eq!("1.5G".parse::<Bytes>(), Err(ParseBytesError::UnknownUnit(".5G".into())));
        assert_eq!("1X".parse::<Bytes>(), Err(ParseBytesError::UnknownUnit("X".into())));
        assert_eq!("99999999999T".parse::<Bytes>(), Err(ParseBytesError::Overflow));
        assert_eq!("99999999999999999999".parse::<Bytes>(), Err(ParseBytesError::Overflow));
    }

    #[test]
    fn a_shown_size_is_short_and_true() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1536, "1.5K"),
            (512 << 20, "512M"),
            (u64::MAX, "16777215.9T"),
        ] {
            assert_eq!(Bytes::new(bytes).to_string(), text);
        }
    }
}
