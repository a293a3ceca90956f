//! Why a registry does not give what it is asked for.

use std::time::Duration;

use banger_model::Digest;
use hyper::StatusCode;
use thiserror::Error;

use super::super::http::HttpError;
use super::credentials::CredentialsError;

/// Why something could not be fetched.
#[derive(Debug, Error)]
pub enum FetchError {
    /// No answer, or not all of one.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The user's credentials.
    #[error("cannot find out who you are to {host}")]
    Credentials {
        /// The registry.
        host: String,
        /// Why not.
        source: Box<CredentialsError>,
    },
    /// There is no such thing.
    #[error("{host} has no {what}")]
    NotFound {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
    },
    /// Not for this user.
    #[error(
        "{host} refuses {what}{}: if it exists and is not public, `docker login {login}` first",
        reason(said)
    )]
    Denied {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// What it said.
        said: String,
        /// What to log in to.
        login: String,
    },
    /// Later.
    #[error("{host} cannot answer now ({status}){}{}", reason(said), wait(*retry_after))]
    Busy {
        /// The registry.
        host: String,
        /// How it says so.
        status: StatusCode,
        /// What it said.
        said: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// Any other answer.
    #[error("{host} answers {status} to the request for {what}{}", reason(said))]
    Status {
        /// The registry.
        host: String,
        /// Its answer.
        status: StatusCode,
        /// What was asked for.
        what: String,
        /// What it said.
        said: String,
    },
    /// It wants to know who asks, in a way that is not known.
    #[error("{host} wants to know who asks, in a way that is not supported")]
    Challenge {
        /// The registry.
        host: String,
    },
    /// The place to get a token from is none, or would see credentials without TLS.
    #[error("{host} says to get a token from {realm:?}, which is no address or has no TLS")]
    Realm {
        /// The registry.
        host: String,
        /// What it says.
        realm: String,
    },
    /// A token that cannot be used.
    #[error("{host} gives no token that can be used")]
    Token {
        /// Who gives it.
        host: String,
    },
    /// What came is something else.
    #[error("{host} sent something else than {expected}: it is {found}")]
    WrongDigest {
        /// Who.
        host: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The registry contradicts itself.
    #[error("{host} says of what it sends that it is {told}, but it is {found}")]
    WrongHeader {
        /// Who.
        host: String,
        /// What it says.
        told: String,
        /// What it is.
        found: Digest,
    },
    /// What came is longer or shorter.
    #[error("{host} sent {found} bytes of {digest} where {expected} were due")]
    WrongSize {
        /// Who.
        host: String,
        /// What was asked for.
        digest: Digest,
        /// How much was due.
        expected: u64,
        /// How much came, or was announced.
        found: u64,
    },
    /// Another part than the one that was asked for.
    #[error("{host} sent another part of {digest} than was asked for")]
    WrongRange {
        /// Who.
        host: String,
        /// What was asked for.
        digest: Digest,
    },
}

impl FetchError {
    /// Whether trying again may help.
    pub(in crate::oci) fn may_pass(&self) -> bool {
        match self {
            Self::Http(error) => error.may_pass(),
            Self::Busy { .. }
            | Self::WrongDigest { .. }
            | Self::WrongSize { .. }
            | Self::WrongRange { .. } => true,
            _ => false,
        }
    }

    /// Whether the registry is out of reach, as opposed to having answered.
    pub(crate) fn is_out_of_reach(&self) -> bool {
        match self {
            Self::Http(error) => error.may_pass() || matches!(error, HttpError::Connect { .. }),
            Self::Busy { .. } => true,
            _ => false,
        }
    }

    /// When the registry wants to be asked again.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

fn reason(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

fn wait(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |wait| format!("; try again in {} s", wait.as_secs()))
}
