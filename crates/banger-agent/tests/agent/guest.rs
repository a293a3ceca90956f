//! The agent as the first process of a real guest, in QEMU without acceleration.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use banger_link::{Identity, Reply, Request, Stream, Tool};
use banger_model::{BlockRole, LINK_PORT_NAME, MacAddress, ProcessEnd};
use tempfile::TempDir;

use banger_testkit::skipped;

use crate::host::{Host, command, shell};

/// Prints what is left of the clock's correction, in microseconds: `ADJ_OFFSET_SS_READ`.
const LEFT_TO_SLEW: &str = r#"perl -e '$t = pack("L x4", 0xa001) . "\0" x 256; syscall(159, $t); print unpack("x8 q", $t)'"#;

fn a_clock_is_set_when_it_is_far_off_and_slewed_when_it_is_not(host: &mut Host) {
    let now = |host: &mut Host, adjust_ns| match host.request(Request::Clock { adjust_ns }) {
        Ok(Reply::Clock { wall_clock_ns }) => wall_clock_ns,
        other => panic!("{other:?}"),
    };
    let hour = 3_600_000_000_000;
    let before = now(host, 0);
    let later = now(host, hour);
    assert!((hour.unsigned_abs()..2 * hour.unsigned_abs()).contains(&(later - before)));
    let slewed = now(host, -400_000_000);
    assert!(slewed > later, "time has jumped back");
    let left = host.run(shell(LEFT_TO_SLEW)).unwrap();
    let left: i64 = String::from_utf8(left.stdout).unwrap().parse().unwrap();
    assert!((-400_000..-300_000).contains(&left), "{left} us are left");
}

/// Longer than a boot takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(300);

#[test]
fn a_guest_boots_serves_and_ends_cleanly() {
    let Some(machine) = Machine::prepare() else { return };
    let agent = machine.start(&[BlockRole::Base, BlockRole::Modules, BlockRole::Disk]);
    let mut host = Host::over(agent, machine.connect());
    let Ok(Reply::Info(info)) = host.request(Request::Info) else { panic!("no info") };
    assert!(info.ready_us > 0);
    let identity = Identity {
        hostname: "box".to_owned(),
        machine_id: [0xab; 16],
        entropy: [7; 32],
        wall_clock_ns: 1_800_000_000_000_000_000,
        mac: MacAddress([2, 0, 0, 0, 0, 1]),
        net: None,
    };
    assert_eq!(host.request(Request::Configure(identity)), Ok(Reply::Done));
    let output = |host: &mut Host, script: &str| {
        String::from_utf8(host.run(shell(script)).unwrap().stdout).unwrap()
    };
    assert_eq!(
        output(&mut host, "hostname; cat /etc/machine-id; date +%s | cut -c1-6"),
        format!("box\n{}\n180000\n", "ab".repeat(16))
    );
    a_clock_is_set_when_it_is_far_off_and_slewed_when_it_is_not(&mut host);
    let mounts = output(&mut host, "cut -d' ' -f2 /proc/mounts");
    for wanted in ["/", "/proc", "/sys", "/dev/pts", "/dev/shm", "/run", "/sys/fs/cgroup"] {
        assert!(mounts.lines().any(|mount| mount == wanted), "{wanted} in {mounts}");
    }
    assert_eq!(output(&mut host, "ls /lib/modules/$(uname -r)/kernel | grep -c drivers"), "1\n");
    assert_eq!(output(&mut host, "dmesg --level=warn,err | grep -v PCI"), "");
    let full = host.run(shell("dd if=/dev/zero of=/full bs=1M; rm /full")).unwrap();
    assert!(String::from_utf8_lossy(&full.stderr).contains("No space left"), "{full:?}");

    // The agent's own program is still to be found, and sees the same root as its processes.
    let packed = host.run_tool(Tool::Pack { path: b"/etc/os-release".to_vec() }, b"");
    assert_eq!((packed.end, &packed.stderr[..]), (ProcessEnd::Exited(0), &b""[..]));
    let unpack = Tool::Unpack { path: b"/srv".to_vec(), name: Some(b"copy".to_vec()) };
    let unpacked = host.run_tool(unpack, &packed.stdout);
    assert_eq!((unpacked.end, &unpacked.stderr[..]), (ProcessEnd::Exited(0), &b""[..]));
    assert_eq!(output(&mut host, "readlink /srv/copy"), "../usr/lib/os-release\n");
    let run = host.run_tool(Tool::Pack { path: b"/".to_vec() }, b"");
    assert_eq!((run.end, &run.stderr[..]), (ProcessEnd::Exited(0), &b""[..]));
    let Ok(Reply::Stats(stats)) = host.request(Request::Stats) else { panic!("no stats") };
    assert!(stats.memory_total > stats.memory_available && stats.memory_available > 0);
    assert!(stats.disk_total > stats.disk_free && stats.disk_free > 0, "{stats:?}");
    assert_eq!((stats.cpus, stats.processes), (1, 1), "{stats:?}");

    // A new host may be heard before the guest knows that it is there.
    let process = host.start(shell("cat; echo over")).unwrap();
    for _ in 0..10 {
        host.move_to(machine.connect());
        host.request(Request::List).unwrap();
    }
    host.push(process, b"still here\n");
    host.end_stdin(process);
    host.until(|host| host.seen.exit(process));
    assert_eq!(host.seen.output(process, Stream::Stdout), b"still here\nover\n");

    host.start(command(&["sleep", "1000"])).unwrap();
    assert_eq!(host.request(Request::PowerOff), Ok(Reply::Done));
    assert!(host.agent_end().success());
    assert_eq!(machine.check_disk(), ProcessEnd::Exited(0));
}

