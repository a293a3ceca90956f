//! The nouns of banger as plain values: what a sandbox is made of, how its parts are named,
//! and which limits they have.
//!
//! **Architecture invariant:** nothing here does any I/O, knows a path of the host or reads a
//! clock. A value of these types is valid by construction: whoever holds one need not check it
//! again.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod device;
mod digest;
mod exit;
mod generate;
mod id;
mod label;
pub mod lifecycle;
mod lifetime;
mod limits;
mod name;
mod net;
pub mod policy;
mod progress;
mod record;
mod reference;
mod size;
mod spec;
mod time;
mod volume;

pub use device::{BlockRole, LINK_PORT_NAME, VOLUME_SLOTS};
pub use digest::{Digest, DigestAlgorithm, ParseDigestError};
pub use exit::{ExitCode, ProcessEnd};
pub use generate::generate_name;
pub use id::{
    ImageId, LeaseId, OperationId, ParseIdError, ParseImageIdError, ParseLeaseError,
    ParseOperationError, ParseSnapshotIdError, ParseTemplateError, SandboxId, SnapshotId,
    TemplateId,
};
pub use label::{Label, LabelError, LabelFilter, Labels};
pub use lifetime::{Disposal, Lifetime, ParseRestartError, RestartPolicy};
pub use limits::{ArgsError, Limits};
pub use name::{
    ImageName, KernelName, NameError, SandboxName, SnapshotName, SnapshotNameError, SnapshotTag,
    VolumeName, WantedImage, WantedImageError,
};
pub use net::{GuestNet, MacAddress};
pub use progress::{Progress, Silent};
pub use record::{FromSnapshot, OperationRecord, OperationStatus, SandboxRecord, SnapshotPart};
pub use reference::{ImageReference, ParseReferenceError};
pub use size::{Bytes, ParseBytesError};
pub use spec::{
    Accelerator, BootMode, CpuCount, DiskSize, EnvVar, InitMode, MemorySize, NetworkMode,
    ParseInitError, ParseNetworkError, SandboxSpec, SpecError,
};
pub use time::{ParseSpanError, Span, Timestamp};
pub use volume::{VolumeError, VolumeMount, VolumeMounts, volumes_told};
