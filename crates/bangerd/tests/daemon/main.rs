//! The real daemon, asked through its socket: what it answers, what it withstands, what it leaves.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]
#![expect(clippy::disallowed_methods, reason = "tests are on the other side of the door")]

mod documents;
mod hostile;
mod leases;
mod lost;
mod starts;
mod support;
mod traces;
