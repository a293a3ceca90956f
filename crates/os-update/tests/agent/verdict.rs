//! A trial has an end, whatever else goes wrong: the machine starts again, and not for ever.

use std::fs::{self, File};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use banger_update::{Slot, State};
use os_update::agent::{AgentError, Outcome, Reboot, Restart};
use os_update::settings::Key;

use crate::appliance::{Appliance, PLAIN, Release, run};
use crate::counted;
use crate::server::Server;

/// Counts how often a machine would have started again.
#[derive(Clone, Default)]
struct Restarts(Arc<AtomicUsize>);

impl Restarts {
    fn counted(&self) -> Restart {
        let count = Arc::clone(&self.0);
        Restart::by(move || {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
    }

    fn take(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }

    /// As the health unit does it.
    fn healthcheck(&self, appliance: &Appliance) -> Result<Outcome, AgentError> {
        run(appliance.agent().restarted(self.counted()).healthcheck(PLAIN, Reboot::Now))
    }
}

/// Has 2.0.0 in its passive slot, activated.
fn activated(appliance: &mut Appliance) -> Server {
    Release::new("2.0.0").publish(&appliance.path("www"), &appliance.secret);
    let server = Server::of(&appliance.path("www"));
    appliance.set(Key::Server, &server.url);
    appliance.apply(PLAIN).unwrap();
    appliance.activate(PLAIN).unwrap();
    server
}

/// Has booted 2.0.0, which is not well.
fn sick() -> (Appliance, Server) {
    let mut appliance = Appliance::new();
    let server = activated(&mut appliance);
    assert_eq!(appliance.boot("2.0.0"), Slot::B);
    make_sick(&mut appliance);
    (appliance, server)
}

fn make_sick(appliance: &mut Appliance) {
    appliance.set(Key::HealthCommand, "/bin/false");
    appliance.set(Key::HealthDeadline, "1s");
}

#[test]
fn f03_a_verdict_that_cannot_be_written_down_ends_in_a_restart() {
    let (appliance, _server) = sick();
    let restarts = Restarts::default();
    // What is written aside cannot be made, as on a disk that is full.
    fs::create_dir(appliance.path("state/state.new")).unwrap();
    let error = restarts.healthcheck(&appliance).unwrap_err();
    assert!(matches!(error, AgentError::UnhealthyUnwritten { .. }), "{error}");
    assert_eq!((error.exit_code(), restarts.take()), (6, 1));
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
    // The old system finds out as soon as it can write.
    fs::remove_dir(appliance.path("state/state.new")).unwrap();
    assert!(matches!(restarts.healthcheck(&appliance), Err(AgentError::Unhealthy(_))));
    assert!(matches!(appliance.record().state, State::RolledBack { .. }));
    assert_eq!(restarts.take(), 0);
}

#[test]
fn f03_a_verdict_that_was_written_and_not_told_ends_in_a_restart() {
    let (appliance, _server) = sick();
    let restarts = Restarts::default();
    // One copy of the environment can be told, and the other one is not to be replaced.
    let copy = appliance.path("boot/os/env2/env");
    fs::remove_file(&copy).unwrap();
    fs::create_dir(&copy).unwrap();
    assert!(restarts.healthcheck(&appliance).is_err());
    assert_eq!(restarts.take(), 1);
}

#[test]
fn f03_a_restart_that_fails_is_tried_once_more() {
    let (appliance, _server) = sick();
    let restarts = Restarts::default();
    let (count, fails) = (restarts.counted(), Arc::new(AtomicUsize::new(1)));
    let restart = Restart::by(move || match fails.swap(0, Ordering::SeqCst) {
        0 => count.carry_out(),
        _ => Err(banger_host::HostError::system("restart", rustix::io::Errno::BUSY)),
    });
    let agent = appliance.agent().restarted(restart);
    assert!(run(agent.healthcheck(PLAIN, Reboot::Now)).is_err());
    assert_eq!(restarts.take(), 1);
}

#[test]
fn f03_a_disk_that_hangs_does_not_hold_the_verdict_up() {
    let (appliance, _server) = sick();
    let restarts = Restarts::default();
    // Whoever opens this to write waits for somebody who reads.
    let aside = appliance.path("state/state.new");
    assert!(Command::new("mkfifo").arg(&aside).status().unwrap().success());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let agent = appliance.agent().restarted(restarts.counted());
    let error = runtime.block_on(agent.healthcheck(PLAIN, Reboot::Now)).unwrap_err();
    assert!(matches!(error, AgentError::NoVerdict { .. }) && error.exit_code() == 6, "{error}");
    assert_eq!(restarts.take(), 1);
    // Whoever hangs goes on: both ends of the pipe are there, and it keeps nothing.
    let pipe = File::options().read(true).write(true).open(&aside).unwrap();
    drop(runtime);
    drop(pipe);
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
}

/// What a disk loses.
type Loss = fn(&Appliance);

/// Boots and judges until it comes to rest: what runs, and how often it started again.
fn rest(appliance: &Appliance) -> (Slot, usize) {
    let restarts = Restarts::default();
    for count in 0..10 {
        let slot = counted::boot(appliance);
        let _ = restarts.healthcheck(appliance);
        if restarts.take() == 0 {
            return (slot, count);
        }
    }
    panic!("it starts again and again: {:?}", appliance.record());
}

#[test]
fn f08_systemd_boot_starts_what_it_can_and_not_for_ever() {
    let lose_entry: Loss = |appliance: &Appliance| {
        fs::remove_file(appliance.path("boot/loader/entries/os-a.conf")).unwrap();
    };
    let lose_kernel: Loss =
        |appliance: &Appliance| fs::remove_file(appliance.path("boot/os/a/vmlinuz")).unwrap();
    let lose_state: Loss = |appliance: &Appliance| {
        fs::remove_dir_all(appliance.path("state")).unwrap();
        fs::write(appliance.path("state"), "no directory").unwrap();
    };
    let lost: [&[Loss]; 3] =
        [&[lose_kernel], &[lose_kernel, lose_state], &[lose_kernel, lose_entry]];
    for losses in lost {
        let mut appliance = counted::appliance();
        let _server = activated(&mut appliance);
        make_sick(&mut appliance);
        losses.iter().for_each(|lose| lose(&appliance));
        let (slot, restarts) = rest(&appliance);
        assert!(slot == Slot::B && restarts <= 1, "{slot}, {restarts}: there is nothing else");
    }
    // And what is lost of the new system is no reason at all.
    let mut appliance = counted::appliance();
    let _server = activated(&mut appliance);
    fs::remove_file(appliance.path("boot/os/b/vmlinuz")).unwrap();
    assert_eq!(rest(&appliance), (Slot::A, 0));
    assert_eq!(rest(&appliance), (Slot::A, 0));
    assert!(matches!(appliance.record().state, State::RolledBack { .. }));
}

#[test]
fn f11_systemd_boot_goes_back_once_it_is_told() {
    let mut appliance = counted::appliance();
    let _server = activated(&mut appliance);
    make_sick(&mut appliance);
    assert_eq!(rest(&appliance), (Slot::A, 1));
    assert_eq!(counted::entries(&appliance), ["os-a.conf", "os-b+0-0.conf"]);
}

#[test]
fn f01_an_entry_of_systemd_boot_that_a_cut_lost_is_made_again() {
    let mut appliance = counted::appliance();
    let _server = activated(&mut appliance);
    assert_eq!(rest(&appliance), (Slot::B, 0));
    let entry = appliance.path("boot/loader/entries/os-b.conf");
    // What runs and has proved itself, whether or not anybody remembers.
    for text in [None, Some("{")] {
        fs::remove_file(&entry).unwrap();
        if let Some(text) = text {
            fs::write(appliance.path("state/state.json"), text).unwrap();
        }
        assert!(matches!(appliance.healthcheck(), Ok(Outcome::Healthy(_) | Outcome::Committed(_))));
        assert_eq!(counted::entries(&appliance), ["os-a.conf", "os-b.conf"]);
        assert_eq!(rest(&appliance), (Slot::B, 0));
    }
}
