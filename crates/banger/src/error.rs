//! What goes wrong in a command: said in one sentence, with what to do, and an exit status.

use anyhow::anyhow;
use banger_api::client::ClientError;
use banger_api::types::{Problem, ProblemCode};
use banger_model::ExitCode;

use crate::output::plain;

/// Whose failure it is; it picks the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The operation failed.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// The sandbox around a command failed.
    Sandbox,
    /// The command in the sandbox cannot be invoked.
    CannotInvoke,
    /// The command in the sandbox does not exist.
    NotFound,
    /// Whoever read our output has gone: nothing to say, and no failure.
    BrokenPipe,
    /// A signal has ended it, which says this status: whoever sent it knows.
    Interrupted(ExitCode),
}

/// A failed command.
#[derive(Debug)]
pub(crate) struct CommandError {
    kind: Kind,
    error: anyhow::Error,
    hints: Vec<String>,
}

impl CommandError {
    /// A failure of this kind.
    pub(crate) fn new(kind: Kind, error: impl Into<anyhow::Error>) -> Self {
        Self { kind, error: error.into(), hints: Vec::new() }
    }

    /// A failure around a command in a sandbox: the command's own where the sandbox has no such
    /// command, else the sandbox's.
    pub(crate) fn of_sandbox(error: anyhow::Error) -> Self {
        let problem = error.chain().find_map(|cause| match cause.downcast_ref::<ClientError>() {
            Some(ClientError::Problem(problem)) => Some(problem),
            _ => cause.downcast_ref::<Problem>(),
        });
        let kind = match problem.map(|problem| problem.code) {
            Some(ProblemCode::CommandNotFound) => Kind::NotFound,
            Some(ProblemCode::CommandNotExecutable) => Kind::CannotInvoke,
            _ => Kind::Sandbox,
        };
        let hints = problem.map(|problem| problem.hints.clone()).unwrap_or_default();
        Self { kind, hints, error }
    }

    /// The end by a signal, with the status that says so.
    pub(crate) fn interrupted(code: ExitCode) -> Self {
        Self::new(Kind::Interrupted(code), anyhow!("interrupted"))
    }

    /// Whether a signal has ended it.
    pub(crate) fn is_interrupted(&self) -> bool {
        matches!(self.kind, Kind::Interrupted(_))
    }

    /// Says what failed by it.
    #[must_use]
    pub(crate) fn context(self, what: &'static str) -> Self {
        Self { error: self.error.context(what), ..self }
    }

    /// Adds what the user may do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The exit status that tells of this failure.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self.kind {
            Kind::Failed => ExitCode::FAILED,
            Kind::Usage => ExitCode::USAGE,
            Kind::Sandbox => ExitCode::SANDBOX_FAILED,
            Kind::CannotInvoke => ExitCode::CANNOT_INVOKE,
            Kind::NotFound => ExitCode::NOT_FOUND,
            Kind::BrokenPipe => ExitCode::SUCCESS,
            Kind::Interrupted(code) => code,
        }
    }

    /// Says it on standard error: one line, its causes behind it, hints below.
    pub(crate) fn print(&self, verbosity: u8) {
        use std::io::Write as _;
        if !matches!(self.kind, Kind::BrokenPipe | Kind::Interrupted(_)) {
            let _ = anstream::stderr().lock().write_all(self.told(verbosity).as_bytes());
        }
    }

    /// What is said. Much of it is what a registry or a guest says.
    fn told(&self, verbosity: u8) -> String {
        let chain: Vec<_> = self.error.chain().map(|cause| plain(&cause.to_string())).collect();
        let causes = chain.join(if verbosity == 0 { ": " } else { "\n  because: " });
        let hints = self.hints.iter().map(|hint| format!("hint: {}\n", plain(hint)));
        format!("banger: {causes}\n{}", hints.collect::<String>())
    }
}

/// What fails of several things that were asked for together. All but the last are said as they
/// come; that one is said by whoever called.
#[derive(Debug)]
pub(crate) struct Failures {
    verbosity: u8,
    last: Option<CommandError>,
}

impl Failures {
    /// None so far.
    pub(crate) fn told_at(verbosity: u8) -> Self {
        Self { verbosity, last: None }
    }

    /// One more.
    pub(crate) fn add(&mut self, error: CommandError) {
        if let Some(earlier) = self.last.replace(error) {
            earlier.print(self.verbosity);
        }
    }

    /// The last, if there was any.
    pub(crate) fn end(self) -> Result<ExitCode, CommandError> {
        self.last.map_or(Ok(ExitCode::SUCCESS), Err)
    }
}

impl From<std::io::Error> for CommandError {
    fn from(error: std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::BrokenPipe => Kind::BrokenPipe,
            _ => Kind::Failed,
        };
        Self::new(kind, error)
    }
}

impl From<anyhow::Error> for CommandError {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Kind::Failed, error)
    }
}

impl From<banger_host::HostError> for CommandError {
    fn from(error: banger_host::HostError) -> Self {
        Self::new(Kind::Failed, error)
    }
}

impl From<ClientError> for CommandError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Problem(problem) => {
                let hints = problem.hints.clone();
                Self { kind: Kind::Failed, error: problem.into(), hints }
            }
            other => Self::new(Kind::Failed, other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_the_command_is_the_commands_failure() {
        let refused = |code| {
            let problem = Problem::new(code, "x");
            let error = anyhow::Error::new(ClientError::Problem(problem)).context("around it");
            CommandError::of_sandbox(error).exit_code()
        };
        assert_eq!(refused(ProblemCode::CommandNotFound), ExitCode::NOT_FOUND);
        assert_eq!(refused(ProblemCode::CommandNotExecutable), ExitCode::CANNOT_INVOKE);
        assert_eq!(refused(ProblemCode::Refused), ExitCode::SANDBOX_FAILED);
        assert_eq!(CommandError::of_sandbox(anyhow!("boom")).exit_code(), ExitCode::SANDBOX_FAILED);
    }

    #[test]
    fn what_others_say_steers_no_terminal() {
        let said = anyhow!("unauthorized: \x1b]0;owned\x07\u{202e}").context("cannot fetch\nx");
        let error = CommandError::from(said).hint("log \u{9b} in");
        assert_eq!(
            error.told(0),
            "banger: cannot fetch\nx: unauthorized: \\u{1b}]0;owned\\u{7}\\u{202e}\nhint: log \\u{9b} in\n"
        );
        assert!(
            error.told(1).starts_with("banger: cannot fetch\nx\n  because: unauthorized: \\u{1b}")
        );
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        let error = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(CommandError::from(error).exit_code(), ExitCode::SUCCESS);
    }
}
