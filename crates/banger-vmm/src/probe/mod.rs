//! Whether `/dev/kvm` runs guests.
//!
//! That the device is there, may be opened and reports its version proves nothing: on some
//! hosts, themselves virtual machines, guests stall or die under it. So it is trusted only after
//! it has run one: a kernel and an initramfs that print a marker and power off. The verdict is
//! remembered for this boot of the host, this kernel and this monitor.

mod verdict;

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_host::HostError;
use banger_host::facts::boot_id;
use banger_host::fs::{create_private_dir, is_there, remove_all, sweep_aside};
use banger_host::home::Home;
use banger_host::lock::FileLock;
use banger_host::{owned, random};
use banger_model::{Accelerator, CpuCount, MacAddress, MemorySize, SandboxId};
use thiserror::Error;
use tokio::time::timeout;

use crate::console::{self, CONSOLE_LOG};
use crate::facts::{self, recall, remember};
use crate::machine::{Board, Disks, KernelStart, Machine, Net, Start};
use crate::vmm::{EndReason, RunState, Running, Vmm};

pub use verdict::KvmVerdict;
use verdict::{Key, Outcome, judge};

/// Where the probe's machine is, in the directory of what is known of the host.
const PLACE: &str = "probe";
/// Held by whoever tries KVM.
const LOCK: &str = "kvm.lock";
/// What was found out.
const VERDICTS: &str = "kvm.json";
/// The kernel argument that makes the initramfs print [`MARKER`] to the console and power off.
pub const PROBE_ARGUMENT: &str = "banger.probe";
/// What the initramfs prints. Only a program run under KVM can have written it.
pub const MARKER: &str = "banger-probe-ok";

/// How long a guest may take to print the marker. Where KVM works it takes well under a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much of the console is searched for the marker, in bytes.
const CONSOLE_TAIL: u64 = 16 * 1024;
/// The device.
const KVM: &str = "/dev/kvm";

/// The guest that is run to try KVM.
#[derive(Clone, Debug)]
pub struct ProbeGuest {
    /// The kernel, an uncompressed ELF file.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// What tells this pair from every other, such as a digest.
    pub identity: String,
}

/// A verdict, and whether it is news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It was known, or needed no trial.
    Known(KvmVerdict),
    /// It was found out just now, by a trial.
    New(KvmVerdict),
}

impl Finding {
    /// The verdict.
    pub fn verdict(&self) -> &KvmVerdict {
        match self {
            Self::Known(verdict) | Self::New(verdict) => verdict,
        }
    }
}

/// Why there is no verdict.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The place where verdicts are kept cannot be used.
    #[error("cannot keep what is found out about KVM")]
    Facts(#[source] HostError),
}

/// Whether KVM runs guests on this host: as remembered, else by trying, which takes up to ten
/// seconds. Of several callers at once one tries, and the others wait for it.
///
/// # Errors
/// When the verdict cannot be kept. That KVM does not work is no error but a verdict.
pub async fn kvm_verdict(
    home: &Home,
    vmm: &dyn Vmm,
    guest: &ProbeGuest,
) -> Result<Finding, ProbeError> {
    // Access is asked for each time: an owner may be added to a group between two calls.
    if let Err(error) = OpenOptions::new().read(true).write(true).open(KVM) {
        return Ok(Finding::Known(verdict::of_open_error(&error)));
    }
    let facts = home.host_facts();
    let path = facts.join(VERDICTS);
    let key = Key {
        boot_id: boot_id().map_err(ProbeError::Facts)?,
        guest: guest.identity.clone(),
        vmm: vmm.name().to_owned(),
    };
    if let Some(verdict) = recall(&path, &key) {
        return Ok(Finding::Known(verdict));
    }
    let _lock = lock(&facts).await?;
    // Whoever held the lock may have found it out meanwhile.
    if let Some(verdict) = recall(&path, &key) {
        return Ok(Finding::Known(verdict));
    }
    let verdict = judge(try_kvm(&facts, vmm, guest).await?);
    remember(&path, key, verdict.clone()).map_err(ProbeError::Facts)?;
    Ok(Finding::New(verdict))
}

/// Removes what a prober left that was killed: nobody else does until KVM is tried again. The daemon
/// alone writes down what else is known of the host, and has not begun.
///
/// # Errors
/// When something of it remains.
pub fn settle(home: &Home) -> Result<(), ProbeError> {
    let facts = home.host_facts();
    facts::sweep(home).map_err(ProbeError::Facts)?;
    if ![LOCK, PLACE].iter().any(|name| is_there(&facts.join(name))) {
        return Ok(());
    }
    let swept = match FileLock::try_acquire(&facts.join(LOCK)).map_err(ProbeError::Facts)? {
        Some(_lock) => sweep(&facts.join(PLACE)).and_then(|()| sweep_aside(&facts.join(VERDICTS))),
        // Somebody tries it just now.
        None => Ok(()),
    };
    swept.map_err(ProbeError::Facts)
}

