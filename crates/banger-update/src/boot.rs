//! What an update asks of a boot loader, whichever it is.

use std::fmt;
use std::path::PathBuf;

use banger_host::HostError;
use thiserror::Error;

use crate::envblock::EnvError;
use crate::recovery::CommandLine;
use crate::slot::Slot;

/// Most times that a new slot can be tried: counters have one digit.
pub const MAX_TRIES: u8 = 9;

/// How often a new slot is started before it counts as broken: 1 to 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries(u8);

impl Tries {
    /// So many; `None` for what no counter can hold.
    pub fn new(tries: u8) -> Option<Self> {
        (1..=MAX_TRIES).contains(&tries).then_some(Self(tries))
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Default for Tries {
    fn default() -> Self {
        Self(3)
    }
}

/// What a boot loader does about a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotStatus {
    /// It starts it.
    Good,
    /// It starts it so many more times.
    Trial {
        /// Boots that are left.
        left: u8,
    },
    /// It never starts it.
    Bad,
}

impl SlotStatus {
    /// Whether it may be started.
    pub fn is_startable(self) -> bool {
        !matches!(self, Self::Bad | Self::Trial { left: 0 })
    }
}

/// What a boot loader will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootView {
    /// The slot that it looks at first.
    pub first: Slot,
    /// What it does about A.
    pub a: SlotStatus,
    /// What it does about B.
    pub b: SlotStatus,
    /// What it was last told to pass on to the kernel, to prove that it was listening.
    pub nonce: String,
}

impl BootView {
    /// A and B are good, and this one is first.
    pub fn starting(first: Slot) -> Self {
        Self { first, a: SlotStatus::Good, b: SlotStatus::Good, nonce: "none".to_owned() }
    }

    /// What it does about this slot.
    pub fn status(&self, slot: Slot) -> SlotStatus {
        match slot {
            Slot::A => self.a,
            Slot::B => self.b,
        }
    }

    /// The same with another status of this slot.
    #[must_use]
    pub fn with(mut self, slot: Slot, status: SlotStatus) -> Self {
        match slot {
            Slot::A => self.a = status,
            Slot::B => self.b = status,
        }
        self
    }

    /// The slot that starts next; `None` when none may.
    pub fn next(&self) -> Option<Slot> {
        [self.first, !self.first].into_iter().find(|slot| self.status(*slot).is_startable())
    }
}

/// Why a boot loader could not be asked or told.
#[derive(Debug, Error)]
pub enum BootError {
    /// A file of it.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Both copies of its environment are unusable.
    #[error("the boot loader's environment {path} is unusable", path = path.display())]
    Environment {
        /// The first copy.
        path: PathBuf,
        /// What is wrong with it.
        source: EnvProblem,
    },
    /// The disk did not keep what was written.
    #[error("{path} does not say what was written to it: the disk is failing", path = path.display())]
    NotKept {
        /// The file.
        path: PathBuf,
    },
    /// There is no room for our variables where one sector holds them all.
    #[error("{path} has too much in it besides the variables of the slots", path = path.display())]
    Crowded {
        /// The file.
        path: PathBuf,
    },
    /// There is no entry for the slot.
    #[error("the boot loader has no entry for slot {0}")]
    NoEntry(Slot),
}

/// What is wrong with a copy of an environment.
#[derive(Debug, Error)]
pub enum EnvProblem {
    /// It is not there.
    #[error("it is not there")]
    Missing,
    /// It is no block.
    #[error(transparent)]
    Block(#[from] EnvError),
    /// A variable has no value that makes sense.
    #[error("its variable {0} makes no sense")]
    Variable(&'static str),
}

/// Starts one of two slots, and counts how often it did. Each method that changes something does
/// so at one instant: before it the loader does the old thing, after it the new one.
pub trait BootLoader: fmt::Debug {
    /// What it will do.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn view(&self) -> Result<BootView, BootError>;

    /// Settles what a power cut has left of a change, in a boot that was told this. What it will do
    /// is the same afterwards.
    ///
    /// # Errors
    /// When it could not be told.
    fn mend(&self, _booted: &CommandLine) -> Result<(), BootError> {
        Ok(())
    }

    /// It will not start this slot, and look at the other one first, which is the one that runs: it
    /// is startable from then on. The slot may be written.
    ///
    /// # Errors
    /// When it could not be told.
    fn close(&self, slot: Slot) -> Result<(), BootError>;

    /// It will start this slot so many times, then the other one; and pass the nonce on.
    ///
    /// # Errors
    /// When it could not be told.
    fn try_next(&self, slot: Slot, tries: Tries, nonce: &str) -> Result<(), BootError>;

    /// This slot is good, and first.
    ///
    /// # Errors
    /// When it could not be told.
    fn commit(&self, slot: Slot) -> Result<(), BootError>;

    /// This slot is good and first, and the other one is never started.
    ///
    /// # Errors
    /// When it could not be told.
    fn select(&self, slot: Slot) -> Result<(), BootError>;
}
