//! The `banger` program as its users meet it: real processes, real machines, real networks.
//!
//! What needs no machine is in `cli` and `refusals` and runs in milliseconds; each of the others
//! boots one or a few.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]
#![expect(clippy::disallowed_methods, reason = "tests are on the other side of the door")]

mod catalog;
mod cli;
mod cp;
mod deaths;
mod fork;
mod images;
mod inside;
mod kernels;
mod lifetime;
mod link;
mod lives;
mod logs_stats;
mod made_images;
mod mistakes;
mod network;
mod pause;
mod prune;
mod refusals;
mod run;
mod siblings;
mod snapshot;
mod spares;
mod support;
mod survival;
mod systemd;
mod template;
mod terminal;
mod vm;
mod volumes;