/// Ends and removes what a prober has left in its directory; the lock says that it is gone.
fn sweep(dir: &Path) -> Result<(), HostError> {
    if !is_there(dir) {
        return Ok(());
    }
    for process in owned::find(dir)? {
        process.kill(PATIENCE)?;
    }
    remove_all(dir)
}

async fn lock(facts: &Path) -> Result<FileLock, ProbeError> {
    create_private_dir(facts).map_err(ProbeError::Facts)?;
    let path = facts.join(LOCK);
    let waited = tokio::task::spawn_blocking(move || FileLock::acquire(&path)).await;
    waited
        .map_err(|error| ProbeError::Facts(HostError::system("wait", io::Error::other(error))))?
        .map_err(ProbeError::Facts)
}

/// Runs the guest once in a directory of its own.
async fn try_kvm(facts: &Path, vmm: &dyn Vmm, guest: &ProbeGuest) -> Result<Outcome, ProbeError> {
    let dir = facts.join(PLACE);
    sweep(&dir).and_then(|()| create_private_dir(&dir)).map_err(ProbeError::Facts)?;
    let dir = dir.canonicalize().map_err(|source| {
        ProbeError::Facts(HostError::Path { operation: "resolve", path: dir.clone(), source })
    })?;
    let id = SandboxId::from_random(random::bytes().map_err(ProbeError::Facts)?);
    let machine = Machine {
        dir: dir.clone(),
        start: Start::Kernel(KernelStart {
            kernel: guest.kernel.clone(),
            initramfs: guest.initramfs.clone(),
            args: vec![PROBE_ARGUMENT.to_owned()],
            tsc_khz: 0,
        }),
        board: Board::LATEST,
        accelerator: Accelerator::Kvm,
        cpus: CpuCount::ONE,
        memory: MemorySize::DEFAULT,
        disks: Disks::default(),
        mac: MacAddress::of(&id),
        net: Net::Absent,
    };
    let outcome = match timeout(PATIENCE, run(vmm, machine)).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Silent { seconds: PATIENCE.as_secs() },
    };
    let outcome = match outcome {
        Outcome::Ended(_) if marked(&dir) => Outcome::Marked,
        // The time was over after the marker, but before the end: KVM has run a program.
        Outcome::Silent { .. } if marked(&dir) => Outcome::Marked,
        other => other,
    };
    sweep(&dir).map_err(ProbeError::Facts)?;
    Ok(outcome)
}

fn marked(dir: &Path) -> bool {
    console::tail(&dir.join(CONSOLE_LOG), CONSOLE_TAIL).contains(MARKER)
}

async fn run(vmm: &dyn Vmm, machine: Machine) -> Outcome {
    let prepared = match vmm.prepare(machine).await {
        Ok(prepared) => prepared,
        Err(error) => return Outcome::NotStarted(chain(&error)),
    };
    match prepared.boot().await {
        Ok(machine) => watch(&*machine).await,
        Err(error) => Outcome::NotStarted(chain(&error)),
    }
}

async fn watch(machine: &dyn Running) -> Outcome {
    let mut states = machine.watch();
    let over = |state: &RunState| matches!(state, RunState::Ended(_) | RunState::Broken);
    match states.wait_for(over).await.map(|state| state.clone()) {
        Ok(RunState::Ended(reason)) => Outcome::Ended(reason),
        Ok(_) => Outcome::Broken,
        Err(_) => Outcome::Ended(EndReason::Unseen),
    }
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_prober_left_goes_unless_somebody_probes() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::under(root.path());
        settle(&home).unwrap();
        let facts = home.host_facts();
        create_private_dir(&facts.join(PLACE)).unwrap();
        let probing = FileLock::acquire(&facts.join(LOCK)).unwrap();
        settle(&home).unwrap();
        assert!(is_there(&facts.join(PLACE)));
        drop(probing);
        let aside = ["kvm", "tsc"].map(|name| facts.join(format!(".{name}.json.01234567.new")));
        aside.iter().for_each(|path| create_private_dir(path).unwrap());
        settle(&home).unwrap();
        assert!(!is_there(&facts.join(PLACE)) && !aside.iter().any(|path| is_there(path)));
    }
}
