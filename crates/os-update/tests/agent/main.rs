//! The agent with real files and real servers that behave, misbehave and attack.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]
#![expect(clippy::disallowed_methods, reason = "these tests damage files")]

mod appliance;
mod attacks;
mod counted;
mod faults;
mod flow;
mod gates;
mod rollback;
mod server;
mod tls;
mod transport;
mod verdict;
