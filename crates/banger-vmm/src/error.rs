//! What can go wrong with a machine, by what was tried.

use std::path::PathBuf;

use banger_host::HostError;
use thiserror::Error;

use crate::qemu::QmpError;

/// Why a machine could not be made.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// A path that the monitor cannot be told.
    #[error("the path {path:?} is not UTF-8, which QEMU needs: rename it")]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// Sockets, logs or the record in the machine's directory.
    #[error("cannot set up the machine's directory {dir}", dir = dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What failed.
        source: HostError,
    },
    /// The monitor's program did not start.
    #[error("cannot start the virtual machine monitor")]
    Start(#[source] HostError),
    /// A fault of this program while it started the monitor's.
    #[error("the start of the virtual machine monitor broke off")]
    BrokeOff(#[source] tokio::task::JoinError),
    /// The monitor started and gave up.
    #[error("the virtual machine monitor gave up: {said}")]
    GaveUp {
        /// What it wrote last.
        said: String,
    },
    /// The monitor does not answer.
    #[error("the virtual machine monitor cannot be controlled")]
    Control(#[source] QmpError),
    /// What was saved is no machine for this monitor: another begins with a kernel.
    #[error("the saved machine cannot be loaded: {said}")]
    Load {
        /// What the monitor said.
        said: String,
    },
}

/// Why a running machine did not do as told.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The monitor refused, or does not answer.
    #[error("cannot {operation} the machine")]
    Monitor {
        /// What was tried, as a verb.
        operation: &'static str,
        /// Why it failed.
        source: QmpError,
    },
    /// Nobody knows where its memory is.
    #[error("cannot save the machine: an older banger has made it, which could not")]
    MadeByOlder,
    /// The process or its sockets.
    #[error("cannot {operation} the machine")]
    Host {
        /// What was tried, as a verb.
        operation: &'static str,
        /// Why it failed.
        source: HostError,
    },
}

impl ControlError {
    /// Whether the monitor has not answered yet: it does as told when it comes to it.
    pub fn is_late(&self) -> bool {
        matches!(self, Self::Monitor { source: QmpError::Late { .. }, .. })
    }
}

/// Why a machine could not be taken over.
#[derive(Debug, Error)]
pub enum AdoptError {
    /// The record of the machine cannot be read.
    #[error("cannot read the record of the machine in {dir}", dir = dir.display())]
    Record {
        /// The machine's directory.
        dir: PathBuf,
        /// What failed.
        source: HostError,
    },
    /// The process cannot be held.
    #[error("cannot hold the process of the machine in {dir}", dir = dir.display())]
    Process {
        /// The machine's directory.
        dir: PathBuf,
        /// What failed.
        source: HostError,
    },
    /// The monitor lives, but cannot be talked to.
    #[error("the monitor of the machine in {dir} does not answer", dir = dir.display())]
    Silent {
        /// The machine's directory.
        dir: PathBuf,
        /// What failed.
        source: QmpError,
    },
}

/// Why something of a machine may still run.
#[derive(Debug, Error)]
pub enum ReapError {
    /// The processes of a directory cannot be looked for.
    #[error("cannot look for the processes of {dir}", dir = dir.display())]
    Find {
        /// The directory.
        dir: PathBuf,
        /// What failed.
        source: HostError,
    },
    /// A process that was found does not end.
    #[error("cannot end process {pid}, which belongs to {dir}", dir = dir.display())]
    End {
        /// The directory.
        dir: PathBuf,
        /// The process.
        pid: i32,
        /// What failed.
        source: HostError,
    },
}
