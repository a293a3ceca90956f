//! What `vm run` and `vm exec` have in common: the command, and what it gets.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use banger_api::types::{Command, Text, Window};
use banger_host::terminal::{is_terminal, window_size};
use banger_model::{ArgsError, EnvVar, Limits, SpecError};
use clap::builder::{OsStringValueParser, TypedValueParser as _};

use crate::error::{CommandError, Kind};

/// A command in a sandbox.
#[derive(Debug, clap::Args)]
pub(crate) struct CommandArgs {
    /// Set an environment variable of the command; NAME alone takes its value from here
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = OsStringValueParser::new().try_map(env_var))]
    env: Vec<EnvSetting>,
    /// Run the command as this user of the image: a name or a number, with :GROUP if you like
    #[arg(long, short)]
    user: Option<OsString>,
    /// Run the command in this directory of the sandbox
    #[arg(long, short)]
    workdir: Option<OsString>,
    /// Pass standard input on (always done; accepted for the habit)
    #[arg(long, short)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(long, short)]
    tty: bool,
    /// The command and its arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// What `--env` asks for; nothing when it names a variable that is not set here.
type EnvSetting = Option<EnvVar>;

/// A variable as written, or with its value of this process.
#[expect(clippy::disallowed_methods, reason = "`--env NAME` means the value here")]
fn env_var(text: OsString) -> Result<EnvSetting, SpecError> {
    let mut bytes = text.clone().into_vec();
    if !bytes.contains(&b'=') && !bytes.is_empty() {
        let Some(value) = std::env::var_os(&text) else { return Ok(None) };
        bytes.push(b'=');
        bytes.extend(value.into_vec());
    }
    EnvVar::parse(&bytes).map(Some)
}

impl CommandArgs {
    /// What the daemon is told. What is left out, the image says.
    ///
    /// # Errors
    /// For what no Linux would take: before anything is made.
    pub(crate) fn command(self) -> Result<Command, CommandError> {
        check_command(&self.command)?;
        for (option, value) in [("--user", &self.user), ("--workdir", &self.workdir)] {
            if value.as_ref().is_some_and(|value| value.is_empty()) {
                let error = anyhow::anyhow!("{option} is empty");
                return Err(CommandError::new(Kind::Usage, error).hint("leave it out"));
            }
        }
        if self.tty && !is_terminal(std::io::stdin()) {
            let error = anyhow::anyhow!("-t asks for a terminal, but standard input is none");
            return Err(CommandError::new(Kind::Usage, error).hint("leave out -t"));
        }
        let interactive = self.command.is_empty();
        let wants_terminal = self.tty || (interactive && is_terminal(std::io::stdin()));
        let terminal = wants_terminal.then(terminal_window);
        let term = terminal.and_then(|_| env_var("TERM".into()).ok().flatten());
        let env = term.into_iter().chain(self.env.into_iter().flatten());
        Ok(Command {
            argv: self.command.into_iter().map(Text::from).collect(),
            env: env.map(|var| Text([var.name(), b"=", var.value()].concat())).collect(),
            main: None,
            cwd: self.workdir.map(Text::from),
            user: self.user.map(Text::from),
            terminal,
        })
    }
}

/// Refuses before anything is made what no Linux would take.
fn check_command(command: &[OsString]) -> Result<(), CommandError> {
    Limits::check_args(command.iter().map(|arg| arg.as_bytes())).map_err(|error| {
        let refused = CommandError::new(Kind::Usage, error);
        match error {
            ArgsError::NoName => refused,
            ArgsError::TooLong => refused.hint("pass data on standard input"),
        }
    })
}

fn terminal_window() -> Window {
    let size = window_size(std::io::stdout()).or_else(|| window_size(std::io::stdin()));
    size.map_or(Window { rows: 24, cols: 80 }, |size| Window { rows: size.rows, cols: size.cols })
}
