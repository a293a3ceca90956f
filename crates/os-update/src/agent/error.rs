//! Why a run did not do what it was asked to, and the exit status that tells of it.

use std::time::Duration;

use banger_host::HostError;
use banger_trust::gates::Refusal;
use banger_trust::{DocumentError, OpenError, ParseSignatureError, Version};
use banger_update::{BootError, EngineError, StageError};
use thiserror::Error;

use super::ask::LATEST;
use crate::fetch::FetchError;
use crate::http::HttpError;
use crate::machine::MachineError;
use crate::settings::SettingsError;
use crate::url::ParseUrlError;

/// Why a run did not do what it was asked to.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Another one is at it.
    #[error("another os-update is at work")]
    Busy,
    /// A gate is closed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No key, and no word that it can be done without.
    #[error("there is no key to verify releases with: set pubkey in update.conf")]
    NoKey,
    /// A key and a word that it is not wanted.
    #[error("--insecure-skip-verify makes no sense where a key is configured: it is always used")]
    KeyAnyway,
    /// No server.
    #[error("there is no server to ask: set server in update.conf")]
    NoServer,
    /// No slot.
    #[error("the kernel's command line does not say which slot runs (os_update.slot)")]
    NoSlot,
    /// The server has no manifest.
    #[error("{0} is not there")]
    NoManifest(String),
    /// The manifest or a signature is not to be believed.
    #[error("{url} is not to be used")]
    Untrusted {
        /// The document.
        url: String,
        /// Why.
        source: OpenError,
    },
    /// A signature that is none.
    #[error("{url} is no signature")]
    Signature {
        /// Where it was.
        url: String,
        /// Why.
        source: ParseSignatureError,
    },
    /// A stepping stone that leads elsewhere.
    #[error("{url} is not the manifest of {expected}")]
    WrongStep {
        /// The manifest.
        url: String,
        /// What it should be of.
        expected: Version,
    },
    /// A settled address.
    #[error("the manifest has an address that is none")]
    Url(#[from] ParseUrlError),
    /// Nothing to activate.
    #[error("nothing is staged that could be activated: {0}")]
    NothingStaged(String),
    /// What lies in the slot is not what was staged.
    #[error("slot {slot} does not hold what was staged in it: apply the update again")]
    Corrupted {
        /// The slot.
        slot: String,
    },
    /// What lies in the slot was signed by nobody, or by somebody who is not believed any more.
    #[error(
        "slot {slot} holds what no trusted key has signed: apply the update again, with the keys of \
         today"
    )]
    StagedUntrusted {
        /// The slot.
        slot: String,
    },
    /// Something was decided that begins with a boot.
    #[error("restart the machine first, or wait until it has restarted: {0}")]
    RestartFirst(String),
    /// What runs has not proved itself yet.
    #[error("`os-update healthcheck` has to decide about what runs first: {0}")]
    Undecided(String),
    /// Nothing to go back to.
    #[error("there is no other system to go back to")]
    NoWayBack,
    /// What could be gone back to is what was given up.
    #[error(
        "slot {slot} holds what was given up here: `os-update rollback --given-up` tries it again"
    )]
    GivenUp {
        /// The slot.
        slot: String,
    },
    /// The system that was just booted is not well.
    #[error("the system is not well: {0}")]
    Unhealthy(String),
    /// The same, and there is more.
    #[error("the system is not well: {problems}; and that cannot be written down")]
    UnhealthyUnwritten {
        /// What is wrong with it.
        problems: String,
        /// Why it cannot be written down.
        source: Box<Self>,
    },
    /// Whatever was to be found out about it takes for ever.
    #[error("the health check had no end within {} s: a disk hangs", .after.as_secs())]
    NoVerdict {
        /// The time that it had.
        after: Duration,
    },
    /// Settings.
    #[error("the settings are wrong")]
    Settings(#[from] SettingsError),
    /// The network.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A file of the release.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The slot.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The state.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The boot loader.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A file.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl AgentError {
    /// The exit status that tells of it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::KeyAnyway => 2,
            Self::Refused(Refusal::NeedsStep(_)) => 4,
            Self::Refused(_) | Self::NoKey | Self::NothingStaged(_) => 3,
            Self::RestartFirst(_) | Self::Undecided(_) | Self::GivenUp { .. } => 3,
            Self::Untrusted { .. } | Self::Signature { .. } | Self::WrongStep { .. } => 5,
            Self::Stage(StageError::Unverified { .. })
            | Self::Fetch(FetchError::Stage(StageError::Unverified { .. }))
            | Self::Corrupted { .. }
            | Self::StagedUntrusted { .. } => 5,
            Self::Unhealthy(_) | Self::UnhealthyUnwritten { .. } | Self::NoVerdict { .. } => 6,
            Self::Busy => 7,
            _ => 1,
        }
    }

    /// Whether trying again without a change may help.
    pub(super) fn is_retryable(&self) -> bool {
        match self {
            Self::Fetch(FetchError::Http { source, .. }) | Self::Http(source) => source.may_pass(),
            Self::Fetch(FetchError::TooLong { .. }) | Self::Busy | Self::Host(_) => true,
            _ => false,
        }
    }
}

impl From<DocumentError> for AgentError {
    fn from(error: DocumentError) -> Self {
        Self::Untrusted { url: LATEST.to_owned(), source: error.into() }
    }
}
