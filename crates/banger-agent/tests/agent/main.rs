//! The agent's server against a real host link, with real processes of this machine.
//!
//! The agent runs as a process of its own (the example `serve`): it takes over the signals and
//! the children of the whole process it is in.
#![expect(clippy::unwrap_used, reason = "what is unexpected in a test fails it")]

mod control;
mod guest;
mod host;
mod processes;
mod terminals;
mod tools;
