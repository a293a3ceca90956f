//! Networking without root: `passt` for TCP, behind a relay of our own.
//!
//! Why `passt` alone is not enough was found by trial with the version in Debian 12
//! (0.0~git20230309):
//!
//! - it connects to whatever address a frame names: a guest that sends a frame for 127.0.0.1 or
//!   0.0.0.0 talks to the host's loopback, one for 169.254.169.254 to the cloud's metadata;
//! - it binds each UDP source port of a guest on all addresses of the host and shares it with
//!   other instances: a datagram from anywhere reaches the guest, and two sandboxes that use
//!   the same source port receive each other's answers;
//! - it loses its place in the stream of frames, and takes what a guest wrote into a packet for
//!   the next frame, when a read ends a few bytes behind the beginning of one (see `side`);
//! - it answers a connection that is refused in a way that Linux does not heed (see `tcp`);
//! - it forwards DNS queries over UDP only, to the resolver that was configured when it began.
//!
//! So the relay drops what must not leave, and carries UDP itself: one connected socket for each
//! flow, which the kernel lets nobody else send to.
//!
//! What remains: DNS over TCP to the gateway is not answered; a resolver's truncated answer
//! makes the guest ask again until it gives up. IPv6 is not carried. `passt` needs a default
//! route on the host, and ends at once where there is none.

mod ended;
mod error;
mod flows;
mod frame;
mod launch;
mod plan;
mod policy;
mod relay;
mod resolver;
mod side;
mod tcp;

pub use ended::{Ended, Program, ended};
pub use error::{RelayError, StartNetError};
pub use launch::{
    NetBackend, PASST_ERRORS, PASST_LOG, RELAY_LOG, RelayCommand, WaysOut, passt_args, ways_out,
};
pub use plan::{POOL, UserNet};
pub use relay::{relay, relay_inherited};
