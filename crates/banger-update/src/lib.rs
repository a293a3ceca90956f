//! Updates that a power cut cannot halve.
//!
//! An appliance has two *slots*, each with a kernel and an initramfs. One runs; the other is
//! written. Which of them starts is said by a *boot loader* ([`BootLoader`]: GRUB with an
//! environment block, systemd-boot with counted entries), which also counts how often a new one
//! was tried. What is going on is a [`State`], and how it may change a pure function
//! ([`State::apply`]).
//!
//! The order of writes is the point of it all:
//!
//! 1. the passive slot is *closed*: the loader will not start it, whatever happens
//! 2. its files are written aside, verified while they stream by, synced, renamed, settled
//! 3. they are read back from the disk and compared with what was verified
//! 4. the state says *Trial*; then one write in place makes the loader try the slot
//! 5. after the boot, the health check *commits* the slot, or the old one is selected again
//!
//! At every instant one complete slot is selected. Everything that is written goes through
//! [`Files`], so that a test can stop the world between any two writes, and lose or reorder what
//! was not synced.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod behind;
mod boot;
mod engine;
mod envblock;
mod files;
mod grub;
mod grub_config;
mod history;
mod record;
mod record_form;
mod recovery;
mod slot;
mod staging;
mod state;
mod systemd_boot;
mod transition;

pub use boot::{BootError, BootLoader, BootView, MAX_TRIES, SlotStatus, Tries};
pub use engine::{Engine, EngineError};
pub use envblock::{BLOCK_LEN, EnvBlock, EnvError};
pub use files::{Files, HostFiles};
pub use grub::{ENV_COPIES, Grub};
pub use grub_config::{KernelArgs, KernelArgsError, grub_config};
pub use history::{Entry, History, MAX_ENTRIES};
pub use record::{ReadRecord, Record, RecordError, RecordFile};
pub use recovery::{CommandLine, Observed, Written, forgotten, recover};
pub use slot::{Layout, ParseSlotError, Slot};
pub use staging::{Incoming, Passive, StageError};
pub use state::{Attempt, Failure, Phase, ReleaseId, Return, State, Trial};
pub use systemd_boot::SystemdBoot;
pub use transition::{Denied, Effect, Event, Next, edges};
