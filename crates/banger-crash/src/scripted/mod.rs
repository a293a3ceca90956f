//! A virtual machine monitor without a machine: to the daemon it is QEMU, and its guest is a few
//! lines in the same process that speak the link as the agent does.
//!
//! It starts in a millisecond and boots in as many as it is told, so a daemon can be killed under
//! it a thousand times in the time that a hundred real boots take.

mod guest;
pub(crate) mod marks;
pub(crate) mod memory;
mod monitor;

use std::ffi::OsString;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use memory::Memory;
use monitor::Events;

/// The numbers under which it inherits its listening sockets, as QEMU does.
const QMP_FD: RawFd = 4;
const LINK_FD: RawFd = 5;
/// Asks a guest which life it is in and how often it has written, and whether its memory and its
/// disk fit each other. A life begins with a boot, or with what everybody is made from, and goes on
/// in whatever is made of its memory. A real guest and a made up one answer alike.
pub const LIFE_SCRIPT: &str = "\
set -e; life=/dev/shm/life; here=/dev/shm/written; disk=/var/written
[ -s $life ] || cat /proc/sys/kernel/random/uuid > $life
last=$(cat $disk 2>&- || echo 0); known=$(cat $here 2>&- || echo $last); next=$((last + 1))
echo $next > $disk; echo $next > $here; sync
if [ $last = $known ]; then fit=fits; else fit=\"memory has $known and the disk $last\"; fi
echo $(cat $life) $next $fit";
/// Names the longest time, in milliseconds, that its guest takes to boot, and to power off.
pub const DELAY_VARIABLE: &str = "BANGER_SCRIPTED_DELAY_MS";
/// Between two writes of a guest that has nothing else to do.
const TICK: Duration = Duration::from_millis(2);
/// What it says when it is asked for its version: no real one's, so that nobody takes what is
/// found out about the one to be true of the other.
const VERSION: &str = "QEMU emulator version 99.0.0 (scripted)";
/// What a kernel is told that is to try KVM. There is none here.
const PROBE: &str = "banger.probe";

/// How the machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// It waits to be set going.
    Prelaunch,
    Running,
    Paused,
    /// It has ended, and the process is about to.
    Over,
}

/// What the parts of the monitor share.
struct Machine {
    status: Mutex<Status>,
    changed: Condvar,
    events: Events,
    delay: Duration,
    /// Between two writes of a guest that has nothing else to do, if it writes then.
    tick: Option<Duration>,
    origin: Origin,
    memory: Memory,
}

/// What the machine begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// A kernel.
    Kernel,
    /// What was saved of another.
    Saved,
}

impl Machine {
    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> Status {
        *self.lock()
    }

    fn set(&self, status: Status) {
        *self.lock() = status;
        self.changed.notify_all();
    }

    fn wait_for(&self, wanted: Status) {
        let mut status = self.lock();
        while *status != wanted {
            status = self.changed.wait(status).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Does something that a guest does, as a whole and only while the machine runs. A machine
    /// that is over does nothing any more.
    fn execute<T>(&self, work: impl FnOnce(&Memory) -> io::Result<T>) -> io::Result<T> {
        let mut status = self.lock();
        while *status != Status::Running {
            if *status == Status::Over {
                return Err(io::Error::other("the machine is over"));
            }
            status = self.changed.wait(status).unwrap_or_else(PoisonError::into_inner);
        }
        work(&self.memory)
    }

    /// Ends the machine for a reason that QEMU would give.
    fn end(&self, reason: &str) {
        self.events.tell("SHUTDOWN", &serde_json::json!({ "guest": true, "reason": reason }));
        self.set(Status::Over);
    }
}

/// Runs the program with these arguments, the first of them behind its own name.
pub fn run(args: &[OsString], longest_delay: Duration) -> ExitCode {
    if args.iter().any(|arg| arg == "--version") {
        say(&mut io::stdout(), VERSION);
        return ExitCode::SUCCESS;
    }
    if args.iter().any(|arg| arg.to_string_lossy().split(' ').any(|word| word == PROBE)) {
        say(&mut io::stderr(), "scripted: there is no KVM here");
        return ExitCode::FAILURE;
    }
    match serve(args, longest_delay) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&mut io::stderr(), &format!("scripted: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn say(to: &mut impl io::Write, what: &str) {
    let _ = writeln!(to, "{what}");
}

fn serve(args: &[OsString], longest_delay: Duration) -> io::Result<()> {
    let (qmp, link) = (inherited(QMP_FD).into(), inherited(LINK_FD).into());
    // One that is restored has booted already.
    let (origin, delay) = match option(args, "-incoming") {
        Some(_) => (Origin::Saved, Duration::ZERO),
        None => (Origin::Kernel, drawn(longest_delay)),
    };
    let machine = Arc::new(Machine {
        status: Mutex::new(Status::Prelaunch),
        changed: Condvar::new(),
        events: Events::default(),
        delay,
        // Who measures wants neither delays nor guests that are busy.
        tick: (longest_delay > Duration::ZERO).then_some(TICK),
        origin,
        memory: Memory::of(args)?,
    });
    let start = |name: &str, serve: fn(&UnixListener, &Machine), listener: UnixListener| {
        let machine = machine.clone();
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread.spawn(move || serve(&listener, &machine)).map(drop)
    };
    start("qmp", monitor::serve, qmp)?;
    start("guest", guest::serve, link)?;
    machine.wait_for(Status::Over);
    Ok(())
}

fn option<'a>(args: &'a [OsString], name: &str) -> Option<&'a str> {
    let at = args.iter().position(|arg| arg == name)?;
    args.get(at + 1)?.to_str()
}

/// Some time up to the longest: another for each process.
fn drawn(longest: Duration) -> Duration {
    let mut draw = crate::draw::Draw::new(u64::from(std::process::id()));
    Duration::from_micros(draw.below(u64::try_from(longest.as_micros()).unwrap_or(u64::MAX)))
}

#[expect(unsafe_code, reason = "an inherited descriptor is known by its number only")]
fn inherited(number: RawFd) -> OwnedFd {
    // SAFETY: the process begins with these descriptors open, and nothing else takes them over.
    // JUSTIFICATION: there is no other way to take over a descriptor.
    unsafe { OwnedFd::from_raw_fd(number) }
}
