//! The owner's side of sandboxes: from a spec to a running guest and the processes in it.
//!
//! ```text
//!   Owner (home, assets)          what sandboxes are made from
//!     └─ Sandbox                  one directory, one VMM, one lease
//!          └─ Link ── Process     requests and streams over the guest's link
//! ```
//!
//! **Architecture invariant:** nothing here knows a terminal or a command line. Who owns a
//! sandbox holds its [`Lease`]; when that falls, whoever sees it first — the sandbox's
//! [`keeper`] or the next [`sweep`] — removes all that belongs to it.

pub mod assets;
pub mod bench;
pub mod doctor;
pub mod keeper;
mod lease;
pub mod link;
pub mod sandbox;
mod sweep;

pub use lease::Lease;
pub use sweep::sweep;
