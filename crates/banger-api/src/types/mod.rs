//! What travels: requests, answers, events.

mod image;
mod kernel;
mod operation;
mod problem;
mod process;
mod sandbox;
mod snapshot;
mod stats;
mod template;
mod text;
mod volume;

pub use image::{CachedBlob, Image, ImageWishes, PruneCacheRequest, PrunedCache, PullImage};
pub use kernel::{ImportKernel, Kernel};
pub use operation::{Asked, ImageAction, Operation, Stage, StageProgress};
pub use problem::{Problem, ProblemCode};
pub use process::{
    Command, GuestProcess, MainCommand, ParseProcessIdError, PathKind, ProcessId, StartProcess,
    StartedProcess, Window,
};
pub use sandbox::{
    Condition, ConditionKind, CreateFrom, CreateSandbox, Created, DiskUsage, ForkSandbox, Forked,
    Health, HealthStatus, LogChunk, LogSource, PruneRequest, Pruned, Sandbox, SandboxDetail,
    Version,
};
pub use snapshot::Snapshot;
pub use stats::{GuestUse, HostUse, Stats};
pub use template::{PruneTemplatesRequest, PrunedTemplates, Template};
pub use text::Text;
pub use volume::{CreateVolume, ResizeVolume, Volume};
