//! The only door to the operating system.
//!
//! Everything that runs a command, opens a file, takes a lock, asks the time or signals a
//! process does it through here, so that bounds, error texts and durability are decided once.
//! The guest agent has its own door: it runs on another machine.
//!
//! Each module deals with one thing of the system; errors name the operation and the path or
//! program it was done to, and carry the system's own error as their source.

pub mod clock;
pub mod command;
pub mod error;
pub mod facts;
pub mod fs;
pub mod heap;
pub mod home;
pub mod inplace;
pub mod lock;
pub mod memory;
pub mod owned;
pub mod process;
pub mod random;
pub mod readiness;
pub mod scratch;
pub mod socket;
mod spawn;
pub mod staged;
pub mod terminal;
#[cfg(feature = "tls")]
pub mod tls;

pub use error::{HostError, Result};
