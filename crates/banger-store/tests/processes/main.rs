//! The store between processes: one has it open, writes and is killed; the other looks.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod check;
mod crash;
mod scribe;
