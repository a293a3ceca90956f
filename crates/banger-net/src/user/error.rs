//! What can go wrong with a sandbox's network.

use banger_host::HostError;
use thiserror::Error;

/// Why a sandbox's network could not be started.
#[derive(Debug, Error)]
pub enum StartNetError {
    /// The sockets between VMM, relay and `passt`.
    #[error("cannot connect the parts of the sandbox's network")]
    Connect(#[source] HostError),
    /// The files for what the programs say.
    #[error("cannot make the logs of the sandbox's network")]
    Log(#[source] HostError),
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
    /// `passt` was about to receive a frame in more parts than it can put together.
    #[error("the system cut a frame for passt into too many parts")]
    Torn,
    /// The send buffer of the socket to `passt` holds no whole frame.
    #[error(
        "the system gives a socket a send buffer of {len} bytes, but the sandbox's network needs \
         {needed}: raise net.core.wmem_default"
    )]
    SmallBuffer {
        /// What the system gives.
        len: usize,
        /// What is needed.
        needed: usize,
    },
    /// `passt` takes no more frames.
    #[error("passt has taken nothing for {seconds} seconds", seconds = .0.as_secs())]
    Stuck(std::time::Duration),
}
