//! The protocol between a host and the agent in a guest, without any I/O.
//!
//! The two meet over a byte stream that may end at any moment and come back later: a Unix
//! socket to QEMU's virtio-serial port or to Firecracker's vsock. When it comes back, bytes of
//! the old connection may be missing, and others of it may still arrive. The protocol puts three
//! layers over that:
//!
//! 1. **Frames** ([`frame`]) of bounded size, each marked with a tag of its connection. A
//!    connection begins with a hello that carries a nonce; both ends discard everything until
//!    they have seen it.
//! 2. **Messages** ([`message`]): requests of the host, each carried out exactly once whatever
//!    the reconnects, their replies, and news of processes.
//! 3. **Streams** ([`stream`]): the input and output of processes, with offsets. What was sent is
//!    kept until it is acknowledged, so a stream goes on after a reconnect byte for byte.
//!
//! ```text
//!   host                                          guest
//!   HostLink --transmit--> bytes ... bytes --receive--> AgentLink
//!            <--receive---                <--transmit--
//! ```
//!
//! [`HostLink`] and [`AgentLink`] are pure: bytes and calls in, bytes and events out. They trust
//! nothing that arrives. A host treats what a guest may not say as the end of that guest's link;
//! an agent, which nobody else could tell, searches for the next hello.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod agent;
mod control;
mod frame;
mod hello;
mod host;
pub mod limits;
mod message;
#[cfg(test)]
mod pinned;
mod stream;
mod turn;

pub use agent::{AgentLink, RequestId, Stdin};
pub use frame::decode as decode_frame;
pub use hello::{Nonce, Versions};
pub use host::{Busy, HostEvent, HostLink, LinkError};
pub use message::{
    AgentInfo, Command, GuestStats, Identity, PathKind, ProcessId, ProcessInfo, Refusal, Reply,
    Request, SignalScope, Stream, Tool, Window,
};

/// The versions of the protocol that this build speaks, oldest and newest. What each request needs
/// is [`Request::since`].
pub const VERSIONS: Versions = Versions { min: 1, max: 6 };
