//! How a sandbox reaches the network, and what of the host it must never reach.
//!
//! Without root there is no bridge and no packet filter to be had, so a sandbox's frames go to
//! user-mode programs that turn them into the owner's own sockets ([`user`]):
//!
//! ```text
//! guest ── VMM ──frames── relay ──frames── passt ── TCP sockets, ping
//!                           │
//!                           └── policy; UDP sockets, DNS
//! ```
//!
//! **Architecture invariant:** every byte from the VMM is the guest's, hence hostile. It meets
//! the policy before anything else acts on it.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod user;

pub use user::{NetBackend, RelayCommand, UserNet};
