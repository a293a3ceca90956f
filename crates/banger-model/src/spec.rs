//! What a user asks for when asking for a sandbox.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::Limits;
use crate::name::{KernelName, WantedImage};
use crate::size::{Bytes, ParseBytesError};
use crate::volume::VolumeMounts;

/// Why a value cannot be part of a spec.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SpecError {
    /// Not a number of CPUs, or one outside the limits.
    #[error("{0:?} is not a number of CPUs: use 1 to {max}", max = Limits::MAX_CPUS)]
    Cpus(String),
    /// The text is not a size.
    #[error(transparent)]
    Size(#[from] ParseBytesError),
    /// Memory outside the limits.
    #[error("{0} of memory is out of range: use {min} to {max}", min = Limits::MIN_MEMORY, max = Limits::MAX_MEMORY)]
    Memory(Bytes),
    /// A disk outside the limits.
    #[error("a disk of {0} is out of range: use {min} to {max}", min = Limits::MIN_DISK, max = Limits::MAX_DISK)]
    Disk(Bytes),
    /// An environment variable that no process could have.
    #[error("{0:?} is not an environment variable: write NAME=VALUE")]
    Env(String),
}

/// Virtual CPUs of a sandbox: 1 to [`Limits::MAX_CPUS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct CpuCount(u16);

impl CpuCount {
    /// A single CPU.
    pub const ONE: Self = Self(1);
    /// Two CPUs.
    pub const TWO: Self = Self(2);

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for CpuCount {
    type Error = SpecError;

    fn try_from(n: u16) -> Result<Self, Self::Error> {
        match n {
            1..=Limits::MAX_CPUS => Ok(Self(n)),
            _ => Err(SpecError::Cpus(n.to_string())),
        }
    }
}

impl From<CpuCount> for u16 {
    fn from(cpus: CpuCount) -> Self {
        cpus.0
    }
}

impl FromStr for CpuCount {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<u16>().map_err(|_| SpecError::Cpus(text.to_owned()))?.try_into()
    }
}

impl fmt::Display for CpuCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Memory of a sandbox: a whole number of MiB within the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct MemorySize(Bytes);

impl MemorySize {
    /// What a sandbox gets when nothing is said: room for a shell, git and a small build.
    pub const DEFAULT: Self = Self(Bytes::mib(512));

    /// The size.
    pub fn bytes(self) -> Bytes {
        self.0
    }
}

impl TryFrom<Bytes> for MemorySize {
    type Error = SpecError;

    fn try_from(size: Bytes) -> Result<Self, Self::Error> {
        if !(Limits::MIN_MEMORY..=Limits::MAX_MEMORY).contains(&size) {
            return Err(SpecError::Memory(size));
        }
        Ok(Self(size.round_up_to(Bytes::mib(1).get())))
    }
}

impl From<MemorySize> for Bytes {
    fn from(size: MemorySize) -> Self {
        size.0
    }
}

impl FromStr for MemorySize {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<Bytes>()?.try_into()
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Size of a sandbox's writable disk: a whole number of MiB within the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct DiskSize(Bytes);

impl DiskSize {
    /// What a sandbox gets when nothing is said. The file is sparse.
    pub const DEFAULT: Self = Self(Bytes::gib(8));

    /// What a sandbox of an image of this size gets when nothing is said: whatever is changed lies on
    /// the disk as a whole, so there is room for all of the image once, and a quarter more.
    pub fn beside(image: Bytes) -> Self {
        let room = Bytes::new(image.get().saturating_add(image.get() / 4));
        let bounded = room.clamp(Self::DEFAULT.0, Limits::MAX_DISK);
        Self(bounded.round_up_to(Bytes::mib(1).get()))
    }

    /// The size.
    pub fn bytes(self) -> Bytes {
        self.0
    }
}

impl TryFrom<Bytes> for DiskSize {
    type Error = SpecError;

    fn try_from(size: Bytes) -> Result<Self, Self::Error> {
        if !(Limits::MIN_DISK..=Limits::MAX_DISK).contains(&size) {
            return Err(SpecError::Disk(size));
        }
        Ok(Self(size.round_up_to(Bytes::mib(1).get())))
    }
}

impl From<DiskSize> for Bytes {
    fn from(size: DiskSize) -> Self {
        size.0
    }
}

impl FromStr for DiskSize {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<Bytes>()?.try_into()
    }
}

impl fmt::Display for DiskSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One environment variable. Both halves are bytes: Linux asks for no encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    name: Vec<u8>,
    value: Vec<u8>,
}

impl EnvVar {
    /// Parses `NAME=VALUE`.
    ///
    /// # Errors
    /// [`SpecError::Env`] when the name is empty or there is no `=` or a NUL.
    pub fn parse(text: &[u8]) -> Result<Self, SpecError> {
        let bad = || SpecError::Env(String::from_utf8_lossy(text).into_owned());
        let equals = text.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        if equals == 0 || text.contains(&0) {
            return Err(bad());
        }
        Ok(Self { name: text[..equals].to_vec(), value: text[equals + 1..].to_vec() })
    }

    /// The part before the first `=`.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The part after the first `=`.
    pub fn value(&self) -> &[u8] {
        &self.value
    }
}

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor, through `/dev/kvm`.
    Kvm,
    /// QEMU's translator: slower, needs nothing of the host.
    Tcg,
}

