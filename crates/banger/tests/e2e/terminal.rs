//! `vm run` on a terminal.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::support::TestEnv;

/// How long a terminal may stay silent that is to show something: longer than any boot.
const PATIENCE: Timespec = Timespec { tv_sec: 600, tv_nsec: 0 };

/// Both ends of a terminal, and everything it has shown.
struct Terminal {
    user: File,
    program: OwnedFd,
    shown: String,
}

impl Terminal {
    fn new() -> Self {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let name = ptsname(&user, Vec::new()).unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let program = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap();
        let terminal = Self { user: File::from(user), program, shown: String::new() };
        terminal.resize(33, 99);
        terminal
    }

    fn resize(&self, rows: u16, cols: u16) {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.program, size).unwrap();
    }

    fn run(&self, env: &TestEnv, args: &[&str]) -> Child {
        let end = || Stdio::from(self.program.try_clone().unwrap());
        let mut command = env.command(args);
        command.env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end()).spawn().unwrap()
    }

    fn types(&mut self, keys: &str) {
        self.user.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads until the terminal has shown this behind what was waited for before.
    fn shows(&mut self, text: &str) {
        let mut buffer = [0; 4096];
        loop {
            if let Some(at) = self.shown.find(text) {
                self.shown.drain(..at + text.len());
                return;
            }
            let mut ready = [PollFd::new(&self.user, PollFlags::IN)];
            let shown = &self.shown;
            assert_ne!(poll(&mut ready, Some(&PATIENCE)).unwrap(), 0, "no {text:?} in {shown:?}");
            let n = self.user.read(&mut buffer).unwrap();
            self.shown.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.program).unwrap().local_modes.contains(LocalModes::ECHO)
    }
}

#[test]
fn a_shell_on_a_terminal() {
    let Some(env) = TestEnv::with_machines() else { return };
    let mut terminal = Terminal::new();
    let mut child = terminal.run(&env, &["vm", "run"]);
    terminal.shows("# ");
    assert!(!terminal.echoes(), "the terminal is raw while the shell has it");
    terminal.types("stty size; tty; echo $TERM\r");
    terminal.shows("33 99\r\n/dev/pts/0\r\nxterm\r\n");
    terminal.resize(44, 111);
    kill_process(Pid::from_child(&child), Signal::WINCH).unwrap();
    terminal.types("until stty size | grep -q 44; do sleep 0.1; done; echo re'sized'\r");
    terminal.shows("resized");
    // What is typed while there is no prompt is echoed by the terminal at once, and thrown away
    // by Ctrl-C.
    terminal.shows("# ");
    // Ctrl-C is a key that the shell's own terminal understands. Until a command itself says that
    // it runs, the shell may still be in front, and the key means nothing to it.
    terminal.types("sh -c 'echo in\"\"front; exec sleep 1000'\r");
    terminal.shows("infront\r\n");
    terminal.types("\u{3}");
    terminal.shows("^C");
    terminal.shows("# ");
    terminal.types("exit 5\r");
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert!(terminal.echoes(), "the terminal is as it was");
    env.assert_nothing_left();
}

#[test]
fn the_terminal_is_restored_when_the_owner_is_told_to_end() {
    let Some(env) = TestEnv::with_machines() else { return };
    let mut terminal = Terminal::new();
    let mut child = terminal.run(&env, &["vm", "run", "-it", "--", "sh", "-c", "echo ready; cat"]);
    terminal.shows("ready");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(terminal.echoes());
    env.assert_nothing_left();
}
