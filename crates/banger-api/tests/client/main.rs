//! The client against a daemon that is made up by each test.
#![expect(clippy::unwrap_used, reason = "what is unexpected in a test fails it")]

mod events;
mod fake;
mod hostile;
mod requests;
mod session;
