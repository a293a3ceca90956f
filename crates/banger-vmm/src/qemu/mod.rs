//! QEMU as a monitor: `microvm` machines, controlled through QMP.

mod args;
mod discover;
mod qmp;
mod running;

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_host::clock::Deadline;
use banger_host::fs::{file_size, open_append, open_file};
use banger_host::process::{Launch, Process};
use banger_host::{HostError, socket};
use banger_model::BlockRole;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;

use crate::console::{self, CONSOLE_LOG, VMM_LOG};
use crate::error::{AdoptError, ControlError, PrepareError};
use crate::machine::{LINK_SOCKET, Machine, Net, Start, VolumeFiles};
use crate::record::{Memory, Record};
use crate::vmm::{BoxFuture, Capabilities, Emulation, LinkKind, Prepared, RunState, Running, Vmm};

pub use args::arguments;
pub use discover::{DiscoverError, QemuVersion};
pub use qmp::{DecodeError, QmpError, count_messages};

use qmp::{Carrier, Loaded, Qmp};
use running::QemuMachine;

/// Name of QEMU's control socket in a machine's directory.
pub(crate) const QMP_SOCKET: &str = "qmp.sock";
/// How long a new QEMU may take to answer: 60 ms, times what else the host has to do.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long a running QEMU may take to answer. It answers between two slices of disk writing.
const CONTROL_PATIENCE: Duration = Duration::from_secs(20);
/// How long a running QEMU may take for what writes all of a guest's disk that is not written yet:
/// gigabytes, where the host's disk is slow. Whatever else it is told waits behind that.
const FLUSH_PATIENCE: Duration = Duration::from_secs(900);
/// How much of QEMU's log an error message carries, in bytes.
const LOG_TAIL: u64 = 1024;
/// How long a killed QEMU may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(30);

/// The QEMU of this host.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: PathBuf,
    name: String,
}

impl Qemu {
    /// Finds QEMU on a search path such as the value of `PATH`. It runs the program, which
    /// blocks for some 30 ms.
    ///
    /// # Errors
    /// When it is missing, too old or no QEMU.
    pub fn discover(path: &OsStr) -> Result<Self, DiscoverError> {
        let (program, version) = discover::discover(path)?;
        Ok(Self { program, name: format!("qemu {version}") })
    }

    async fn prepare_machine(&self, machine: Machine) -> Result<PreparedQemu, PrepareError> {
        let dir = machine.dir.clone();
        let carrier = !matches!(machine.net, Net::Absent);
        let is_saved = matches!(machine.start, Start::Saved(_));
        let volumes = sizes(&machine.disks.volumes)
            .map_err(|source| PrepareError::Directory { dir: dir.clone(), source })?;
        let qemu = self.clone();
        // A new process takes milliseconds, and a sync as long as the disk likes.
        let launched = spawn_blocking(move || qemu.launch(machine)).await;
        let (owned, memory) = launched.map_err(PrepareError::BrokeOff)??;
        let qmp =
            connect_control(&dir, START_PATIENCE).await.map_err(|error| gave_up(&dir, error))?;
        if is_saved {
            load(&dir, &qmp).await?;
            for (node, size) in volumes {
                let told = qmp.announce_size(&node, size, START_PATIENCE).await;
                told.map_err(PrepareError::Control)?;
            }
        }
        // A machine that is loaded has the carrier that the saved one had.
        if is_saved || !carrier {
            let carrier = if carrier { Carrier::There } else { Carrier::Missing };
            let set = qmp.set_carrier(args::NIC, carrier, START_PATIENCE).await;
            set.map_err(PrepareError::Control)?;
        }
        Ok(PreparedQemu { dir, owned, qmp, memory: Some(memory) })
    }

