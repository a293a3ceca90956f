//! What commands write to standard output: data, in the form that was asked for.

use std::io::Write as _;

use clap::ValueEnum;
use serde::Serialize;

use crate::error::CommandError;

/// The form of a command's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// For programs: field names are stable
    Json,
}

/// Writes a line of text.
pub(crate) fn line(text: impl AsRef<str>) -> Result<(), CommandError> {
    Ok(writeln!(anstream::stdout().lock(), "{}", text.as_ref())?)
}

/// Writes a value as JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?;
    line(text)
}

/// Says something that is no data, on standard error. Nobody there to read it is no failure.
pub(crate) fn notice(text: &str) {
    // A terminal may be raw at this moment: then a line does not begin at the left by itself.
    let end = if banger_host::terminal::is_terminal(std::io::stderr()) { "\r\n" } else { "\n" };
    let _ = write!(anstream::stderr().lock(), "banger: {text}{end}");
}
