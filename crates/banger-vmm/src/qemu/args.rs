//! QEMU's command line: a pure function of the machine.
//!
//! Every machine has the same devices in the same order, used or not: a memory snapshot fits
//! only the machine it was taken from. Each choice that costs or saves time was measured; the
//! figures are in `docs/benchmarks.md`.

use std::ffi::OsString;
use std::path::Path;

use banger_host::owned;
use banger_model::{Accelerator, BlockRole, LINK_PORT_NAME, MacAddress};
use serde_json::{Value, json};

use crate::console::CONSOLE_LOG;
use crate::error::PrepareError;
use crate::machine::{Board, KernelStart, Machine, SavedMachine, Start};

/// The numbers under which QEMU inherits its sockets. They are connected or listening before it
/// starts: nobody ever has to wait for a socket to appear.
pub(crate) const NET_FD: i32 = 3;
pub(crate) const QMP_FD: i32 = 4;
pub(crate) const LINK_FD: i32 = 5;
/// The saved state of the devices, where the machine begins with one.
pub(crate) const DEVICES_FD: i32 = 6;

/// Name of the memory, by which the process's file of it is found.
pub(crate) const MEMORY_FILE: &str = "memory-backend-memfd";

/// Name of the network device.
pub(crate) const NIC: &str = "nic";

/// The largest Ethernet payload that `passt` takes. Large frames make few of them.
const NIC_MTU: u32 = 65520;

/// What microvm has and what it lacks:
///
/// - `acpi=on`: Debian's kernel finds virtio-mmio devices through ACPI only, and powers off
///   through it;
/// - `rtc=on`: without a clock the kernel waits for one, two seconds under TCG;
/// - `ioapic2=on`: the first interrupt controller has room for eight devices, not for ours;
/// - `suppress-vmdesc=on`: a saved machine need not describe itself to debuggers;
/// - neither timer nor interrupt controller of the PC's first days, which nothing needs;
/// - `x-option-roms=off`: the kernel is entered directly.
const MICROVM: &str = "microvm,memory-backend=memory,acpi=on,rtc=on,ioapic2=on,isa-serial=on,pic=off,pit=off,\
     suppress-vmdesc=on,x-option-roms=off";

/// What QEMU may not do once it runs: gain privileges, start programs, change its limits.
const SECCOMP: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// QEMU's arguments for this machine.
///
/// # Errors
/// [`PrepareError::Path`] when a file's path is not UTF-8.
pub fn arguments(machine: &Machine) -> Result<Vec<OsString>, PrepareError> {
    let mut args = Args::default();
    args.put("-name", name(&machine.dir));
    args.flags(["-nodefaults", "-no-user-config", "-no-reboot"]);
    // The machine is there, its monitor answers, but it does not execute until told to.
    args.flags(["-S"]);
    args.put("-display", "none");
    args.put("-sandbox", SECCOMP);
    processor(&mut args, machine);
    begin(&mut args, machine)?;
    args.put("-chardev", format!("socket,id=qmp,fd={QMP_FD},server=on,wait=off"));
    args.put("-mon", "chardev=qmp,mode=control");
    args.put("-chardev", format!("file,id=console,path={CONSOLE_LOG},append=on"));
    args.put("-serial", "chardev:console");
    for role in BlockRole::all() {
        block_device(&mut args, role, machine.disks.file(role))?;
    }
    // Without a network this socket's other end is closed and the link is set down.
    args.put("-netdev", format!("stream,id=net,server=off,addr.type=fd,addr.str={NET_FD}"));
    args.put("-chardev", format!("socket,id=link,fd={LINK_FD},server=on,wait=off"));
    args.put("-object", "rng-builtin,id=entropy");
    devices(&mut args, machine.board, machine.mac);
    Ok(args.0)
}

/// All devices but the disks.
fn devices(args: &mut Args, board: Board, mac: MacAddress) {
    let silent = if board >= Board::SILENT { ",guest_announce=off" } else { "" };
    args.device(format!(
        "virtio-net-device,id={NIC},netdev=net,mac={mac},host_mtu={NIC_MTU}{silent}"
    ));
    // Port 0 is reserved for a console, so one port needs room for two.
    args.device("virtio-serial-device,max_ports=2".to_owned());
    args.device(format!("virtserialport,chardev=link,name={LINK_PORT_NAME}"));
    args.device("virtio-rng-device,rng=entropy".to_owned());
}

/// What a guest could tell of its machine: the command line without files, names and addresses.
pub(super) fn appearance(monitor: &str, machine: &Machine) -> String {
    let mut args = Args::default();
    processor(&mut args, machine);
    if let Start::Kernel(start) = &machine.start {
        args.put("-append", kernel_command_line(start, machine.accelerator));
    }
    for role in BlockRole::all() {
        args.device(block_frontend(role, None));
    }
    devices(&mut args, machine.board, MacAddress::default());
    let args = args.0.iter().map(|arg| arg.to_string_lossy());
    std::iter::once(monitor.into()).chain(args).collect::<Vec<_>>().join("\n")
}