    /// Starts the process and writes down which it is. It blocks.
    fn launch(&self, machine: Machine) -> Result<(OwnedProcess, Memory), PrepareError> {
        let arguments = arguments(&machine)?;
        let Machine { dir, net, start, .. } = machine;
        let in_dir = |source| PrepareError::Directory { dir: dir.clone(), source };
        let qmp = socket::listen(&dir.join(QMP_SOCKET)).map_err(in_dir)?;
        let link = socket::listen(&dir.join(LINK_SOCKET)).map_err(in_dir)?;
        // QEMU would create it for everyone to read.
        open_append(&dir.join(CONSOLE_LOG)).map_err(in_dir)?;
        let (net_fd, network) = match net {
            Net::Backend(backend) => (backend.vmm_fd, backend.processes),
            // A socket whose other end is closed: the device is there and leads nowhere.
            Net::Absent | Net::Silent => (dead_end().map_err(in_dir)?, Vec::new()),
        };
        let mut launch = Launch::new(&self.program, &dir)
            .args(arguments)
            .output(open_append(&dir.join(VMM_LOG)).map_err(in_dir)?)
            .fd(net_fd, args::NET_FD)
            .fd(qmp, args::QMP_FD)
            .fd(link, args::LINK_FD);
        let memory = match &start {
            Start::Kernel(_) => Memory::Own,
            Start::Saved(saved) => {
                let devices =
                    open_file(&saved.devices).map_err(|error| match error.is_not_found() {
                        true => PrepareError::Load { said: error.to_string() },
                        false => in_dir(error),
                    })?;
                launch = launch.fd(devices.into(), args::DEVICES_FD);
                Memory::Over(saved.memory.clone())
            }
        };
        let process = launch.start().map_err(PrepareError::Start)?;
        let identity = process.identity().clone();
        // From here on dropping this value ends the process.
        let owned = OwnedProcess(Some(process));
        let record = Record {
            vmm: self.name.clone(),
            process: identity,
            network: network.iter().map(|helper| helper.identity().clone()).collect(),
            memory: Some(memory.clone()),
        };
        record.write(&dir).map_err(in_dir)?;
        Ok((owned, memory))
    }

    async fn adopt_machine(&self, dir: &Path) -> Result<Option<QemuMachine>, AdoptError> {
        let recorded = Record::read(dir)
            .map_err(|source| AdoptError::Record { dir: dir.to_owned(), source })?;
        let Some(record) = recorded else { return Ok(None) };
        let in_process = |source| AdoptError::Process { dir: dir.to_owned(), source };
        let Some(process) = Process::find(&record.process).map_err(in_process)? else {
            return Ok(None);
        };
        // One that has ended and was not reaped yet is no machine any more.
        if process.ended(Deadline::after(Duration::ZERO)).map_err(in_process)? {
            return Ok(None);
        }
        let silent = |source| AdoptError::Silent { dir: dir.to_owned(), source };
        let qmp = connect_control(dir, CONTROL_PATIENCE).await.map_err(silent)?;
        let status = qmp.status(CONTROL_PATIENCE).await.map_err(silent)?;
        let Some(state) = running::state_of(&status) else { return Ok(None) };
        QemuMachine::new(dir, process, qmp, (state, record.memory)).map(Some).map_err(in_process)
    }
}

impl Vmm for Qemu {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { emulation: Emulation::Available, link: LinkKind::SerialPort }
    }

    fn appearance(&self, machine: &Machine) -> String {
        args::appearance(&self.name, machine)
    }

    fn prepare(&self, machine: Machine) -> BoxFuture<'_, Result<Box<dyn Prepared>, PrepareError>> {
        Box::pin(async {
            let prepared = self.prepare_machine(machine).await?;
            Ok(Box::new(prepared) as Box<dyn Prepared>)
        })
    }

    fn adopt<'a>(
        &'a self,
        dir: &'a Path,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Running>>, AdoptError>> {
        Box::pin(async {
            let adopted = self.adopt_machine(dir).await?;
            Ok(adopted.map(|machine| Box::new(machine) as Box<dyn Running>))
        })
    }
}

/// The block devices of volumes, and how large they are.
fn sizes(volumes: &VolumeFiles) -> Result<Vec<(String, u64)>, HostError> {
    let slots = (0..).zip(volumes).filter_map(|(slot, file)| Some((slot, file.as_ref()?)));
    slots
        .map(|(slot, file)| Ok((BlockRole::Volume(slot).serial(), file_size(file)?.apparent.get())))
        .collect()
}

fn dead_end() -> Result<OwnedFd, HostError> {
    socket::pair().map(|(ours, _closed)| ours)
}

/// Loads what was saved. A QEMU that cannot says why and ends.
async fn load(dir: &Path, qmp: &Qmp) -> Result<(), PrepareError> {
    let failed = |error| match gave_up(dir, error) {
        PrepareError::GaveUp { said } => PrepareError::Load { said },
        other => other,
    };
    match qmp.load(args::DEVICES_FD, START_PATIENCE).await.map_err(failed)? {
        Loaded::Whole => Ok(()),
        Loaded::Failed => Err(match failed(QmpError::Closed) {
            PrepareError::Control(_) => PrepareError::Load { said: "QEMU does not say why".into() },
            refused => refused,
        }),
    }
}

