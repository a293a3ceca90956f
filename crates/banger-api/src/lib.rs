//! The daemon's HTTP API under `/v1`: its types, its OpenAPI document and a typed client.
//!
//! What travels is JSON over HTTP on a Unix socket. What takes long is an [`types::Operation`];
//! its progress, logs and statistics are server-sent events. A process's streams travel as frames
//! ([`attach`]) over a connection upgraded from HTTP.
//!
//! **Architecture invariant:** the server and every client use these types and no others; a field
//! that was ever published keeps its name and meaning.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod attach;
pub mod client;
pub mod sse;
pub mod types;
