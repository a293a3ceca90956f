//! `cargo xtask bench-update`: how long an update of an appliance takes beside `sha256sum` of the same
//! bytes, in turns, on one machine that is server and appliance.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::command::Program;
use crate::place::Place;
use crate::steps::Steps;
use crate::{build, packages, rounds};

/// Sizes in MiB of kernel and initramfs: together what the aim is about.
const SIZES_MIB: [u64; 2] = [100, 924];
/// The files of a release.
const FILES: [&str; 2] = ["vmlinuz", "kubesolo-os.gz"];
/// Rounds when nothing is said.
const ROUNDS: u32 = 5;
/// Between two looks at the memory of what is measured.
const LOOK: Duration = Duration::from_millis(10);
/// Ticks of a second in `/proc`, on every Linux that banger runs on.
const TICKS: u64 = 100;

pub(crate) fn run(place: &Place, args: Vec<OsString>) -> Result<ExitCode> {
    let rounds = rounds::parse("bench-update", &args, ROUNDS)?;
    let mut steps = Steps::new(4);
    steps.next("Looking for the host's packages");
    packages::ensure(&packages::TO_RUN)?;
    steps.next("Building the update agent as it is shipped");
    build::os_update(place, build::Shape::Shipped)?;
    steps.next("Making a release of a gigabyte");
    let bench = Bench::make(place)?;
    steps.next(&format!("Measuring {rounds} times: best while nothing else runs"));
    let server = bench.serve()?;
    let mut turns = Vec::new();
    println!("round  sha256sum   apply    of it  processor  server's  memory");
    for round in 1..=rounds {
        let sum = bench.sum()?;
        let turn = Turn { sum, ..bench.apply(&server)? };
        println!("{round:>5}  {turn}");
        turns.push(turn);
    }
    turns.sort_by(|a, b| a.share().total_cmp(&b.share()));
    println!("median {}", turns[turns.len() / 2]);
    Ok(steps.finish("Measured"))
}

/// What one run took.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    clock: Duration,
    processor: Duration,
    peak_kib: u64,
}

/// One of each, one after the other.
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    sum: Cost,
    apply: Cost,
    server: Duration,
}

impl Turn {
    /// How fast the update was, where `sha256sum` is 1.
    fn share(&self) -> f64 {
        self.sum.clock.as_secs_f64() / self.apply.clock.as_secs_f64()
    }
}

impl std::fmt::Display for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [sum, apply] = [self.sum, self.apply].map(|cost| cost.clock.as_secs_f64());
        let [processor, server] = [self.apply.processor, self.server].map(|it| it.as_secs_f64());
        let memory = self.apply.peak_kib / 1024;
        write!(f, "{sum:>7.2} s {apply:>6.2} s  {:>6.2}", self.share())?;
        write!(f, "  {processor:>7.2} s {server:>7.2} s {memory:>3} MiB")
    }
}

/// A release, and an appliance in a directory.
struct Bench {
    program: PathBuf,
    dir: PathBuf,
}

