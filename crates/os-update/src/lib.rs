//! The update agent of an appliance: asks a signed server, fills the slot that does not run, has
//! the boot loader try it, and commits it when it has proved itself.
//!
//! What is believed is decided by `banger-trust`, what is written and when by `banger-update`.
//! Here is what is left: settings and where each comes from ([`settings`]), the network ([`http`],
//! [`dns`]), one run of each command ([`agent`]), what a healthy system is ([`health`]), and how it
//! all is told ([`status`]).
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod agent;
pub mod cloud_init;
pub mod dns;
pub mod fetch;
pub mod health;
pub mod http;
pub mod machine;
pub mod serve;
pub mod settings;
pub mod status;
pub mod url;
