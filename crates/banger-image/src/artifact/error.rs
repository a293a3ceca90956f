//! Why an image or a kernel cannot be used, and what to do about it.

use std::fmt;

use banger_host::HostError;
use thiserror::Error;

/// What an artifact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactKind {
    /// A root file system.
    Image,
    /// A kernel with its modules.
    Kernel,
}

impl fmt::Display for ArtifactKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "image",
            Self::Kernel => "kernel",
        })
    }
}

/// Why an image or a kernel cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// There is none of this name.
    #[error("there is no {kind} {name}: {}", choices(here, can_be_made))]
    Missing {
        /// What was asked for.
        kind: ArtifactKind,
        /// Its name.
        name: String,
        /// Names of those that are here.
        here: Vec<String>,
        /// Names of those that can be made.
        can_be_made: &'static [&'static str],
    },
    /// It is not as it was when it was made. Removing it is the remedy.
    #[error(
        "the {kind} {name} is damaged: {problem}; remove it with `{removal}`, and make or fetch it anew"
    )]
    Damaged {
        /// What was asked for.
        kind: ArtifactKind,
        /// Its name.
        name: String,
        /// The command that does so.
        removal: String,
        /// The file and what is wrong with it.
        problem: String,
    },
    /// It could not be read.
    #[error("cannot open the {kind} {name}")]
    Read {
        /// What was asked for.
        kind: ArtifactKind,
        /// Its name.
        name: String,
        /// Why not.
        source: HostError,
    },
}

fn choices(here: &[String], can_be_made: &[&str]) -> String {
    let here = if here.is_empty() { "none".to_owned() } else { here.join(", ") };
    format!("here are {here}; can be made: {}", can_be_made.join(", "))
}

impl OpenError {
    /// The command that removes what is damaged, so that it is made anew; none where that is not
    /// the remedy.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Damaged { removal, .. } => Some(removal.clone()),
            _ => None,
        }
    }

    /// Whether there simply is none of this name.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}
