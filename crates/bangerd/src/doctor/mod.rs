//! What this host can do, what it cannot, and what to do about it.
//!
//! Looking and judging are apart: [`observe`] asks the host and never fails, [`judge`] is pure.

mod judge;
mod observe;

use serde::Serialize;

pub use judge::judge;
pub use observe::{Found, Made, Observed, Reflinks, Root, Unusable, observe};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but not as well as it could.
    Warn,
    /// Does not work.
    Fail,
}

/// One line of the doctor's report. Field names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub advice: Option<String>,
}
