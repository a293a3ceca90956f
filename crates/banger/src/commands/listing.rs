//! What all lists have in common: names alone, a table, or all that is known.

use banger_model::ExitCode;
use serde::Serialize;

use crate::error::CommandError;
use crate::output::{self, Format};

/// How a list is shown.
#[derive(Debug, clap::Args)]
pub(super) struct Listing {
    /// Print names and nothing else
    #[arg(long, short, conflicts_with = "output")]
    quiet: bool,
    /// The form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

impl Listing {
    /// Shows these things, each called as `name` says, as a table made by `table` for people.
    pub(super) fn show<T: Serialize>(
        &self,
        things: &[T],
        name: impl Fn(&T) -> String,
        table: impl FnOnce(&[T]) -> String,
    ) -> Result<ExitCode, CommandError> {
        match self.output {
            _ if self.quiet => {
                let names: String = things.iter().map(|thing| name(thing) + "\n").collect();
                output::text(&names)?;
            }
            Format::Json => output::json(&things)?,
            Format::Text => output::text(&table(things))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