/// Connects to a QEMU that may be starting. Its control socket listens already, so this waits
/// for nothing but the greeting; if QEMU gives up, the connection ends.
async fn connect_control(dir: &Path, patience: Duration) -> Result<Qmp, QmpError> {
    let stream = socket::connect_now(&dir.join(QMP_SOCKET)).map_err(|error| {
        let source: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
        QmpError::Connect(source)
    })?;
    Qmp::open(UnixStream::from_std(stream).map_err(QmpError::Socket)?, patience).await
}

/// Why a start failed: what QEMU said, if it is known to have given up.
fn gave_up(dir: &Path, error: QmpError) -> PrepareError {
    let log = console::tail(&dir.join(VMM_LOG), LOG_TAIL);
    let last = log.lines().rev().find(|line| !line.trim().is_empty());
    match last {
        Some(line) if hung_up(&error) => PrepareError::GaveUp { said: printable(line) },
        _ => PrepareError::Control(error),
    }
}

/// Whether nobody is there any more. QEMU may have given up before anyone connected.
fn hung_up(error: &QmpError) -> bool {
    match error {
        QmpError::Closed | QmpError::Socket(_) => true,
        QmpError::Connect(source) => source
            .downcast_ref::<HostError>()
            .is_some_and(|error| error.io_kind() == Some(ErrorKind::ConnectionRefused)),
        _ => false,
    }
}

/// A line fit for a terminal: what a guest may have written must not steer it.
fn printable(line: &str) -> String {
    line.trim().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A process that ends with this value, unless it is taken out.
#[derive(Debug)]
struct OwnedProcess(Option<Process>);

impl Drop for OwnedProcess {
    fn drop(&mut self) {
        if let Some(process) = &self.0 {
            let _ = process.kill(KILL_PATIENCE);
        }
    }
}

/// A QEMU that waits to be set going.
#[derive(Debug)]
struct PreparedQemu {
    dir: PathBuf,
    owned: OwnedProcess,
    qmp: Qmp,
    memory: Option<Memory>,
}

impl PreparedQemu {
    async fn boot_machine(mut self) -> Result<QemuMachine, ControlError> {
        let monitor = |source| ControlError::Monitor { operation: "boot", source };
        self.qmp.execute("cont", Value::Null, CONTROL_PATIENCE).await.map_err(monitor)?;
        let host = |source| ControlError::Host { operation: "boot", source };
        let process = self.owned.0.take().ok_or_else(|| {
            host(HostError::system("find the process", std::io::ErrorKind::NotFound))
        })?;
        let state = (RunState::Running, self.memory);
        QemuMachine::new(&self.dir, process, self.qmp, state).map_err(host)
    }
}

impl Prepared for PreparedQemu {
    fn boot(self: Box<Self>) -> BoxFuture<'static, Result<Box<dyn Running>, ControlError>> {
        Box::pin(async {
            let machine = self.boot_machine().await?;
            Ok(Box::new(machine) as Box<dyn Running>)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_reason_is_known_when_qemu_is_gone_before_anyone_connects() {
        let dir = tempfile::tempdir().unwrap();
        drop(socket::listen(&dir.path().join(QMP_SOCKET)).unwrap());
        banger_host::fs::write_atomic(&dir.path().join(VMM_LOG), b"qemu: no disk\n").unwrap();
        let error = connect_control(dir.path(), START_PATIENCE).await.unwrap_err();
        let said = gave_up(dir.path(), error).to_string();
        assert_eq!(said, "the virtual machine monitor gave up: qemu: no disk");
    }

    #[test]
    fn the_reason_is_what_qemu_said_last() {
        let dir = tempfile::tempdir().unwrap();
        let reason = |error| gave_up(dir.path(), error).to_string();
        assert_eq!(reason(QmpError::Closed), "the virtual machine monitor cannot be controlled");
        let said = b"qemu: warning: x\nqemu: could not\x1b[31m open\n\n";
        banger_host::fs::write_atomic(&dir.path().join(VMM_LOG), said).unwrap();
        assert_eq!(
            reason(QmpError::Closed),
            "the virtual machine monitor gave up: qemu: could not\u{fffd}[31m open"
        );
    }
}
