//! Virtual machine monitors behind one trait, and what goes with them: the probe that tells
//! whether `/dev/kvm` can be trusted, the reaper that ends all that belongs to a sandbox, the
//! console log.
//!
//! ```text
//! Machine ──Vmm::prepare──▶ Prepared ──boot──▶ Running ──▶ RunState::Ended(why)
//!                          (alive, but no instruction executed)    ▲
//! directory ──────────────Vmm::adopt──────────────┘                │
//! directory ──────────────reap─────────────────────────────────────┘
//! ```
//!
//! **Architecture invariant:** everything about a running machine can be found from its
//! directory alone. A value of [`Running`] may be dropped and made again by another process; the
//! machine does not notice.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod answered;
pub mod console;
mod error;
pub mod facts;
mod machine;
mod pollable;
pub mod probe;
pub mod qemu;
mod reap;
mod record;
mod vmm;

pub use answered::answered;
pub use error::{AdoptError, ControlError, PrepareError, ReapError};
pub use machine::{
    Board, Disks, KernelStart, LINK_SOCKET, Machine, Net, SavedMachine, Start, VolumeFiles,
};
pub use pollable::pollable;
pub use reap::{Reaped, clear_sockets, reap};
pub use record::{RECORD_FILE, Record};
pub use vmm::{
    BoxFuture, Capabilities, Emulation, EndReason, LinkKind, Prepared, RunState, Running, Vmm,
};