/// The machine's name, by which it is known to belong to its directory.
fn name(dir: &Path) -> OsString {
    let mut name = OsString::from(owned::NAME_KEY);
    name.push(owned::tag(dir));
    name
}

fn processor(args: &mut Args, machine: &Machine) {
    let (accelerator, cpu) = match machine.accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        // With these a kernel and its C library copy by the byte, for real processors are quick at
        // that; emulated, each byte takes as long as eight.
        Accelerator::Tcg => ("tcg", "max,erms=off,fsrm=off"),
    };
    args.put("-M", MICROVM);
    args.put("-accel", accelerator);
    args.put("-cpu", cpu);
    args.put("-smp", machine.cpus.to_string());
    args.put("-m", format!("{}M", machine.memory.bytes().as_mib()));
    // Devices as virtio 1 has them, not as its drafts did.
    args.put("-global", "virtio-mmio.force-legacy=off");
}

/// Memory with a kernel to enter, or with what is in it already.
fn begin(args: &mut Args, machine: &Machine) -> Result<(), PrepareError> {
    let mib = machine.memory.bytes().as_mib();
    // Memory and devices are saved apart: what a file holds anyway is not written to a stream.
    args.put("-global", "migration.send-configuration=off");
    match &machine.start {
        Start::Kernel(start) => {
            args.put("-object", format!("{MEMORY_FILE},id=memory,size={mib}M,share=on"));
            args.put("-kernel", start.kernel.as_os_str());
            args.put("-initrd", start.initramfs.as_os_str());
            args.put("-append", kernel_command_line(start, machine.accelerator));
        }
        // Only what this machine writes becomes its own memory; the rest stays the file's, in
        // the host's page cache, one for all. The kernel is in there already.
        Start::Saved(SavedMachine { memory, .. }) => {
            let file = utf8(memory)?.replace(',', ",,");
            let object = format!("memory-backend-file,id=memory,size={mib}M,mem-path={file}");
            args.put("-object", object + ",share=off");
            args.put("-incoming", "defer");
        }
    }
    Ok(())
}

/// The kernel's arguments: ours, then the caller's, which win where both say something.
fn kernel_command_line(start: &KernelStart, accelerator: Accelerator) -> String {
    // A panic resets at once, which ends the machine; and a reset is a triple fault, for which a
    // machine that was restored, without the firmware it booted from, needs nothing. The self-tests of the kernel's
    // cryptography take 0.3 s of each boot under TCG.
    let mut words = vec!["console=ttyS0".to_owned(), "quiet".into()];
    words.extend(["panic=-1".into(), "reboot=t".into(), "cryptomgr.notests".into()]);
    if accelerator == Accelerator::Tcg {
        // Under TCG the guest reads the host's counter; calibrating it against an emulated timer
        // hangs in half of all boots.
        words.push(format!("tsc_early_khz={}", start.tsc_khz));
        words.extend(["tsc=reliable".into(), "no_timer_check".into()]);
    }
    words.extend(start.args.iter().cloned());
    words.join(" ")
}

fn utf8(path: &Path) -> Result<&str, PrepareError> {
    path.to_str().ok_or_else(|| PrepareError::Path { path: path.to_owned() })
}

/// One block device: a file, or nothing, which has no capacity and takes the guest 2 ms.
fn block_device(args: &mut Args, role: BlockRole, file: Option<&Path>) -> Result<(), PrepareError> {
    let serial = role.serial();
    let writable = matches!(role, BlockRole::Disk | BlockRole::Volume(_));
    let node = match file {
        Some(path) => file_node(&serial, path, writable)?,
        None => json!({ "driver": "null-co", "node-name": serial, "size": 0 }),
    };
    args.put("-blockdev", node.to_string());
    args.device(block_frontend(role, file.filter(|_| writable)));
    Ok(())
}

/// What the guest sees of a block device.
fn block_frontend(role: BlockRole, writable: Option<&Path>) -> String {
    let serial = role.serial();
    // A full host stops the machine instead of losing what its guest wrote: see
    // `RunState::OutOfSpace`. Every other error is the guest's to see.
    let errors = if writable.is_some() { ",werror=enospc" } else { "" };
    format!("virtio-blk-device,drive={serial},serial={serial}{errors}")
}

/// A file as it is, through the host's page cache: sandboxes of one image share its pages.
fn file_node(name: &str, path: &Path, writable: bool) -> Result<Value, PrepareError> {
    let mut node = json!({ "driver": "file", "node-name": name, "filename": utf8(path)? });
    if writable {
        // What the guest no longer needs becomes a hole in the file again.
        node["discard"] = "unmap".into();
        node["detect-zeroes"] = "unmap".into();
    } else {
        node["read-only"] = true.into();
    }
    Ok(node)
}

