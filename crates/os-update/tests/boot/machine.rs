//! A virtual machine, and what it says on its serial line.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::disk::{Disk, Firmware, Kit, Loader, esp};
use crate::recording::{Recording, log_of};

/// No scenario takes longer on a slow host.
const DEADLINE: Duration = Duration::from_secs(300);

/// Whether what a machine does to its disk is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Log {
    Wanted,
    NotWanted,
}

/// A machine that runs.
pub(crate) struct Machine {
    qemu: Child,
    lines: Receiver<String>,
    seen: String,
}

impl Machine {
    pub(crate) fn start(kit: &Kit, disk: &Disk, firmware: Firmware) -> Self {
        Self::start_with(kit, disk, firmware, Log::NotWanted)
    }

    /// Runs a machine to its end, and tells what it did to its disk besides what it said.
    pub(crate) fn record(kit: &Kit, disk: &Disk, firmware: Firmware) -> (Seen, Recording) {
        let before = disk.copy("before");
        let seen = Self::start_with(kit, disk, firmware, Log::Wanted).run_to_end();
        let log = log_of(disk);
        let recording = Recording::read(before, &log);
        std::fs::remove_file(log).unwrap();
        (seen, recording)
    }

    fn start_with(kit: &Kit, disk: &Disk, firmware: Firmware, log: Log) -> Self {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-M", "pc", "-accel", "tcg", "-cpu", "max", "-m", "512", "-nodefaults"]);
        command.args(["-display", "none", "-serial", "stdio"]);
        let file = disk.path.display();
        match log {
            Log::NotWanted => {
                command.arg("-drive").arg(format!("file={file},format=raw,if=virtio"));
            }
            Log::Wanted => {
                let log = log_of(disk);
                std::fs::File::create(&log).unwrap();
                for node in [
                    format!("driver=file,node-name=disk,filename={file}"),
                    format!("driver=file,node-name=log,filename={}", log.display()),
                    "driver=blklogwrites,node-name=both,file=disk,log=log".to_owned(),
                ] {
                    command.arg("-blockdev").arg(node);
                }
                command.args(["-device", "virtio-blk-pci,drive=both"]);
            }
        }
        if firmware == Firmware::Uefi {
            let code = kit.uefi.display();
            let vars = disk.path.with_extension("vars");
            std::fs::copy(kit.uefi.with_file_name("OVMF_VARS_4M.fd"), &vars).unwrap();
            for flash in [format!("{code},readonly=on"), vars.display().to_string()] {
                command.arg("-drive").arg(format!("if=pflash,format=raw,file={flash}"));
            }
            if disk.loader != Loader::SystemdBoot {
                let esp = esp(kit);
                let esp = format!("file=fat:{},format=raw,if=virtio,readonly=on", esp.display());
                command.arg("-drive").arg(esp);
            }
        }
        Self::of(&mut command)
    }

    /// Starts the kernel without a disk and a boot loader, told this.
    pub(crate) fn start_directly(kit: &Kit, initramfs: &Path, told: &str) -> Self {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-M", "pc", "-accel", "tcg", "-cpu", "max", "-m", "1024", "-nodefaults"]);
        command.args(["-display", "none", "-serial", "stdio", "-append", told]);
        command.arg("-kernel").arg(&kit.kernel.image).arg("-initrd").arg(initramfs);
        Self::of(&mut command)
    }

    fn of(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut qemu = command.spawn().unwrap();
        let stdout = qemu.stdout.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    return;
                }
            }
        });
        Self { qemu, lines, seen: String::new() }
    }

    /// Until it has switched itself off.
    pub(crate) fn run_to_end(mut self) -> Seen {
        let begun = Instant::now();
        while self.next(DEADLINE.saturating_sub(begun.elapsed())) {}
        let ended = self.qemu.try_wait().unwrap();
        let text = std::mem::take(&mut self.seen);
        assert!(ended.is_some_and(|status| status.success()), "it did not end:\n{text}");
        Seen { text }
    }

    /// One more line; false when there is none in time, or at the end.
    fn next(&mut self, time: Duration) -> bool {
        match self.lines.recv_timeout(time) {
            Ok(line) => {
                self.seen.push_str(&line);
                self.seen.push('\n');
                true
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => {
                let _ = self.qemu.wait();
                false
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// What a machine has said.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) text: String,
}

impl Seen {
    /// Each version that told of itself, with its status.
    fn reports(&self) -> Vec<(String, Value)> {
        let lines = self.text.lines().filter_map(|line| line.split_once("@BOOT "));
        let reports = lines.filter_map(|(_, rest)| rest.split_once(' '));
        let read = |(version, json): (&str, &str)| {
            Some((version.to_owned(), serde_json::from_str(json).ok()?))
        };
        reports.filter_map(read).collect()
    }

    /// The versions that came up, in order.
    pub(crate) fn boots(&self) -> Vec<String> {
        let mut versions: Vec<String> = self.reports().into_iter().map(|(v, _)| v).collect();
        versions.dedup();
        versions
    }

    /// The version that ran last, and its state.
    pub(crate) fn end(&self) -> (String, String) {
        let reports = self.reports();
        let last = reports.last().unwrap_or_else(|| panic!("no boot:\n{}", self.text));
        (last.0.clone(), last.1["state"].as_str().unwrap_or_default().to_owned())
    }

    /// It said so at some time.
    pub(crate) fn assert_told(&self, version: &str, state: &str, error: &str) {
        let told = self.reports().iter().any(|(found, json)| {
            let last = json["last_error"].as_str().unwrap_or_default();
            found == version && json["state"] == state && last.contains(error)
        });
        assert!(told, "{version} never said {state}, {error}:\n{}", self.text);
    }

    pub(crate) fn assert_ends(&self, version: &str, state: &str, error: Option<&str>) {
        assert_eq!(self.end(), (version.to_owned(), state.to_owned()), "{}", self.text);
        let reports = self.reports();
        let found = reports.last().map(|(_, json)| json["last_error"].clone()).unwrap_or_default();
        let found = found.as_str().unwrap_or_default();
        match error {
            Some(error) => assert!(found.contains(error), "{found}\n{}", self.text),
            None => assert_eq!(found, "", "{}", self.text),
        }
    }
}