impl Bench {
    fn make(place: &Place) -> Result<Self> {
        let dir = place.target.join("bench-update");
        let bench = Self { program: place.guest_programs().join("os-update"), dir };
        let www = bench.dir.join("www");
        fs::create_dir_all(&www)?;
        for (name, mib) in FILES.iter().zip(SIZES_MIB) {
            let path = www.join(name);
            if path.metadata().map_or(0, |meta| meta.len()) != mib << 20 {
                let mut random = File::open("/dev/urandom")?.take(mib << 20);
                io::copy(&mut random, &mut File::create(&path)?)?;
            }
        }
        let sums = Program::new("sha256sum").args(FILES.map(|name| www.join(name))).capture()?;
        let digest = |line: usize| sums.lines().nth(line).unwrap_or_default().get(..64);
        let [kernel, system] = [digest(0), digest(1)].map(Option::unwrap_or_default);
        let sizes = SIZES_MIB.map(|mib| mib << 20);
        let manifest = format!(
            r#"{{"version": "2.0.0", "vmlinuz_url": "vmlinuz", "vmlinuz_sha256": "{kernel}",
            "vmlinuz_size": {}, "initramfs_url": "kubesolo-os.gz", "initramfs_sha256": "{system}",
            "initramfs_size": {}}}"#,
            sizes[0], sizes[1]
        );
        fs::write(www.join("latest.json"), manifest)?;
        let key = bench.dir.join("key.key");
        let _ = fs::remove_file(&key);
        let _ = fs::remove_file(bench.dir.join("key.pub"));
        let made = Program::new(&bench.program).arg("genkey").arg(bench.dir.join("key"));
        made.capture()?;
        let sign = Program::new(&bench.program).args(["sign", "--key"]).arg(&key);
        sign.args(FILES.iter().chain(&["latest.json"]).map(|name| www.join(name))).run()?;
        Ok(bench)
    }

    /// The server, and the settings that name it.
    fn serve(&self) -> Result<Server> {
        let mut command = Command::new(&self.program);
        command.args(["serve", "--listen", "127.0.0.1:0"]).arg(self.dir.join("www"));
        let mut server = Server(command.stdout(Stdio::piped()).spawn()?);
        let mut said = String::new();
        if let Some(stdout) = &mut server.0.stdout {
            io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut said)?;
        }
        let dir = self.dir.display();
        let conf = format!(
            "server={}\npubkey={dir}/key.pub\nstate_dir={dir}/state\nboot_dir={dir}/boot\n\
             cmdline_file={dir}/cmdline\nversion_file={dir}/version\n",
            said.trim()
        );
        fs::write(self.dir.join("update.conf"), conf)?;
        fs::write(self.dir.join("cmdline"), "os_update.slot=a os_update.nonce=none\n")?;
        fs::write(self.dir.join("version"), "1.0.0\n")?;
        Ok(server)
    }

    fn sum(&self) -> Result<Cost> {
        let mut command = Command::new("sha256sum");
        command.args(FILES.map(|name| self.dir.join("www").join(name)));
        measure(command)
    }

    /// Everything from nothing to a staged release.
    fn apply(&self, server: &Server) -> Result<Turn> {
        for dir in ["state", "boot"] {
            let _ = fs::remove_dir_all(self.dir.join(dir));
        }
        for slot in ["a", "b"] {
            fs::create_dir_all(self.dir.join("boot/os").join(slot))?;
        }
        let conf = self.dir.join("update.conf");
        let of = |command: &str| {
            let mut run = Command::new(&self.program);
            run.arg(command).arg("--conf").arg(&conf);
            run
        };
        ensure!(of("boot-install").status()?.success(), "os-update boot-install failed");
        let before = processor(server.0.id())?;
        let apply = measure(of("apply"))?;
        let server = processor(server.0.id())?.saturating_sub(before);
        Ok(Turn { sum: Cost::default(), apply, server })
    }
}

/// It ends with what it is for.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program to its end, and tells what that took.
fn measure(mut command: Command) -> Result<Cost> {
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let begun = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    let pid = child.id();
    let (sender, ended) = channel::<()>();
    let stdout = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        let read = stdout.map(|mut stdout| stdout.read_to_end(&mut said));
        drop(sender);
        read
    });
    let mut peak_kib = 0;
    while matches!(ended.recv_timeout(LOOK), Err(RecvTimeoutError::Timeout)) {
        peak_kib = peak(pid).unwrap_or(peak_kib);
    }
    // Its times can be read until it is waited for.
    while !has_ended(pid) {
        std::thread::yield_now();
    }
    let clock = begun.elapsed();
    let processor = processor(pid)?;
    let status = child.wait()?;
    let _ = reader.join();
    ensure!(status.success(), "{command:?} failed ({status})");
    Ok(Cost { clock, processor, peak_kib })
}

/// The fields of `/proc/PID/stat` behind the program's name, the first of which is its state.
fn stat(pid: u32) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = text.rsplit_once(')').context("/proc has another form")?;
    Ok(fields.split_ascii_whitespace().map(str::to_owned).collect())
}

fn has_ended(pid: u32) -> bool {
    stat(pid).is_ok_and(|fields| fields.first().is_some_and(|state| state == "Z"))
}

/// Time of the processor, in user and system, all threads together.
fn processor(pid: u32) -> Result<Duration> {
    let fields = stat(pid)?;
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    let ticks = ticks(11).zip(ticks(12)).context("/proc has another form")?;
    Ok(Duration::from_millis((ticks.0 + ticks.1) * 1000 / TICKS))
}

/// The most memory that it ever had, in KiB.
fn peak(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_takes_is_measured() {
        let mut command = Command::new("sh");
        command.args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]);
        let cost = measure(command).unwrap();
        assert!(cost.processor > Duration::ZERO && cost.processor <= cost.clock * 2);
        assert!(cost.peak_kib > 100);
        assert!(measure(Command::new("false")).is_err());
    }
}
