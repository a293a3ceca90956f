//! What the agent asks of the kernel that no safe library offers.
//!
//! Every other module of this crate is safe code on rustix; the reasons for each `unsafe` are
//! beside it here.
#![expect(unsafe_code, reason = "system calls that have no safe form elsewhere")]

pub(crate) mod adjust;
pub(crate) mod child;
pub(crate) mod entropy;
pub(crate) mod ext4;
pub(crate) mod fork;
pub(crate) mod interface;
pub(crate) mod signals;
