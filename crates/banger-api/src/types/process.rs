//! Processes in sandboxes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Text;

/// What the daemon calls a process in a sandbox: sixteen lowercase hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProcessId(pub u64);

/// Why a text names no process.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a process's id: 16 lowercase hex digits are one")]
pub struct ParseProcessIdError;

impl FromStr for ProcessId {
    type Err = ParseProcessIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 16 || !text.bytes().all(hex) {
            return Err(ParseProcessIdError);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| ParseProcessIdError)
    }
}

impl TryFrom<String> for ProcessId {
    type Error = ParseProcessIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ProcessId> for String {
    fn from(id: ProcessId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Rows and columns of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Window {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// A process to be started in a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartProcess {
    /// A command of the image.
    Command(Command),
    /// Writes a file or a directory as a tar stream to its standard output.
    Pack {
        /// What to read, in the sandbox.
        #[schema(value_type = String)]
        path: Text,
    },
    /// Takes a tar stream from its standard input and makes what is in it.
    Unpack {
        /// The directory to make it in; it must exist.
        #[schema(value_type = String)]
        path: Text,
        /// What the first component of every entry is to be called instead.
        #[schema(value_type = Option<String>)]
        name: Option<Text>,
    },
}

/// A command of an image. What is left out, the image says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Command {
    /// Program and arguments; the image's shell when empty.
    #[schema(value_type = Vec<String>)]
    pub argv: Vec<Text>,
    /// It is what the sandbox is for: the image's entrypoint goes before `argv`, and the image's
    /// own command stands for an empty one.
    pub main: Option<MainCommand>,
    /// Variables as `NAME=VALUE`, over the image's own.
    #[schema(value_type = Vec<String>)]
    pub env: Vec<Text>,
    /// Working directory.
    #[schema(value_type = Option<String>)]
    pub cwd: Option<Text>,
    /// `user`, `user:group` or numbers.
    #[schema(value_type = Option<String>)]
    pub user: Option<Text>,
    /// The terminal it gets; without one it gets pipes.
    pub terminal: Option<Window>,
}

/// How a sandbox's main command comes about, as `docker run` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct MainCommand {
    /// What goes before the arguments in place of the image's entrypoint; the image's command does
    /// not count then.
    #[schema(value_type = Option<Vec<String>>)]
    pub entrypoint: Option<Vec<Text>>,
}

/// A process that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StartedProcess {
    /// What it is called from now on.
    #[schema(value_type = String)]
    pub process: ProcessId,
}

/// A process that was started in a sandbox from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuestProcess {
    /// What it is called.
    #[schema(value_type = String)]
    pub process: ProcessId,
    /// Its pid in the sandbox.
    pub pid: u32,
    /// The program's name, cut.
    pub program: String,
    /// Its exit status, if it has ended; 128 and the signal's number when a signal ended it.
    pub status: Option<u8>,
}

/// What a path in a sandbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// Something else.
    Other,
    /// Nothing.
    Missing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_id_comes_back_and_nothing_else_is_one() {
        let id = ProcessId(0xab);
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "ab", "+000000000000000", "00000000000000AB", "00000000000000000"] {
            assert!(bad.parse::<ProcessId>().is_err(), "{bad}");
        }
    }
}
