//! What every virtual machine monitor can do for banger.
//!
//! Before its boot a machine is another type than after: what makes no sense cannot be called.
//! What only one monitor can do is a value in [`Capabilities`], never a method that refuses.

use std::fmt::{self, Debug};
use std::path::Path;
use std::pin::Pin;

use banger_host::process::ProcessIdentity;
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::error::{AdoptError, ControlError, PrepareError};
use crate::machine::{Machine, SavedMachine};

/// A future that a trait object returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A kind of virtual machine monitor, found on this host.
pub trait Vmm: Send + Sync + Debug {
    /// Name and version, such as `qemu 7.2.22`. Another version may make another machine.
    fn name(&self) -> &str;

    /// What it can do beyond what all can.
    fn capabilities(&self) -> Capabilities;

    /// What a guest could tell of its machine, but for what is in its files: a text to compare
    /// with that of another machine. One that was saved fits only a machine with the same.
    fn appearance(&self, machine: &Machine) -> String;

    /// Makes a machine that is there with all its devices, but has not executed anything.
    fn prepare(&self, machine: Machine) -> BoxFuture<'_, Result<Box<dyn Prepared>, PrepareError>>;

    /// Takes over the machine that runs in this directory; `None` when none does. A machine
    /// that never booted because its maker died counts as none.
    fn adopt<'a>(
        &'a self,
        dir: &'a Path,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Running>>, AdoptError>>;
}

/// A machine that has not booted yet. Dropped, it is ended.
pub trait Prepared: Send + Debug {
    /// Lets it execute its first instruction, or go on where it was saved.
    fn boot(self: Box<Self>) -> BoxFuture<'static, Result<Box<dyn Running>, ControlError>>;
}

/// A machine that has booted. Dropped, it runs on: it is the directory's, not the value's.
pub trait Running: Send + Sync + Debug {
    /// The monitor's process.
    fn identity(&self) -> &ProcessIdentity;

    /// Opens the byte stream to the guest's agent. There is one at a time: a second one gets no
    /// answer until the first is closed. What was in flight then is lost.
    fn connect_link(&self) -> BoxFuture<'_, Result<UnixStream, ControlError>>;

    /// Stops the guest's processors.
    fn pause(&self) -> BoxFuture<'_, Result<(), ControlError>>;

    /// Lets them go on; also after [`RunState::OutOfSpace`], once there is space again.
    fn resume(&self) -> BoxFuture<'_, Result<(), ControlError>>;

    /// Writes what a machine is that stands still to two new files, from which others can be made.
    /// They may not be on the disk yet when it returns.
    fn save<'a>(&'a self, to: &'a SavedMachine) -> BoxFuture<'a, Result<(), ControlError>>;

    /// Ends the machine at once, as pulling the plug does, and waits until it is gone.
    fn kill(&self) -> BoxFuture<'_, Result<(), ControlError>>;

    /// How the machine is, now and from now on.
    fn watch(&self) -> watch::Receiver<RunState>;
}

impl dyn Running + '_ {
    /// Waits for the machine's end.
    pub async fn ended(&self) -> EndReason {
        let mut states = self.watch();
        loop {
            if let RunState::Ended(reason) = &*states.borrow_and_update() {
                return reason.clone();
            }
            if states.changed().await.is_err() {
                return EndReason::Unseen;
            }
        }
    }
}

/// What a monitor can do beyond running a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Where it can execute a guest without hardware virtualisation.
    pub emulation: Emulation,
    /// How the guest's end of the link shows in the guest.
    pub link: LinkKind,
}

/// Whether a monitor needs `/dev/kvm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emulation {
    /// It translates instructions where there is no KVM.
    Available,
    /// It runs with KVM or not at all.
    None,
}

/// What carries the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A virtio serial port.
    SerialPort,
    /// A vsock port, behind a line of dialogue on the host's side.
    Vsock,
}

/// How a machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Its processors execute.
    Running,
    /// Somebody stopped it.
    Paused,
    /// It stopped itself because the host's file system is full: nothing is lost, it goes on
    /// after [`Running::resume`].
    OutOfSpace,
    /// Its processors cannot go on.
    Broken,
    /// It is gone.
    Ended(EndReason),
}

/// As the end of a sentence about the machine. What the guest itself said is escaped.
impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => f.write_str("the guest powered itself off"),
            Self::Reset => f.write_str("the guest restarted, which ends a sandbox"),
            Self::Panicked(words) => {
                write!(f, "the guest's kernel panicked: {}", words.trim().escape_debug())
            }
            Self::Killed => f.write_str("its virtual machine monitor was killed"),
            Self::Crashed(words) => {
                let words = words.trim().escape_debug();
                write!(f, "its virtual machine monitor crashed: {words}")
            }
            Self::Unseen => f.write_str("nobody saw why"),
        }
    }
}

/// Why a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The guest switched it off.
    PoweredOff,
    /// The guest restarted it, which ends a sandbox.
    Reset,
    /// The guest's kernel gave up, with this as its last word. The guest could have made it up.
    Panicked(String),
    /// Somebody on the host ended it.
    Killed,
    /// The monitor ended without being asked to, with this as its last word.
    Crashed(String),
    /// It was over before anyone looked.
    Unseen,
}
