//! What can go wrong with a sandbox's network.

use banger_host::HostError;
use thiserror::Error;

/// Why a sandbox's network could not be started.
#[derive(Debug, Error)]
pub enum StartNetError {
    /// The sockets between VMM, relay and `passt`.
    #[error("cannot connect the parts of the sandbox's network")]
    Connect(#[source] HostError),
    /// `passt` is missing or could not be started.
    #[error("the sandbox's network needs passt: install the package passt")]
    Passt(#[source] HostError),
    /// The relay could not be started.
    #[error("cannot start the network relay")]
    Relay(#[source] HostError),
    /// `passt` works only where there is a default route.
    #[error("this host has no IPv4 default route, so a sandbox can have no network")]
    NoRoute,
}

/// Why a relay ended before the sandbox did.
#[derive(Debug, Error)]
pub enum RelayError {
    /// The arguments given to the relay process name no network.
    #[error("the network relay was started with arguments that make no sense: {0:?}")]
    Arguments(Vec<String>),
    /// Waiting for or duplicating the sockets failed.
    #[error("the network relay cannot use its sockets")]
    Sockets(#[source] HostError),
    /// Reading from or writing to one side failed.
    #[error("the network relay lost its {side}")]
    Side {
        /// Which side: `sandbox` or `passt`.
        side: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// One side sent a length that no Ethernet frame has.
    #[error("the {side} sent a frame of {len} bytes")]
    BadFrame {
        /// Which side: `sandbox` or `passt`.
        side: &'static str,
        /// The length it announced.
        len: usize,
    },
}
