//! How long a sandbox is to live, and what happens when its machine ends.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::id::LeaseId;
use crate::lifecycle::EndCause;
use crate::time::Span;

/// What is to happen when a machine ends that nobody told to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// It stays down.
    #[default]
    No,
    /// It starts again unless the guest powered itself off.
    OnFailure,
    /// It starts again, whatever the reason.
    Always,
}

/// Why a text is no restart policy.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no restart policy: use no, on-failure or always")]
pub struct ParseRestartError(String);

impl FromStr for RestartPolicy {
    type Err = ParseRestartError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::No, Self::OnFailure, Self::Always];
        all.into_iter()
            .find(|policy| policy.as_str() == text)
            .ok_or_else(|| ParseRestartError(text.to_owned()))
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The first wait before a restart.
const FIRST_BACKOFF: Span = Span::from_secs(1);
/// Each further restart waits twice as long, up to this.
const MAX_BACKOFF: Span = Span::from_secs(60);
/// A machine that ran so long has recovered: what comes next is a new fault.
const RECOVERED: Span = Span::from_secs(600);

impl RestartPolicy {
    /// The policy's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
        }
    }

    /// How long to wait before a restart after this end; `None` when it stays down. `failed` is
    /// the number of restarts in a row before this one.
    pub fn restart_after(self, cause: &EndCause, failed: u32) -> Option<Span> {
        let again = match (self, cause) {
            (_, EndCause::Asked) | (Self::No, _) => false,
            (Self::OnFailure, EndCause::PoweredOff) => false,
            (Self::OnFailure | Self::Always, _) => true,
        };
        let factor = 1u64.checked_shl(failed).unwrap_or(u64::MAX);
        let wait = FIRST_BACKOFF.as_millis().saturating_mul(factor).min(MAX_BACKOFF.as_millis());
        again.then(|| Span::from_millis(wait))
    }

    /// How many restarts in a row there were, after a machine that ran this long.
    pub fn failed_in_row(before: u32, ran: Span) -> u32 {
        if ran >= RECOVERED { 0 } else { before }
    }
}

/// What happens to a sandbox once it is not needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disposal {
    /// It stays until somebody deletes it.
    #[default]
    Keep,
    /// It is deleted when it stops, however that comes.
    Remove,
}

/// How long a sandbox is to live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lifetime {
    /// It is deleted so long after it was created.
    pub ttl: Option<Span>,
    /// It is stopped when nothing has happened in it for so long.
    pub idle_timeout: Option<Span>,
    /// When its machine ends by itself.
    pub restart: RestartPolicy,
    /// When it has stopped.
    pub disposal: Disposal,
    /// It is deleted when this lease falls.
    pub lease: Option<LeaseId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crashed() -> EndCause {
        EndCause::Failed("x".into())
    }

    #[test]
    fn policies_restart_what_they_say_and_never_what_was_asked_to_stop() {
        use RestartPolicy::{Always, No, OnFailure};
        for policy in [No, OnFailure, Always] {
            assert_eq!(policy.restart_after(&EndCause::Asked, 0), None);
            assert_eq!(policy.as_str().parse(), Ok(policy));
        }
        assert_eq!(No.restart_after(&crashed(), 0), None);
        assert!(OnFailure.restart_after(&crashed(), 0).is_some());
        assert_eq!(OnFailure.restart_after(&EndCause::PoweredOff, 0), None);
        assert!(Always.restart_after(&EndCause::PoweredOff, 0).is_some());
    }

    #[test]
    fn waits_double_up_to_a_bound() {
        let wait = |failed| RestartPolicy::Always.restart_after(&crashed(), failed).unwrap();
        assert_eq!(wait(0), Span::from_secs(1));
        assert_eq!(wait(3), Span::from_secs(8));
        assert_eq!(wait(6), MAX_BACKOFF);
        assert_eq!(wait(u32::MAX), MAX_BACKOFF);
    }

    #[test]
    fn a_lease_is_one_path_component() {
        assert!(LeaseId::try_from("ab".repeat(16)).is_ok());
        for bad in ["", "..", "../../../../../../../../../../aa", &"g".repeat(32)] {
            assert!(LeaseId::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