#[test]
fn a_guest_without_its_disk_says_so_and_ends() {
    let Some(machine) = Machine::prepare() else { return };
    let mut guest = machine.start(&[BlockRole::Base, BlockRole::Modules]);
    assert!(guest.wait().unwrap().success());
    let mut console = String::new();
    File::open(machine.path("console")).unwrap().read_to_string(&mut console).unwrap();
    let said = "banger-agent: cannot boot: the machine has no block device banger-disk";
    assert!(console.contains(said), "{console}");
}

/// What a guest needs, in a directory of its own.
struct Machine {
    dir: TempDir,
    agents: PathBuf,
}

impl Machine {
    /// None when something is missing, which is said.
    fn prepare() -> Option<Self> {
        let Some(agents) = banger_testkit::agent_dir() else {
            skipped("the static guest agent is not built");
            return None;
        };
        let machine = Self { dir: tempfile::tempdir().unwrap(), agents };
        for needed in [machine.agent(), machine.kernel("boot.cpio"), machine.image()] {
            if !needed.exists() {
                skipped(&format!("there is no {}", needed.display()));
                return None;
            }
        }
        machine.run("truncate", &["-s", "64M", "disk"])?;
        machine.run("mke2fs", &["-q", "-t", "ext4", "disk"])?;
        machine.run("qemu-system-x86_64", &["--version"])?;
        let mut initramfs = File::create(machine.path("initramfs")).unwrap();
        let modules = fs::File::open(machine.kernel("boot.cpio"));
        std::io::copy(&mut modules.unwrap(), &mut initramfs).unwrap();
        let mut agent = Vec::new();
        File::open(machine.agent()).unwrap().read_to_end(&mut agent).unwrap();
        initramfs.write_all(&archive_of(&agent)).unwrap();
        Some(machine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn agent(&self) -> PathBuf {
        self.agents.join("banger-agent")
    }

    fn kernel(&self, file: &str) -> PathBuf {
        banger_testkit::test_home().join("data/kernels/debian-cloud").join(file)
    }

    fn image(&self) -> PathBuf {
        banger_testkit::test_home().join("data/images/debian-bookworm/root.ext4")
    }

    #[expect(clippy::disallowed_methods, reason = "a test uses tools of this machine")]
    fn run(&self, tool: &str, args: &[&str]) -> Option<()> {
        let done = Process::new(tool).args(args).current_dir(&self.dir).output();
        if done.as_ref().is_ok_and(|done| done.status.success()) {
            return Some(());
        }
        skipped(&format!("{tool} does not work here: {done:?}"));
        None
    }

    /// Starts the guest with these disks. It waits for no host.
    #[expect(clippy::disallowed_methods, reason = "a test starts what it tests")]
    fn start(&self, disks: &[BlockRole]) -> Child {
        let _none_yet = fs::remove_file(self.path("link"));
        let mut qemu = Process::new("qemu-system-x86_64");
        qemu.current_dir(&self.dir).stdin(Stdio::null());
        qemu.args(["-M", "microvm,acpi=on", "-accel", "tcg", "-cpu", "max", "-m", "256"]);
        qemu.args(["-nodefaults", "-no-user-config", "-nographic", "-no-reboot"]);
        qemu.args(["-serial", "file:console", "-initrd", "initramfs", "-kernel"]);
        qemu.arg(self.kernel("vmlinux")).arg("-append").arg(command_line());
        for role in disks {
            let file = match role {
                BlockRole::Base => self.image(),
                BlockRole::Modules => self.kernel("modules.ext4"),
                BlockRole::Disk | BlockRole::Volume(_) => self.path("disk"),
            };
            let readonly = if *role == BlockRole::Disk { "off" } else { "on" };
            let file = file.display();
            qemu.arg("-drive");
            qemu.arg(format!("if=none,id={role},file={file},format=raw,readonly={readonly}"));
            qemu.arg("-device").arg(format!("virtio-blk-device,drive={role},serial={role}"));
        }
        qemu.args(["-chardev", "socket,id=link,path=link,server=on,wait=off"]);
        qemu.args(["-device", "virtio-serial-device", "-device"]);
        qemu.arg(format!("virtserialport,chardev=link,name={LINK_PORT_NAME}"));
        qemu.spawn().unwrap()
    }

    /// A new connection to the guest's port. QEMU needs a moment until it listens.
    fn connect(&self) -> UnixStream {
        let end = Instant::now() + TIMEOUT;
        loop {
            match UnixStream::connect(self.path("link")) {
                Ok(stream) => return stream,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            std::thread::yield_now();
        }
    }

    /// How a check of the disk's file system ends; a journal to be replayed is an error here.
    #[expect(clippy::disallowed_methods, reason = "a test uses tools of this machine")]
    fn check_disk(&self) -> ProcessEnd {
        let header = Process::new("dumpe2fs").arg("-h").arg(self.path("disk")).output().unwrap();
        let header = String::from_utf8_lossy(&header.stdout).into_owned();
        assert!(!header.contains("needs_recovery"), "{header}");
        let check = Process::new("e2fsck").arg("-fn").arg(self.path("disk")).output().unwrap();
        let status = check.status.code().and_then(|code| u8::try_from(code).ok());
        ProcessEnd::Exited(status.unwrap())
    }
}

/// The kernel's parameters. Under emulation the guest reads this machine's time-stamp counter,
/// and calibrating it may hang.
fn command_line() -> String {
    let mut cpus = String::new();
    File::open("/proc/cpuinfo").unwrap().read_to_string(&mut cpus).unwrap();
    let mhz = cpus.lines().find_map(|line| line.strip_prefix("cpu MHz")?.split(": ").nth(1));
    let khz = mhz.unwrap().trim().replace('.', "");
    format!("console=ttyS0 quiet panic=-1 tsc_early_khz={khz} tsc=reliable no_timer_check")
}

/// An archive as the kernel unpacks it (cpio, "newc") with one file: the first program.
fn archive_of(init: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, data) in [("init", 0o100_755, init), ("TRAILER!!!", 0, &[])] {
        let fields = [1, mode, 0, 0, 1, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0];
        archive.extend(b"070701");
        archive.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
        archive.extend(name.bytes().chain([0]));
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}
