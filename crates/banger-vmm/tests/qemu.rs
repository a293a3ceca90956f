//! The QEMU backend with the real QEMU and a guest of a few bytes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]

mod tiny;

use std::ffi::OsString;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use banger_host::fs::{read_bounded, read_text, remove_all, write_atomic};
use banger_host::home::Home;
use banger_host::process::Process;
use banger_model::{Accelerator, CpuCount, MacAddress, MemorySize};
use banger_vmm::probe::{Finding, KvmVerdict, MARKER, ProbeGuest, kvm_verdict};
use banger_vmm::qemu::{DiscoverError, Qemu};
use banger_vmm::{
    Board, Disks, EndReason, KernelStart, Machine, Net, PrepareError, Prepared, RECORD_FILE,
    Reaped, RunState, Running, SavedMachine, Start, Vmm as _, reap,
};
use tempfile::TempDir;
use tiny::Then;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(300);

/// QEMU and a directory with the guest's files, or `None` after saying why there is none.
struct Bench {
    qemu: Qemu,
    dir: TempDir,
}

#[expect(clippy::disallowed_methods, reason = "a test program's search path is read here")]
fn bench(text: &str, then: Then) -> Option<Bench> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin"));
    let qemu = match Qemu::discover(&path) {
        Err(error @ (DiscoverError::Missing | DiscoverError::TooOld { .. })) => {
            banger_testkit::skipped(&error.to_string());
            return None;
        }
        found => found.unwrap(),
    };
    let dir = tempfile::tempdir().unwrap();
    write_atomic(&dir.path().join("kernel"), &tiny::guest(text, then)).unwrap();
    write_atomic(&dir.path().join("initramfs"), b"none").unwrap();
    Some(Bench { qemu, dir })
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn machine(&self) -> Machine {
        Machine {
            dir: self.dir.path().to_owned(),
            start: Start::Kernel(KernelStart {
                kernel: self.path("kernel"),
                initramfs: self.path("initramfs"),
                args: Vec::new(),
                tsc_khz: 1_000_000,
            }),
            board: Board::LATEST,
            accelerator: Accelerator::Tcg,
            cpus: CpuCount::ONE,
            memory: "96M".parse::<MemorySize>().unwrap(),
            disks: Disks::default(),
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            net: Net::Absent,
        }
    }

    async fn prepare(&self) -> Box<dyn Prepared> {
        self.qemu.prepare(self.machine()).await.unwrap()
    }

    async fn boot(&self) -> Box<dyn Running> {
        self.prepare().await.boot().await.unwrap()
    }

    fn console(&self) -> String {
        read_text(&self.path("console.log"), 1 << 20).unwrap()
    }
}

async fn end(machine: &dyn Running) -> EndReason {
    timeout(LONG, machine.ended()).await.expect("the machine did not end")
}

async fn reach(machine: &dyn Running, state: RunState) {
    let mut states = machine.watch();
    let reached = states.wait_for(|now| *now == state);
    timeout(LONG, reached).await.expect("the state was not reached").unwrap();
}

#[tokio::test]
async fn nothing_executes_before_the_boot_and_a_power_off_ends_the_machine() {
    let Some(bench) = bench("hello\n", Then::PowerOff) else { return };
    let prepared = bench.prepare().await;
    assert_eq!(bench.console(), "");
    let machine = prepared.boot().await.unwrap();
    assert_eq!(end(&*machine).await, EndReason::PoweredOff);
    assert_eq!(bench.console(), "hello\n");
    assert!(Process::find(machine.identity()).unwrap().is_none());
    assert_eq!(reap(bench.dir.path()).unwrap(), Reaped::Nothing);
}

#[tokio::test]
async fn a_reset_and_a_panic_end_the_machine_with_their_reasons() {
    let Some(quiet) = bench("", Then::Reset) else { return };
    assert_eq!(end(&*quiet.boot().await).await, EndReason::Reset);
    let panic = "[    0.1] Kernel panic - not syncing: oh no\n";
    let Some(loud) = bench(panic, Then::Reset) else { return };
    assert_eq!(end(&*loud.boot().await).await, EndReason::Panicked("oh no".into()));
}

