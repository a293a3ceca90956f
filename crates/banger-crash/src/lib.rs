//! Kills the daemon at any instant, starts it again, and looks whether the world is as it should
//! be: nothing that was promised is lost, nothing that was asked for is done by half, nothing is
//! left over.
//!
//! ```text
//!   rounds, checkpoints ─▶ burst ─▶ the real bangerd ─▶ scripted monitor (or QEMU)
//!            │               │
//!            │               └─▶ book: what was asked, what was answered
//!            │               ├─▶ shelf: the same of snapshots
//!            │               └─▶ lives: what has to be in whose memory
//!            └─▶ check: all of these against API, guests, /proc, files and database
//! ```
//!
//! Daemon, database, file system and processes are the real ones; only the machine in a sandbox is
//! made up ([`scripted`]), unless real ones are asked for.
#![expect(
    clippy::disallowed_methods,
    reason = "a development tool: it starts the daemon as anybody would, and looks at what it left"
)]

mod ask;
pub mod bench;
pub mod book;
mod burst;
mod check;
pub mod checkpoints;
mod cut;
mod daemon;
mod draw;
pub mod held;
pub mod lives;
mod machines;
pub mod place;
pub mod power;
pub mod rounds;
mod scene;
pub mod scripted;
pub mod shelf;
pub mod tally;
mod whole;
mod witness;
mod world;
