//! The nouns of banger as plain values: what a sandbox is made of, how its parts are named,
//! and which limits they have.
//!
//! **Architecture invariant:** nothing here does any I/O, knows a path of the host or reads a
//! clock. A value of these types is valid by construction: whoever holds one need not check it
//! again.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod device;
mod exit;
mod id;
mod limits;
mod name;
mod net;
mod progress;
mod size;
mod spec;

pub use device::{BlockRole, LINK_PORT_NAME, VOLUME_SLOTS};
pub use exit::{ExitCode, ProcessEnd};
pub use id::{ParseIdError, SandboxId};
pub use limits::Limits;
pub use name::{ImageName, KernelName, NameError, SandboxName};
pub use net::{GuestNet, MacAddress};

pub use progress::{Progress, Silent};
pub use size::{Bytes, ParseBytesError};
pub use spec::{Accelerator, CpuCount, DiskSize, EnvVar, MemorySize, SandboxSpec, SpecError};