#[tokio::test]
async fn a_machine_is_paused_resumed_dropped_adopted_and_killed() {
    let Some(bench) = bench("", Then::Sleep) else { return };
    let machine = bench.boot().await;
    machine.connect_link().await.unwrap();
    machine.pause().await.unwrap();
    reach(&*machine, RunState::Paused).await;
    let identity = machine.identity().clone();
    drop(machine);
    let adopted = bench.qemu.adopt(bench.dir.path()).await.unwrap().unwrap();
    assert_eq!(adopted.identity(), &identity);
    assert_eq!(*adopted.watch().borrow(), RunState::Paused);
    adopted.resume().await.unwrap();
    reach(&*adopted, RunState::Running).await;
    adopted.kill().await.unwrap();
    assert_eq!(end(&*adopted).await, EndReason::Killed);
    assert!(bench.qemu.adopt(bench.dir.path()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_monitor_that_is_shot_counts_as_crashed() {
    let Some(bench) = bench("", Then::Sleep) else { return };
    let machine = bench.boot().await;
    let process = Process::find(machine.identity()).unwrap().unwrap();
    process.kill(LONG).unwrap();
    assert!(matches!(end(&*machine).await, EndReason::Crashed(_)));
}

#[tokio::test]
async fn a_machine_that_never_boots_ends_with_its_value() {
    let Some(bench) = bench("", Then::Sleep) else { return };
    let prepared = bench.prepare().await;
    assert_eq!(banger_host::owned::find(bench.dir.path()).unwrap().len(), 1);
    drop(prepared);
    assert_eq!(reap(bench.dir.path()).unwrap(), Reaped::Nothing);
}

#[tokio::test]
async fn the_reaper_ends_a_machine_with_and_without_its_record() {
    let Some(bench) = bench("", Then::Sleep) else { return };
    for forget in [false, true] {
        let machine = bench.boot().await;
        if forget {
            remove_all(&bench.path(RECORD_FILE)).unwrap();
        }
        let dir = bench.dir.path().to_owned();
        let reaped = tokio::task::spawn_blocking(move || reap(&dir)).await.unwrap().unwrap();
        assert_eq!(reaped, Reaped::Processes(1), "forgotten: {forget}");
        assert!(matches!(end(&*machine).await, EndReason::Crashed(_)));
    }
}

#[tokio::test]
async fn qemus_own_words_tell_why_it_gave_up() {
    let Some(bench) = bench("", Then::Sleep) else { return };
    let mut machine = bench.machine();
    machine.disks.base = Some(bench.path("missing"));
    let error = bench.qemu.prepare(machine).await.unwrap_err();
    let PrepareError::GaveUp { said } = &error else { panic!("{error:?}") };
    assert!(said.contains("missing") && said.contains("No such file"), "{said}");
    assert_eq!(reap(bench.dir.path()).unwrap(), Reaped::Nothing);
}

#[tokio::test]
async fn what_kvm_does_is_remembered() {
    let Some(bench) = bench(MARKER, Then::PowerOff) else { return };
    let home = Home::under(bench.dir.path());
    let guest = ProbeGuest {
        kernel: bench.path("kernel"),
        initramfs: bench.path("initramfs"),
        identity: "tiny".into(),
    };
    let verdict = kvm_verdict(&home, &bench.qemu, &guest).await.unwrap().verdict().clone();
    if matches!(verdict, KvmVerdict::Absent | KvmVerdict::NoPermission) {
        return banger_testkit::skipped_on_this_machine(&verdict.notice().unwrap());
    }
    assert!(!home.host_facts().join("probe").exists(), "the probe leaves nothing");
    // Whatever it was, it is not found out a second time: this guest would say nothing.
    let silent = tiny::guest("", Then::PowerOff);
    write_atomic(&guest.kernel, &silent).unwrap();
    let again = kvm_verdict(&home, &bench.qemu, &guest).await.unwrap();
    assert_eq!(again, Finding::Known(verdict));
    let other = ProbeGuest { identity: "silent".into(), ..guest };
    let verdict = kvm_verdict(&home, &bench.qemu, &other).await.unwrap().verdict().clone();
    assert!(matches!(verdict, KvmVerdict::NotUsable { .. }), "{verdict:?}");
}

/// Saves a machine that watches a byte of its memory.
async fn saved(bench: &Bench) -> SavedMachine {
    let machine = bench.boot().await;
    // It has written its text, so it is there where it watches.
    while bench.console().is_empty() {
        tokio::task::yield_now().await;
    }
    machine.pause().await.unwrap();
    reach(&*machine, RunState::Paused).await;
    let saved = SavedMachine { memory: bench.path("memory"), devices: bench.path("devices") };
    machine.save(&saved).await.unwrap();
    machine.kill().await.unwrap();
    saved
}

fn restored(bench: &Bench, name: &str, saved: &SavedMachine) -> Machine {
    let dir = bench.path(name);
    std::fs::create_dir(&dir).unwrap();
    Machine { dir, start: Start::Saved(saved.clone()), ..bench.machine() }
}

fn raise_flag(memory: &std::path::Path) {
    let file = std::fs::File::options().write(true).open(memory).unwrap();
    file.write_all_at(&[1], u64::from(tiny::FLAG)).unwrap();
}

#[tokio::test]
async fn any_number_of_machines_go_on_where_one_was_saved() {
    let Some(bench) = bench("hello\n", Then::Watch) else { return };
    let saved = saved(&bench).await;
    assert_eq!(std::fs::metadata(&saved.memory).unwrap().len(), 96 << 20);
    let before = read_bounded(&saved.memory, 1 << 30).unwrap();
    let mut watching = Vec::new();
    for name in ["a", "b"] {
        let prepared = bench.qemu.prepare(restored(&bench, name, &saved)).await.unwrap();
        watching.push(prepared.boot().await.unwrap());
    }
    assert_eq!(
        read_bounded(&saved.memory, 1 << 30).unwrap(),
        before,
        "a machine has changed the file"
    );
    // A machine that was restored can be saved like any other, and goes on.
    let again = SavedMachine { memory: bench.path("memory2"), devices: bench.path("devices2") };
    watching[0].pause().await.unwrap();
    reach(&*watching[0], RunState::Paused).await;
    watching[0].save(&again).await.unwrap();
    watching[0].resume().await.unwrap();
    reach(&*watching[0], RunState::Running).await;
    for machine in &watching {
        machine.kill().await.unwrap();
    }
    raise_flag(&again.memory);
    let prepared = bench.qemu.prepare(restored(&bench, "c", &again)).await.unwrap();
    let console = bench.path("c/console.log");
    assert_eq!(read_text(&console, 1 << 20).unwrap(), "", "it waits until it is set going");
    assert_eq!(end(&*prepared.boot().await.unwrap()).await, EndReason::PoweredOff);
    assert_eq!(read_text(&console, 1 << 20).unwrap(), "hello\n", "only what comes after");
}

#[tokio::test]
async fn a_saved_machine_that_is_damaged_is_refused_with_a_reason() {
    let Some(bench) = bench("hello\n", Then::Watch) else { return };
    let saved = saved(&bench).await;
    let devices = read_bounded(&saved.devices, 1 << 30).unwrap();
    write_atomic(&saved.devices, &devices[..devices.len() / 2]).unwrap();
    let error = bench.qemu.prepare(restored(&bench, "a", &saved)).await.unwrap_err();
    assert!(matches!(error, PrepareError::Load { .. }), "{error:?}");
    write_atomic(&saved.devices, b"garbage").unwrap();
    let error = bench.qemu.prepare(restored(&bench, "b", &saved)).await.unwrap_err();
    assert!(matches!(error, PrepareError::Load { .. }), "{error:?}");
    remove_all(&saved.devices).unwrap();
    let error = bench.qemu.prepare(restored(&bench, "c", &saved)).await.unwrap_err();
    assert!(matches!(error, PrepareError::Load { .. }), "{error:?}");
}
