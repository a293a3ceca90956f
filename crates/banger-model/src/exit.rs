//! How processes end, and which exit status says so.

use serde::{Deserialize, Serialize};

/// How a process in a sandbox ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcessEnd {
    /// It returned this status.
    Exited(u8),
    /// This signal ended it.
    Signaled(u8),
}

impl ProcessEnd {
    /// The status a shell would show: the process's own, or 128 + the signal.
    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::Exited(status) => ExitCode(status),
            Self::Signaled(signal) => ExitCode(128u8.saturating_add(signal)),
        }
    }
}

/// The exit status of a banger command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitCode(pub u8);

impl ExitCode {
    /// All went well.
    pub const SUCCESS: Self = Self(0);
    /// The operation failed.
    pub const FAILED: Self = Self(1);
    /// The command line makes no sense.
    pub const USAGE: Self = Self(2);
    /// `vm run` or `vm exec` itself failed, not the command in the sandbox.
    pub const SANDBOX_FAILED: Self = Self(125);
    /// The command in the sandbox exists but cannot be executed.
    pub const CANNOT_INVOKE: Self = Self(126);
    /// The command does not exist in the sandbox.
    pub const NOT_FOUND: Self = Self(127);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_map_to_what_a_shell_shows() {
        assert_eq!(ProcessEnd::Exited(7).exit_code(), ExitCode(7));
        assert_eq!(ProcessEnd::Signaled(9).exit_code(), ExitCode(137));
        assert_eq!(ProcessEnd::Signaled(255).exit_code(), ExitCode(255));
    }
}