/// Arguments in the making.
#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn flags<const N: usize>(&mut self, flags: [&str; N]) {
        self.0.extend(flags.map(OsString::from));
    }

    fn put(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.extend([option.into(), value.into()]);
    }

    fn device(&mut self, device: String) {
        self.put("-device", device);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Disks, Net};
    use banger_model::{CpuCount, MemorySize};
    use std::os::unix::ffi::OsStringExt as _;
    use std::path::PathBuf;

    fn machine(accelerator: Accelerator) -> Machine {
        let id = "0123456789ab".parse().unwrap();
        Machine {
            dir: "/sandboxes/0123456789ab".into(),
            start: Start::Kernel(KernelStart {
                kernel: "/kernels/k/vmlinux".into(),
                initramfs: "/kernels/k/initramfs".into(),
                args: vec!["banger.example".into()],
                tsc_khz: 2_000_000,
            }),
            board: Board::LATEST,
            accelerator,
            cpus: CpuCount::ONE,
            memory: MemorySize::DEFAULT,
            disks: Disks {
                base: Some("/images/i/base".into()),
                modules: Some("/kernels/k/modules".into()),
                disk: Some("/sandboxes/0123456789ab/disk".into()),
                volumes: [None, Some("/volumes/a,b \"c\"".into()), None, None],
            },
            mac: MacAddress::of(&id),
            net: Net::Absent,
        }
    }

    /// One option with its value in a line.
    fn lines(machine: &Machine) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for arg in arguments(machine).unwrap() {
            let arg = arg.into_string().unwrap();
            match lines.last_mut() {
                Some(line) if !arg.starts_with('-') => *line = format!("{line} {arg}"),
                _ => lines.push(arg),
            }
        }
        lines
    }

    #[test]
    fn the_command_line_under_tcg() {
        insta::assert_snapshot!(lines(&machine(Accelerator::Tcg)).join("\n"));
    }

    #[test]
    fn kvm_differs_in_processor_and_clock_only() {
        let (tcg, kvm) = (lines(&machine(Accelerator::Tcg)), lines(&machine(Accelerator::Kvm)));
        assert_eq!(tcg.len(), kvm.len());
        let different: Vec<_> =
            kvm.into_iter().zip(tcg).filter(|(a, b)| a != b).map(|(a, _)| a).collect();
        insta::assert_snapshot!(different.join("\n"));
    }

    #[test]
    fn a_board_keeps_its_devices() {
        let first = Machine { board: Board::FIRST, ..machine(Accelerator::Tcg) };
        let (latest, first) = (lines(&machine(Accelerator::Tcg)), lines(&first));
        let of_first = first.iter().filter(|line| !latest.contains(line));
        insta::assert_snapshot!(of_first.map(String::as_str).collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn devices_do_not_depend_on_what_is_behind_them() {
        let full = machine(Accelerator::Tcg);
        let empty = Machine { disks: Disks::default(), ..machine(Accelerator::Tcg) };
        let devices = |machine: &Machine| -> Vec<String> {
            let name = |line: String| line.split(",werror").next().unwrap().to_owned();
            lines(machine).into_iter().filter(|l| l.starts_with("-device")).map(name).collect()
        };
        assert_eq!(devices(&full), devices(&empty));
    }

    #[test]
    fn a_guest_could_not_tell_two_machines_of_one_appearance_apart() {
        let one = machine(Accelerator::Tcg);
        let mut other = machine(Accelerator::Tcg);
        other.dir = "/sandboxes/ba9876543210".into();
        other.mac = MacAddress::default();
        other.disks.base = Some("/images/j/base".into());
        let seen = |machine: &Machine| appearance("qemu 7", machine);
        assert_eq!(seen(&one), seen(&other));
        assert_ne!(seen(&one), appearance("qemu 8", &one));
        for line in ["-smp\n1\n", "-m\n512M\n", "banger.example", "virtio-rng-device"] {
            assert!(seen(&one).contains(line), "{line}");
        }
        assert!(!seen(&one).contains("/images"), "{}", seen(&one));
    }

    #[test]
    fn a_saved_machine_differs_in_its_beginning_only() {
        let saved = SavedMachine { memory: "/t/a,b/memory".into(), devices: "/t/devices".into() };
        let restored = Machine { start: Start::Saved(saved), ..machine(Accelerator::Tcg) };
        let (restored, booted) = (lines(&restored), lines(&machine(Accelerator::Tcg)));
        let only = |these: &[String], those: &[String]| -> Vec<String> {
            these.iter().filter(|line| !those.contains(line)).cloned().collect()
        };
        insta::assert_snapshot!(only(&restored, &booted).join("\n"));
        let begins = ["-object memory-backend-memfd", "-kernel", "-initrd", "-append"];
        for line in only(&booted, &restored) {
            assert!(begins.iter().any(|begin| line.starts_with(begin)), "{line}");
        }
    }

    #[test]
    fn a_directory_of_any_name_is_a_name() {
        let machine = Machine { dir: "/h a=b,c".into(), ..machine(Accelerator::Tcg) };
        assert_eq!(lines(&machine)[0], "-name guest=banger:/h a=b,,c");
    }

    #[test]
    fn a_path_that_qemu_cannot_be_told_is_refused() {
        let mut machine = machine(Accelerator::Tcg);
        machine.disks.base = Some(PathBuf::from(OsString::from_vec(b"/\xff".to_vec())));
        assert!(matches!(arguments(&machine), Err(PrepareError::Path { .. })));
    }
}