impl Accelerator {
    /// The number of CPUs a sandbox gets when nothing is said. Under TCG a second one doubles
    /// the time a guest takes to boot.
    pub fn default_cpus(self) -> CpuCount {
        match self {
            Self::Kvm => CpuCount::TWO,
            Self::Tcg => CpuCount::ONE,
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// Everything that shapes a sandbox's machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The root file system.
    pub image: WantedImage,
    /// The kernel that boots it; none means the one that the image wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelName>,
    /// Virtual CPUs; none means [`Accelerator::default_cpus`].
    pub cpus: Option<CpuCount>,
    /// Memory.
    pub memory: MemorySize,
    /// Writable disk; none means what the image wishes, or [`DiskSize::beside`] it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskSize>,
    /// How it is connected.
    #[serde(default)]
    pub network: NetworkMode,
    /// How it comes up the first time.
    #[serde(default)]
    pub boot: BootMode,
    /// Who is its first process; none means whoever the image wishes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<InitMode>,
    /// What is mounted in it, and outlives it.
    #[serde(default, skip_serializing_if = "VolumeMounts::is_empty")]
    pub volumes: VolumeMounts,
}

impl SandboxSpec {
    /// A sandbox of this image, with everything else as it comes.
    pub fn of(image: WantedImage) -> Self {
        Self {
            image,
            kernel: None,
            cpus: None,
            memory: MemorySize::DEFAULT,
            disk: None,
            network: NetworkMode::default(),
            boot: BootMode::default(),
            init: None,
            volumes: VolumeMounts::default(),
        }
    }

    /// How many CPUs it gets of a machine that this executes.
    pub fn cpus_under(&self, accelerator: Accelerator) -> CpuCount {
        self.cpus.unwrap_or(accelerator.default_cpus())
    }
}

/// How a sandbox comes up the first time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootMode {
    /// From a template: a machine that has booted already and was saved.
    #[default]
    Template,
    /// By booting a kernel.
    Cold,
}

/// Who is the first process of a sandbox once the root is in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InitMode {
    /// Our agent: for images without an init of their own.
    #[default]
    Agent,
    /// The image's own systemd, with our agent beside it.
    Systemd,
}

/// Why a text is no init mode.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no first process: use agent or systemd")]
pub struct ParseInitError(String);

impl FromStr for InitMode {
    type Err = ParseInitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "agent" => Ok(Self::Agent),
            "systemd" => Ok(Self::Systemd),
            other => Err(ParseInitError(other.to_owned())),
        }
    }
}

impl fmt::Display for InitMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "agent",
            Self::Systemd => "systemd",
        })
    }
}

/// How a sandbox is connected.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// A network of its own with a way out.
    #[default]
    User,
    /// Not at all.
    None,
}

/// Why a text is no network mode.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no network: use user or none")]
pub struct ParseNetworkError(String);

impl FromStr for NetworkMode {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "user" => Ok(Self::User),
            "none" => Ok(Self::None),
            other => Err(ParseNetworkError(other.to_owned())),
        }
    }
}

impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::None => "none",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsing_refuses_what_no_sandbox_could_have() {
        assert!("1M".parse::<MemorySize>().is_err());
        assert!("2048T".parse::<MemorySize>().is_err());
        assert!("1M".parse::<DiskSize>().is_err());
        for bad in ["0", "999", "-1", "two", "1.5", ""] {
            assert!(bad.parse::<CpuCount>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_comes_as_json_has_the_same_limits() {
        assert!(serde_json::from_str::<CpuCount>("0").is_err());
        assert!(serde_json::from_str::<MemorySize>("1048576").is_err());
        assert!(serde_json::from_str::<DiskSize>("1").is_err());
        let memory: MemorySize = serde_json::from_str("104857601").unwrap();
        assert_eq!(serde_json::to_string(&memory).unwrap(), (101 << 20).to_string());
    }

    #[test]
    fn memory_is_whole_mebibytes() {
        assert_eq!("104857601".parse::<MemorySize>().map(|m| m.bytes()), Ok(Bytes::mib(101)));
    }

    #[test]
    fn a_disk_has_room_for_all_of_a_large_image() {
        let beside = |image| DiskSize::beside(image).bytes();
        assert_eq!(beside(Bytes::ZERO), Bytes::gib(8));
        assert_eq!(beside(Bytes::gib(6)), Bytes::gib(8));
        assert_eq!(beside(Bytes::gib(20)), Bytes::gib(25));
        assert_eq!(beside(Bytes::new((20 << 30) + 1)), Bytes::new((25 << 30) + (1 << 20)));
        assert_eq!(beside(Bytes::new(u64::MAX)), Limits::MAX_DISK);
    }

    #[test]
    fn a_variable_splits_at_its_first_equals_sign() {
        let var = EnvVar::parse(b"A=x=y \xff").unwrap();
        assert_eq!((var.name(), var.value()), (&b"A"[..], &b"x=y \xff"[..]));
        assert!(EnvVar::parse(b"=x").is_err());
        assert!(EnvVar::parse(b"A").is_err());
        assert!(EnvVar::parse(b"A=\0").is_err());
    }
}
