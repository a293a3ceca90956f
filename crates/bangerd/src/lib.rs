//! The owner's side of sandboxes: from what is asked for to a running guest and the processes in
//! it, and the daemon that outlives none of them.
//!
//! ```text
//!   server ─ api ─▶ registry ─▶ driver (one task a sandbox) ─▶ machine ─▶ link
//!                                   │                            ▲
//!                                 store             templates, spares, arsenal
//! ```
//!
//! **Architecture invariant:** nothing here knows a terminal or a command line. What is decided
//! reaches the store before the world, so any daemon may die at any instant and the next one goes
//! on ([`recovery`]).

mod api;
mod arsenal;
pub mod assets;
pub mod bench;
pub mod catalog;
pub mod checkpoint;
pub mod config;
pub mod daemon;
pub mod doctor;
mod driver;
mod exec;
mod images;
mod leases;
pub mod link;
mod logs;
pub mod machine;
mod metrics;
mod operations;
mod origin;
mod recovery;
mod registry;
mod saved;
mod seat;
mod server;
mod shared;
mod snapshots;
pub mod spares;
mod stats;
mod store;
mod superseded;
pub mod templates;
mod volumes;

pub use api::openapi;
