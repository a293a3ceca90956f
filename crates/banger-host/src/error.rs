//! One error type for what the operating system refuses.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// An operation that the system refused, with the thing it was done to.
#[derive(Debug, Error)]
pub enum HostError {
    /// A file operation.
    #[error("cannot {operation} {path}", path = path.display())]
    Path {
        /// What was tried, as a verb: `read`, `rename`.
        operation: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file larger than its reader allows.
    #[error("{path} is larger than the {limit} bytes that make sense for it", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        limit: u64,
    },
    /// Something else where a file should be: a directory, a pipe, a socket, a device.
    #[error("{path} is not a file", path = path.display())]
    NotAFile {
        /// Where it is.
        path: PathBuf,
    },
    /// A directory that should be this user's and is another's.
    #[error("{path} belongs to user {owner}, not to you (user {user}): use a directory of your own", path = path.display())]
    OthersOwn {
        /// The directory.
        path: PathBuf,
        /// Number of the user whom it belongs to.
        owner: u32,
        /// Number of this user.
        user: u32,
    },
    /// A directory that should be this user's alone and can be written to by others.
    #[error(
        "others may write to {path} (mode {mode:04o}): look what is in it, then `chmod go-w {quoted}`",
        path = path.display(),
        quoted = crate::command::quoted(path)
    )]
    OthersWrite {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A program that is not installed.
    #[error("{program} is not installed")]
    NoProgram {
        /// Its name.
        program: String,
    },
    /// A program that could not be started.
    #[error("cannot start {program}")]
    Spawn {
        /// Its name.
        program: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A program that failed.
    #[error("{program} failed ({status}){}", said(stderr))]
    Failed {
        /// Its name.
        program: String,
        /// Its exit status, in words.
        status: String,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// A program that did not end in time.
    #[error("{program} did not finish within {seconds} s")]
    TimedOut {
        /// Its name.
        program: String,
        /// The bound.
        seconds: u64,
    },
    /// A program whose output does not go on.
    #[error(
        "{program} has stopped in the midst: nothing came of it for {seconds} s; look whether the file system that it reads answers, then try again"
    )]
    Silent {
        /// Its name.
        program: String,
        /// The bound.
        seconds: u64,
    },
    /// Anything else of the system that failed.
    #[error("cannot {operation}")]
    System {
        /// What was tried, as a verb with its object.
        operation: String,
        /// Why it failed.
        source: io::Error,
    },
}

fn said(stderr: &str) -> String {
    let tail = stderr.trim();
    if tail.is_empty() { String::new() } else { format!(": {tail}") }
}

/// The result of an operation on the host.
pub type Result<T, E = HostError> = std::result::Result<T, E>;

impl HostError {
    /// An error of a system call that has no path.
    pub fn system(operation: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { operation: operation.into(), source: source.into() }
    }

    /// The kind of the system's error, where there is one.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Path { source, .. }
            | Self::Spawn { source, .. }
            | Self::System { source, .. } => Some(source.kind()),
            _ => None,
        }
    }

    /// Whether the thing was not there.
    pub fn is_not_found(&self) -> bool {
        self.io_kind() == Some(io::ErrorKind::NotFound)
    }
}

/// Puts the operation and the path to a bare system error.
pub trait AtPath<T> {
    /// Says that `operation` on `path` failed.
    ///
    /// # Errors
    /// The system's error, with its place.
    fn at(self, operation: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> AtPath<T> for std::result::Result<T, E> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T> {
        self.map_err(|error| HostError::Path {
            operation,
            path: path.to_owned(),
            source: error.into(),
        })
    }
}
