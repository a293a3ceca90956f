//! The guest agent: PID 1 of a sandbox, or beside the init of its image.
//!
//! It boots the machine ([`live`]), then serves one host over one byte stream ([`Server`]):
//! starts processes, carries their streams, and ends the machine when it is told to.
//!
//! ```text
//!   initramfs ─► boot ─► server ─► power
//!                          │
//!          port ◄─► AgentLink ◄─► table of processes ◄─► pipes, terminals, cgroups
//! ```
//!
//! Started by itself, the same program is one of its tools ([`run_tool`]): those may block.
//!
//! **Architecture invariants:** one thread owns everything. Nothing here panics on what a host,
//! an image or a process does: the kernel would go down with its first process. Nothing is asked
//! of the C library that could load code or configuration from the image.
#![deny(unsafe_code)]

mod boot;
mod boot_id;
mod cgroup;
mod clock;
mod console;
mod files;
mod fstab;
mod guest;
mod host_keys;
mod identity;
mod link_port;
mod network;
mod poller;
mod port;
mod power;
mod process;
mod program;
mod server;
mod settle;
mod spawn;
mod stats;
mod sys;
mod systemd;
mod table;
mod tool;
mod uevent;
mod users;

pub use cgroup::{Cgroups, Freezer};
pub use guest::{live, live_as_floor};
pub use server::{Machine, PowersOff, ServeError, Server, Setting};
pub use tool::run_tool;
